// Memory, streams and events of the emulated GPU. Device memory holds NaNs until it is written, and a page that cannot
// be touched follows each allocation.
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "include/cuda.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kTotalBytes = size_t(16) << 30, kPage = 4096, kAlignment = 256;

struct Allocation {
  char* base;
  size_t mapped, counted;
};
std::mutex mutex;
std::map<void*, Allocation> allocations;
size_t used = 0;

size_t round_up(size_t a, size_t b) { return (a + b - 1) / b * b; }

// A device's memory, or the host's if not `counted`.
cudaError_t allocate(void** p, size_t bytes, bool counted) {
  std::lock_guard<std::mutex> lock(mutex);
  const size_t size = round_up(bytes ? bytes : 1, kAlignment), pages = round_up(size, kPage);
  if (counted && used + size > kTotalBytes) return cudaErrorMemoryAllocation;
  void* base = mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return cudaErrorMemoryAllocation;
  mprotect(static_cast<char*>(base) + pages, kPage, PROT_NONE);
  char* data = static_cast<char*>(base) + pages - size;
  std::memset(data, 0xff, size);
  allocations[data] = {static_cast<char*>(base), pages + kPage, counted ? size : 0};
  used += allocations[data].counted;
  *p = data;
  return cudaSuccess;
}

cudaError_t release(void* p) {
  if (!p) return cudaSuccess;
  std::lock_guard<std::mutex> lock(mutex);
  const auto at = allocations.find(p);
  if (at == allocations.end()) emu::fatal("freeing %p, which is not allocated", p);
  munmap(at->second.base, at->second.mapped);
  used -= at->second.counted;
  allocations.erase(at);
  return cudaSuccess;
}

}  // namespace

using Nodes = std::vector<std::function<void()>>;
struct CUgraph_st {
  Nodes nodes;
};
struct CUgraphExec_st {
  Nodes nodes;
};
struct CUstream_st {
  CUgraph_st* graph = nullptr;  // being captured
  std::deque<std::function<void()>> late;
  uint64_t queued = 0;  // of `late`, since the beginning
};
struct CUmemPoolHandle_st {};
struct CUevent_st {
  Clock::time_point at;
  CUstream_st* stream = nullptr;
  uint64_t behind = 0;  // the stream's `queued`
};

namespace {

std::recursive_mutex late_mutex;  // of all streams

// Runs the first `count` that the stream was ever given.
void run_late(CUstream_st* stream, uint64_t count) {
  std::lock_guard<std::recursive_mutex> lock(late_mutex);
  while (stream && !stream->late.empty() && stream->queued - stream->late.size() < count) {
    const std::function<void()> work = std::move(stream->late.front());
    stream->late.pop_front();
    work();
  }
}

void add_late(CUstream_st* stream, std::function<void()> work) {
  std::lock_guard<std::recursive_mutex> lock(late_mutex);
  stream->late.push_back(std::move(work));
  stream->queued++;
}

}  // namespace

const char* cudaGetErrorString(cudaError_t code) {
  return code == cudaErrorMemoryAllocation ? "out of memory" : "an emulated error";
}
const char* cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::strcpy(p->name, "emulated GPU");
  p->major = 9;
  p->multiProcessorCount = 3;  // uneven on purpose
  p->totalGlobalMem = kTotalBytes;
  p->sharedMemPerBlockOptin = 227 << 10;
  p->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard<std::mutex> lock(mutex);
  *total = kTotalBytes;
  *free = kTotalBytes - used;
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  *function = nullptr;
  if (!std::strcmp(name, "cuStreamWriteValue64")) *function = reinterpret_cast<void*>(&cuStreamWriteValue64);
  if (!std::strcmp(name, "cuTensorMapEncodeTiled")) *function = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
  *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

CUresult cuStreamWriteValue64(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned) {
  emu::catch_up(stream);
  *reinterpret_cast<volatile uint64_t*>(address) = value;
  return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill) {
  bool valid = rank == 3 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && box[0] * 2 == 128 && box[1] <= 256;
  for (int i = 0; i < 2; i++) valid = valid && strides[i] % 16 == 0 && strides[i] < uint64_t(1) << 40;
  for (int i = 0; i < 3; i++) valid = valid && sizes[i] > 0 && sizes[i] <= uint64_t(1) << 32;
  if (!valid) return CUDA_ERROR_INVALID_VALUE;
  *map = {};
  map->data = static_cast<const char*>(data);
  for (int i = 0; i < 3; i++) map->sizes[i] = sizes[i], map->box[i] = box[i];
  for (int i = 0; i < 2; i++) map->strides[i] = strides[i];
  return CUDA_SUCCESS;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = new CUstream_st, cudaSuccess; }
// What is left runs; events may still name the stream.
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return emu::catch_up(stream), cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return emu::catch_up(stream), cudaSuccess; }

void emu::catch_up(const void* stream) {
  run_late(static_cast<CUstream_st*>(const_cast<void*>(stream)), UINT64_MAX);
}

bool emu::captured(const void* stream, const std::function<void()>& work) {
  CUgraph_st* const graph = stream ? static_cast<const CUstream_st*>(stream)->graph : nullptr;
  if (graph) graph->nodes.push_back(work);
  else catch_up(stream);
  return graph != nullptr;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->graph) return cudaErrorInvalidValue;
  return stream->graph = new CUgraph_st, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->graph;
  return stream->graph = nullptr, *graph ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* runnable, cudaGraph_t graph, unsigned long long) {
  return *runnable = new CUgraphExec_st{graph->nodes}, cudaSuccess;
}
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t runnable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo*) {
  const Nodes &was = runnable->nodes, &is = graph->nodes;
  bool same = was.size() == is.size();
  for (size_t i = 0; same && i < is.size(); i++) same = was[i].target_type() == is[i].target_type();
  if (!same) return cudaErrorGraphExecUpdateFailure;
  return runnable->nodes = is, cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t runnable, cudaStream_t stream) {
  emu::catch_up(stream);
  for (const auto& node : runnable->nodes) node();
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t runnable) { return delete runnable, cudaSuccess; }

cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = new CUevent_st{Clock::now()}, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  std::lock_guard<std::recursive_mutex> lock(late_mutex);
  *event = {Clock::now(), stream, stream ? stream->queued : 0};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return run_late(event->stream, event->behind), cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const CUevent_st now = *event;
  return add_late(stream, [now] { run_late(now.stream, now.behind); }), cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t stop) {
  *ms = std::chrono::duration<float, std::milli>(stop->at - start->at).count();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) { return allocate(p, bytes, true); }
cudaError_t cudaFree(void* p) { return release(p); }
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return allocate(p, bytes, false); }
cudaError_t cudaFreeHost(void* p) { return release(p); }
cudaError_t cudaMemset(void* p, int value, size_t bytes) { return std::memset(p, value, bytes), cudaSuccess; }
cudaError_t cudaMemcpy(void* dst, const void* src, size_t bytes, cudaMemcpyKind) {
  return std::memmove(dst, src, bytes), cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const auto work = [=] { cudaMemcpy(dst, src, bytes, kind); };
  if (stream->graph) return stream->graph->nodes.push_back(work), cudaSuccess;
  return add_late(stream, work), cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  return *pool = new CUmemPoolHandle_st, cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) { return delete pool, cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  std::lock_guard<std::mutex> lock(mutex);
  *static_cast<uint64_t*>(value) = used;
  return cudaSuccess;
}
cudaError_t cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t, cudaStream_t) {
  return allocate(p, bytes, true);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) { return emu::catch_up(stream), release(p); }
