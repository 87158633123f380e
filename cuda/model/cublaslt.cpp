#include "cublaslt.h"

#include <dlfcn.h>
#include <glob.h>

#include <cstdlib>
#include <cstring>
#include <tuple>
#include <vector>

#include "../core/status.h"

namespace mi::cuda {

namespace {

// cublasLt.h and library_types.h, CUDA 12 and 13.
enum : int { kR32F = 0, kR16F = 2, kR16BF = 14, kR8FE4M3 = 28 };               // cudaDataType
enum : int { kCompute32F = 68, kCompute32FFastTf32 = 77 };                     // cublasComputeType_t
enum : int { kDescTransA = 3, kDescTransB = 4, kDescEpilogue = 7, kDescBiasPointer = 8, kDescScalesA = 17,
             kDescScalesB = 18, kDescFastSums = 25, kDescBiasType = 26, kDescScaleModeA = 31, kDescScaleModeB = 32 };
enum : int { kPreferenceWorkspace = 1, kPreferenceAlignA = 5, kPreferenceAlignB = 6, kPreferenceAlignC = 7,
             kPreferenceAlignD = 8 };
enum : int { kTranspose = 1, kEpilogueDefault = 1, kEpilogueBias = 4 };
enum : int { kScaleOuterVector = 3 };                      // cublasLtMatmulMatrixScale_t: a scale per row and per column
enum : int { kStatusInvalidValue = 7, kStatusNotSupported = 15 };  // cublasStatus_t

struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

int data_type(int32_t dtype) {
  switch (dtype) {
    case MI_F32: return kR32F;
    case MI_F16: return kR16F;
    case MI_E4M3: return kR8FE4M3;
    default: return kR16BF;
  }
}

}  // namespace

struct CublasLt::Api {
  int (*create)(void** handle);
  int (*destroy)(void* handle);
  int (*desc_create)(void** desc, int compute, int scale_type);
  int (*desc_destroy)(void* desc);
  int (*desc_set)(void* desc, int attribute, const void* value, size_t bytes);
  int (*layout_create)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride);
  int (*layout_destroy)(void* layout);
  int (*preference_create)(void** preference);
  int (*preference_destroy)(void* preference);
  int (*preference_set)(void* preference, int attribute, const void* value, size_t bytes);
  int (*heuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int wanted,
                   Heuristic* results, int* found);
  int (*matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout, const void* b,
                void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                const void* algorithm, void* workspace, size_t workspace_bytes, CUstream_st* stream);

  bool bind(void* library) {
    bool whole = true;
    const auto find = [&](auto& function, const char* name) {
      void* symbol = dlsym(library, name);
      std::memcpy(&function, &symbol, sizeof symbol);
      whole = whole && symbol;
    };
    find(create, "cublasLtCreate");
    find(destroy, "cublasLtDestroy");
    find(desc_create, "cublasLtMatmulDescCreate");
    find(desc_destroy, "cublasLtMatmulDescDestroy");
    find(desc_set, "cublasLtMatmulDescSetAttribute");
    find(layout_create, "cublasLtMatrixLayoutCreate");
    find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(preference_create, "cublasLtMatmulPreferenceCreate");
    find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(matmul, "cublasLtMatmul");
    return whole;
  }
};

namespace {

void add_matches(const std::string& pattern, std::vector<std::string>* paths) {
  glob_t found{};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0)
    for (size_t i = found.gl_pathc; i-- > 0;) paths->push_back(found.gl_pathv[i]);  // newest version first
  globfree(&found);
}

