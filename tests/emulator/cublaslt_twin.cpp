// The part of cuBLASLt that the library uses, on the CPU: MINFERENCE_CUBLASLT names the emulated library itself. Enumeration
// values are cuBLASLt's. MINFERENCE_EMULATED_CUBLASLT=12.8 is one without vectors of scales.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "../core/e4m3.h"
#include "include/cuda_bf16.h"
#include "include/cuda_fp16.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Type { kR32F = 0, kR16F = 2, kR16BF = 14, kR8FE4M3 = 28 };
enum Status { kSuccess = 0, kInvalidValue = 7, kNotSupported = 15 };

struct Desc {
  int transpose_a = 0, transpose_b = 0, epilogue = 1, bias_type = -1;
  const void* bias = nullptr;
  const float *a_scales = nullptr, *b_scales = nullptr;
  int a_scale_mode = 0, b_scale_mode = 0;
  int8_t fast_sums = 0;

  bool outer() const { return a_scale_mode == 3; }
};
struct Layout {  // column-major, columns `stride` elements apart
  int type;
  int64_t rows, columns, stride;
};

float load(const void* data, int64_t i, int type) {
  if (type == kR32F) return static_cast<const float*>(data)[i];
  if (type == kR16F) return __half2float(static_cast<const __half*>(data)[i]);
  if (type == kR8FE4M3) return mi::float_from_e4m3(static_cast<const uint8_t*>(data)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
}
void store(void* data, int64_t i, int type, float x) {
  if (type == kR32F) static_cast<float*>(data)[i] = x;
  else if (type == kR16F) static_cast<__half*>(data)[i] = __float2half_rn(x);
  else static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(x);
}

std::vector<float> floats(const void* data, const Layout& l) {
  std::vector<float> all(size_t(l.rows * l.columns));
  for (int64_t c = 0; c < l.columns; c++)
    for (int64_t r = 0; r < l.rows; r++) all[size_t(c * l.rows + r)] = load(data, c * l.stride + r, l.type);
  return all;
}

// Operands of e4m3: tensor cores take sizes and strides of whole 16 bytes.
bool supported_e4m3(const Desc& d, const Layout& a, const Layout& b, const Layout& out) {
  const char* version = std::getenv("MINFERENCE_EMULATED_CUBLASLT");
  const bool old = version && !std::strcmp(version, "12.8");
  const bool scales = d.a_scale_mode == 0 && d.b_scale_mode == 0
                          ? !d.a_scales && !d.b_scales
                          : !old && d.outer() && d.b_scale_mode == 3 && d.a_scales && d.b_scales;
  return scales && out.type != kR8FE4M3 && a.rows % 16 == 0 && a.columns % 16 == 0 && a.stride % 16 == 0 &&
         b.stride % 16 == 0;
}

bool supported(const Desc& d, const Layout& a, const Layout& b, const Layout& out) {
  const bool narrow = a.type == kR8FE4M3;
  if (narrow ? !supported_e4m3(d, a, b, out) : d.a_scale_mode || d.b_scale_mode || d.fast_sums) return false;
  return d.transpose_a == 1 && d.transpose_b == 0 && a.type == b.type && (narrow || out.type == a.type || out.type == kR32F) &&
         a.rows == b.rows && out.rows == a.columns && out.columns == b.columns && a.stride >= a.rows &&
         b.stride >= b.rows && out.stride >= out.rows;
}

}  // namespace

API int cublasLtCreate(void** handle) { return *handle = new int, kSuccess; }
API int cublasLtDestroy(void* handle) { return delete static_cast<int*>(handle), kSuccess; }

API int cublasLtMatmulDescCreate(void** desc, int, int) { return *desc = new Desc, kSuccess; }
API int cublasLtMatmulDescDestroy(void* desc) { return delete static_cast<Desc*>(desc), kSuccess; }
API int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
  auto& d = *static_cast<Desc*>(desc);
  const auto set = [&](auto& field) {
    if (bytes != sizeof field) return int(kInvalidValue);
    std::memcpy(&field, value, bytes);
    return int(kSuccess);
  };
  switch (attribute) {
    case 3: return set(d.transpose_a);
    case 4: return set(d.transpose_b);
    case 7: return set(d.epilogue);
    case 8: return set(d.bias);
    case 17: return set(d.a_scales);
    case 18: return set(d.b_scales);
    case 25: return set(d.fast_sums);
    case 26: return set(d.bias_type);
    case 31: return set(d.a_scale_mode);
    case 32: return set(d.b_scale_mode);
    default: return kInvalidValue;
  }
}

API int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  return *layout = new Layout{type, int64_t(rows), int64_t(columns), stride}, kSuccess;
}
API int cublasLtMatrixLayoutDestroy(void* layout) { return delete static_cast<Layout*>(layout), kSuccess; }

API int cublasLtMatmulPreferenceCreate(void** preference) { return *preference = new int, kSuccess; }
API int cublasLtMatmulPreferenceDestroy(void* preference) { return delete static_cast<int*>(preference), kSuccess; }
API int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return kSuccess; }

API int cublasLtMatmulAlgoGetHeuristic(void*, void* desc, void* a, void* b, void*, void* d, void*, int, void* results,
                                       int* found) {
  const bool can = supported(*static_cast<Desc*>(desc), *static_cast<Layout*>(a), *static_cast<Layout*>(b),
                             *static_cast<Layout*>(d));
  *found = can ? 1 : 0;
  if (can) std::memset(results, 0, 96);
  return can ? kSuccess : kNotSupported;
}

// D = alpha A^T B + beta C (+ bias of each row).
API int cublasLtMatmul(void*, void* desc, const float* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                       const float* beta, const void* c, void* c_layout, void* d, void* d_layout, const void*, void*,
                       size_t, void* stream) {
  emu::catch_up(stream);
  const auto& op = *static_cast<Desc*>(desc);
  const auto &al = *static_cast<Layout*>(a_layout), &bl = *static_cast<Layout*>(b_layout),
             &cl = *static_cast<Layout*>(c_layout), &dl = *static_cast<Layout*>(d_layout);
  if (!supported(op, al, bl, dl)) return kNotSupported;
  const std::vector<float> as = floats(a, al), bs = floats(b, bl);
  const int64_t depth = al.rows;
  const auto rows = [&](int64_t first, int64_t end) {
    for (int64_t j = 0; j < dl.columns; j++)
      for (int64_t i = first; i < end; i++) {
        const float *x = &as[size_t(i * depth)], *y = &bs[size_t(j * depth)];
        float sums[16] = {};  // as wide as the machine's vectors
        int64_t k = 0;
        for (; k + 16 <= depth; k += 16)
          for (int l = 0; l < 16; l++) sums[l] += x[k + l] * y[k + l];
        float sum = 0;
        for (; k < depth; k++) sum += x[k] * y[k];
        for (float s : sums) sum += s;
        sum *= *alpha;
        if (op.outer()) sum *= op.a_scales[i] * op.b_scales[j];
        if (op.epilogue == 4) sum += load(op.bias, i, op.bias_type);
        if (*beta != 0) sum += *beta * load(c, j * cl.stride + i, cl.type);
        store(d, j * dl.stride + i, dl.type, sum);
      }
  };
  std::thread other(rows, 0, dl.rows / 2);
  rows(dl.rows / 2, dl.rows);
  other.join();
  return kSuccess;
}
