#include "tma.h"

#include <cuda_runtime_api.h>

#include "status.h"

namespace mi::cuda {

namespace {

// Found at run time: the library does not link libcuda.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);
EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t code =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    return code == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(f) : nullptr;
  }();
  return function;
}

}  // namespace

mi_status make_tensor_map(const void* data, int32_t dtype, int64_t heads, int64_t rows, int64_t columns,
                          int64_t head_stride, int64_t row_stride, CUtensorMap* map, mi_error* error,
                          int box_rows) {
  const EncodeTiled encode = encode_tiled();
  if (!encode) return fail(error, MI_UNSUPPORTED_DEVICE, "the driver offers no tensor maps");
  // The stride of a dimension of one is never used, but has to be valid.
  const int64_t row_bytes = rows > 1 ? row_stride : columns * 2, head_bytes = heads > 1 ? head_stride : row_bytes;
  const cuuint64_t sizes[3] = {cuuint64_t(columns), cuuint64_t(rows), cuuint64_t(heads)};
  const cuuint64_t strides[2] = {cuuint64_t(row_bytes), cuuint64_t(head_bytes)};
  const cuuint32_t box[3] = {kBoxColumns, cuuint32_t(box_rows), 1}, steps[3] = {1, 1, 1};
  const CUresult code =
      encode(map, dtype == MI_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3,
             const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code == CUDA_SUCCESS) return MI_OK;
  fail(error, MI_CUDA, "tensor map of [%lld, %lld, %lld], strides %lld and %lld bytes: driver error %d",
       (long long)heads, (long long)rows, (long long)columns, (long long)head_bytes, (long long)row_bytes, int(code));
  return MI_CUDA;
}

}  // namespace mi::cuda