// In the order they are tried. A name without a slash goes through the loader's own search.
std::vector<std::string> candidates() {
  if (const char* chosen = std::getenv("MINFERENCE_CUBLASLT"); chosen && *chosen) return {chosen};
  std::vector<std::string> paths = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  const char* cuda_home = std::getenv("CUDA_HOME");
  for (const std::string root : {cuda_home ? cuda_home : "/usr/local/cuda", "/usr/local/cuda", "/opt/cuda"}) {
    add_matches(root + "/lib64/libcublasLt.so.1[23]", &paths);
    add_matches(root + "/targets/*/lib/libcublasLt.so.1[23]", &paths);
  }
  // Python's nvidia packages: beside every interpreter on PATH, and the system's.
  std::vector<std::string> prefixes = {"/usr", "/usr/local"};
  if (const char* environment = std::getenv("VIRTUAL_ENV")) prefixes.insert(prefixes.begin(), environment);
  for (const char* path = std::getenv("PATH"); path && *path;) {
    const char* end = std::strchr(path, ':');
    const std::string entry(path, end ? size_t(end - path) : std::strlen(path));
    if (entry.size() > 4 && entry.compare(entry.size() - 4, 4, "/bin") == 0)
      prefixes.push_back(entry.substr(0, entry.size() - 4));
    path = end ? end + 1 : nullptr;
  }
  for (const std::string& prefix : prefixes)
    for (const char* folder : {"site-packages", "dist-packages"})
      add_matches(prefix + "/lib/python3*/" + folder + "/nvidia/*/lib/libcublasLt.so.1[23]", &paths);
  return paths;
}

}  // namespace

bool CublasLt::Key::operator<(const Key& o) const {
  return std::tie(m, n, k, x_stride, w_stride, y_stride, operand_dtype, y_dtype, bias, tf32, scaled,
                  alignment) <
         std::tie(o.m, o.n, o.k, o.x_stride, o.w_stride, o.y_stride, o.operand_dtype, o.y_dtype, o.bias,
                  o.tf32, o.scaled, o.alignment);
}

CublasLt::~CublasLt() {
  for (auto& [key, plan] : plans_) free_plan(&plan);
  if (handle_) api_->destroy(handle_);
  delete api_;  // the library itself stays loaded: it may have threads and exit handlers
}

mi_status CublasLt::open(mi_error* error) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!searched_) {
    searched_ = true;
    for (const std::string& path : candidates()) {
      searched_places_ += (searched_places_.empty() ? "" : ", ") + path;
      void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!library) continue;
      Api api{};
      if (!api.bind(library) || api.create(&handle_) != 0) {
        searched_places_ += " (unusable)";
        handle_ = nullptr;
        continue;
      }
      api_ = new Api(api);
      break;
    }
  }
  if (handle_) return MI_OK;
  return fail(error, MI_UNSUPPORTED,
              "cuBLASLt not found; set MINFERENCE_CUBLASLT to libcublasLt.so. Tried %s",
              searched_places_.c_str());
}

void CublasLt::free_plan(Plan* plan) {
  if (plan->operation) api_->desc_destroy(plan->operation);
  for (void* layout : {plan->x, plan->w, plan->y})
    if (layout) api_->layout_destroy(layout);
  *plan = {};
}

// Tells an operation where its vectors are.
int CublasLt::point(const Plan& plan, const Gemm& g) {
  int code = 0;
  const auto set = [&](int attribute, const void* const& pointer) {
    if (!code) code = api_->desc_set(plan.operation, attribute, &pointer, sizeof pointer);
  };
  if (g.bias) set(kDescBiasPointer, g.bias);
  if (g.w_scales) {
    set(kDescScalesA, g.w_scales);
    set(kDescScalesB, g.x_scales);
  }
  return code;
}

