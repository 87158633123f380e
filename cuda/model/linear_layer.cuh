// A linear layer, y = x w^T (+ bias) (+ y), as the kernels see it.
#pragma once
#include "elements.cuh"

namespace mi::cuda {

struct LinearLayer {
  DeviceView x, w, y;
  const float *bias, *w_scales;  // of each output feature; null: none
  int rows, in_features, out_features;
  bool accumulate;

  // Stores what becomes of a sum of products.
  __device__ void finish(int64_t row, int feature, float sum) const {
    if (w_scales) sum *= w_scales[feature];
    if (bias) sum += bias[feature];
    char* const to = y.row(0, row);
    if (accumulate) sum += load_element(to, feature, y.dtype);
    store_element(to, feature, y.dtype, sum);
  }
};

inline LinearLayer linear_layer(const LinearArgs& a) {
  return {device_view(a.x, 1, a.rows, a.in_features),
          device_view(a.w, 1, a.out_features, a.in_features),
          device_view(a.y, 1, a.rows, a.out_features),
          a.bias,
          a.w_scales,
          a.rows,
          a.in_features,
          a.out_features,
          a.accumulate != 0};
}

}  // namespace mi::cuda
