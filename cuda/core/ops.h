// Operation arguments after validation: raw pointers, checked shapes. Both backends implement the
// functions at the end; core/validate.cpp is the only code that turns parameters into these.
#pragma once
#include <cstdint>

#include "../include/minference.h"

namespace mi {

// [heads, rows, dim] with contiguous dim. `data` is null when the view is absent.
struct View {
  void* data = nullptr;
  int64_t head_stride = 0, row_stride = 0;  // elements
  int32_t dtype = MI_F32;
  explicit operator bool() const { return data != nullptr; }
};

// Bytes of `elements` of a dtype; block formats round down, so check divisibility first.
constexpr int64_t block_elements(int32_t dtype) {
  switch (dtype) {
    case MI_Q8_0: case MI_Q4_0: case MI_Q4_1: return 32;
    case MI_Q4_K: case MI_Q6_K: return 256;
    default: return 1;
  }
}
constexpr int64_t block_bytes(int32_t dtype) {
  switch (dtype) {
    case MI_F32: case MI_I32: case MI_U32: return 4;
    case MI_F16: case MI_BF16: return 2;
    case MI_U8: case MI_E4M3: return 1;
    case MI_Q8_0: return 34;
    case MI_Q4_0: return 18;
    case MI_Q4_1: return 20;
    case MI_Q4_K: return 144;
    case MI_Q6_K: return 210;
    default: return 0;  // not a dtype
  }
}
constexpr int64_t bytes_of(int32_t dtype, int64_t elements) {
  return elements / block_elements(dtype) * block_bytes(dtype);
}

// Whether kernels may load 16 bytes at once from the start of each row.
inline bool rows_on_16_bytes(const View& v, int64_t heads, int64_t rows) {
  return reinterpret_cast<uintptr_t>(v.data) % 16 == 0 && (heads <= 1 || bytes_of(v.dtype, v.head_stride) % 16 == 0) &&
         (rows <= 1 || bytes_of(v.dtype, v.row_stride) % 16 == 0);
}

struct EmbedArgs {
  const int32_t* ids;
  View table, out;
  int32_t rows, dim, vocab;
};
struct RmsNormArgs {
  View x, residual, out;
  const float* weight;
  int32_t rows, heads, dim;
  float eps;
};
struct RopeArgs {
  View x, out;
  const float* inv_freq;
  int64_t position;
  int32_t rows, heads, head_dim, rotary_dim, interleaved;
  float scale;
};
struct CopyArgs {
  View src, dst;
  int32_t rows, heads, dim;
};
struct LinearArgs {
  View x, w, y;
  const float* bias;
  const float* w_scales;  // null unless w is e4m3
  void* workspace;
  uint64_t workspace_bytes;
  int32_t rows, in_features, out_features, accumulate, precision;
};
struct SiluMulArgs {
  View gate, up, out;
  int32_t rows, dim;
};
struct SampleArgs {
  const float* logits;
  const int32_t* history;
  int32_t* out;
  int32_t vocab, history_length;
  float temperature, top_p, min_p, repetition_penalty;
  int32_t top_k;
  uint64_t seed, step;
};
struct ConvertArgs {
  const void* src;
  void* dst;
  int32_t src_dtype, dst_dtype;
  int64_t elements;
};
struct QuantiseArgs {
  View src, dst;
  float* scales;
  int64_t scale_stride;
  int32_t position, rows, heads, dim;
};
struct DequantiseArgs {
  View src, dst;
  const float* scales;
  int64_t scale_stride;
  int32_t rows, heads, dim;
};
struct QuantiseRowsArgs {
  View src, dst;
  float* scales;
  int32_t rows, dim;
};
struct AttentionArgs {
  View q, k, v, out;
  float* lse;        // may be null
  const void* list;  // work_list.h, null = dense
  const float *k_scales, *v_scales;  // null unless k and v are e4m3
  void* workspace;
  uint64_t list_bytes, workspace_bytes;
  int64_t scale_stride;
  int32_t q_heads, kv_heads, head_dim, q_len, kv_len, causal;
  float scale;
};
struct EstimateArgs {
  View q, k;
  float *vertical, *slash, *lse;
  void* workspace;
  uint64_t workspace_bytes;
  int32_t q_heads, kv_heads, head_dim, q_len, kv_len, last_q;
  float scale;
};
struct IndexArgs {
  View q, k;
  const float *vertical, *slash, *lse;  // null without vertical-slash heads
  void* list;
  mi_head_stats* stats;  // may be null
  void* workspace;
  uint64_t list_bytes, workspace_bytes;
  int32_t q_heads, kv_heads, head_dim, q_len, kv_len, last_q;
  float scale, dense_above;
  int32_t measure_mass;
  float guard_mean, guard_min;
  const mi_pattern* patterns;  // [q_heads], host memory
};

namespace cpu {
class Pool;  // cpu/pool.h
void embed(Pool&, const EmbedArgs&);
void rms_norm(Pool&, const RmsNormArgs&);
void rope(Pool&, const RopeArgs&);
void copy(Pool&, const CopyArgs&);
void linear(Pool&, const LinearArgs&);
void silu_mul(Pool&, const SiluMulArgs&);
void sample(Pool&, const SampleArgs&);
void convert(Pool&, const ConvertArgs&);
void quantise(Pool&, const QuantiseArgs&);
void dequantise(Pool&, const DequantiseArgs&);
void quantise_rows(Pool&, const QuantiseRowsArgs&);
void attention(Pool&, const AttentionArgs&);
void estimate(Pool&, const EstimateArgs&);
void index(Pool&, const IndexArgs&);
// Workspace in bytes. Pointers in the arguments are null when these are asked.
uint64_t linear_workspace(const Pool&, const LinearArgs&);
uint64_t attention_workspace(const Pool&, const AttentionArgs&);
uint64_t estimate_workspace(const Pool&, const EstimateArgs&);
uint64_t index_workspace(const Pool&, const IndexArgs&);
}  // namespace cpu

}  // namespace mi