// Row-major y = x w^T is column-major y^T[n x m] = w^T[n x k] x[k x m], with w stored k x n and transposed. Returns
// cuBLASLt's status; a plan without operation if that is not 0.
int CublasLt::make_plan(const Key& key, const Gemm& g, uint64_t workspace_bytes, Plan* plan) {
  const bool f32 = key.operand_dtype == MI_F32;
  const int operand = data_type(key.operand_dtype), result = data_type(key.y_dtype);
  const int transpose = kTranspose, epilogue = key.bias ? kEpilogueBias : kEpilogueDefault, outer = kScaleOuterVector;
  const int8_t fast = 1;  // sums of fewer bits than f32's, far more than e4m3's, at twice the rate
  void* preference = nullptr;
  Heuristic best{};
  int found = 0, code = 0;
  const auto run = [&](int c) { code = code ? code : c; };
  run(api_->desc_create(&plan->operation, f32 && key.tf32 ? kCompute32FFastTf32 : kCompute32F, kR32F));
  const auto set = [&](int attribute, const auto& value) {
    if (!code) run(api_->desc_set(plan->operation, attribute, &value, sizeof value));
  };
  set(kDescTransA, transpose);
  set(kDescEpilogue, epilogue);
  if (key.bias) set(kDescBiasType, result);
  if (key.operand_dtype == MI_E4M3) set(kDescFastSums, fast);
  if (key.scaled) {
    set(kDescScaleModeA, outer);
    set(kDescScaleModeB, outer);
  }
  if (!code) run(point(*plan, g));  // the heuristic asks for the scales
  if (!code) run(api_->layout_create(&plan->w, operand, uint64_t(key.k), uint64_t(key.n), key.w_stride));
  if (!code) run(api_->layout_create(&plan->x, operand, uint64_t(key.k), uint64_t(key.m), key.x_stride));
  if (!code) run(api_->layout_create(&plan->y, result, uint64_t(key.n), uint64_t(key.m), key.y_stride));
  if (!code) run(api_->preference_create(&preference));
  if (!code)
    run(api_->preference_set(preference, kPreferenceWorkspace, &workspace_bytes, sizeof workspace_bytes));
  for (const int attribute : {kPreferenceAlignA, kPreferenceAlignB, kPreferenceAlignC, kPreferenceAlignD})
    if (!code) run(api_->preference_set(preference, attribute, &key.alignment, sizeof key.alignment));
  if (!code)
    run(api_->heuristic(handle_, plan->operation, plan->w, plan->x, plan->y, plan->y, preference, 1, &best,
                        &found));
  if (preference) api_->preference_destroy(preference);
  if (code || found == 0) {
    free_plan(plan);
    return code ? code : int(kStatusNotSupported);
  }
  std::memcpy(plan->algorithm, best.algorithm, sizeof plan->algorithm);
  plan->workspace_bytes = best.workspace_bytes;
  return 0;
}

mi_status CublasLt::multiply(const Gemm& g, void* workspace, uint64_t workspace_bytes, CUstream_st* stream,
                             mi_error* error) {
  const mi_status status = open(error);
  if (status != MI_OK) return status;
  uintptr_t bits = 256;  // the heuristic distinguishes no more
  for (const void* p : {g.x, g.w, static_cast<const void*>(g.y)}) bits |= reinterpret_cast<uintptr_t>(p);
  const Key key{g.m,
                g.n,
                g.k,
                g.x_stride,
                g.w_stride,
                g.y_stride,
                g.operand_dtype,
                g.y_dtype,
                g.bias != nullptr,
                g.tf32,
                g.w_scales != nullptr,
                uint32_t(bits & -bits)};
  std::lock_guard<std::mutex> lock(mutex_);
  const auto unsupported = [&](int code) {
    return fail(error, MI_UNSUPPORTED, "cuBLASLt has no product of %lld x %lld x %lld, dtypes %d and %d (status %d)",
                (long long)g.m, (long long)g.n, (long long)g.k, g.operand_dtype, g.y_dtype, code);
  };
  const auto [at, is_new] = plans_.try_emplace(key);
  Plan& plan = at->second;
  int code = is_new ? make_plan(key, g, workspace_bytes, &plan) : 0;
  if (!plan.operation) return unsupported(code ? code : int(kStatusNotSupported));
  const float alpha = 1, beta = g.accumulate ? 1 : 0;
  code = point(plan, g);
  if (!code)
    code = api_->matmul(handle_, plan.operation, &alpha, g.w, plan.w, g.x, plan.x, &beta, g.y, plan.y, g.y, plan.y,
                        plan.algorithm, workspace, workspace_bytes, stream);
  if (code == 0) return MI_OK;
  if (key.scaled && (code == kStatusInvalidValue || code == kStatusNotSupported)) {
    // Scales that the heuristic accepts may be refused by the product alone.
    free_plan(&plan);
    return unsupported(code);
  }
  return fail(error, MI_CUDA, "linear: cuBLASLt status %d for %lld x %lld x %lld", code, (long long)g.m,
              (long long)g.n, (long long)g.k);
}

}  // namespace mi::cuda
