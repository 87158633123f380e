// mi_describe's text: what this library is and where every field of every struct lies, so that a test
// can compare the TypeScript writer with the compiler.
#include <cstddef>
#include <string>

#include "layout.h"

#include "../include/minference.h"

namespace mi {

namespace {

template <class T>
constexpr const char* type_name() {
  if constexpr (std::is_same_v<T, mi_ref>) return "ref";
  else if constexpr (std::is_same_v<T, mi_view>) return "view";
  else if constexpr (std::is_same_v<T, mi_header>) return "header";
  else if constexpr (std::is_same_v<T, float>) return "f32";
  else if constexpr (std::is_same_v<T, int32_t>) return "i32";
  else if constexpr (std::is_same_v<T, uint32_t>) return "u32";
  else if constexpr (std::is_same_v<T, int64_t>) return "i64";
  else if constexpr (std::is_same_v<T, uint64_t>) return "u64";
  else return "text";
}

template <class T>
std::string field(const char* name, size_t offset) {
  return std::string("\"") + name + "\":[\"" + type_name<T>() + "\"," + std::to_string(offset) + "],";
}

#define FIELD(name) text += field<decltype(S::name)>(#name, offsetof(S, name));
#define E1(a) FIELD(a)
#define E2(a, ...) FIELD(a) E1(__VA_ARGS__)
#define E3(a, ...) FIELD(a) E2(__VA_ARGS__)
#define E4(a, ...) FIELD(a) E3(__VA_ARGS__)
#define E5(a, ...) FIELD(a) E4(__VA_ARGS__)
#define E6(a, ...) FIELD(a) E5(__VA_ARGS__)
#define E7(a, ...) FIELD(a) E6(__VA_ARGS__)
#define E8(a, ...) FIELD(a) E7(__VA_ARGS__)
#define E9(a, ...) FIELD(a) E8(__VA_ARGS__)
#define E10(a, ...) FIELD(a) E9(__VA_ARGS__)
#define E11(a, ...) FIELD(a) E10(__VA_ARGS__)
#define E12(a, ...) FIELD(a) E11(__VA_ARGS__)
#define E13(a, ...) FIELD(a) E12(__VA_ARGS__)
#define E14(a, ...) FIELD(a) E13(__VA_ARGS__)
#define E15(a, ...) FIELD(a) E14(__VA_ARGS__)
#define E16(a, ...) FIELD(a) E15(__VA_ARGS__)
#define E17(a, ...) FIELD(a) E16(__VA_ARGS__)
#define E18(a, ...) FIELD(a) E17(__VA_ARGS__)
#define E19(a, ...) FIELD(a) E18(__VA_ARGS__)
#define E20(a, ...) FIELD(a) E19(__VA_ARGS__)
#define E21(a, ...) FIELD(a) E20(__VA_ARGS__)
#define E22(a, ...) FIELD(a) E21(__VA_ARGS__)
#define E23(a, ...) FIELD(a) E22(__VA_ARGS__)
#define PICK(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, _17, _18, _19, _20, _21, _22, _23, n, ...) n
#define EACH(...)                                                                                                    \
  PICK(__VA_ARGS__, E23, E22, E21, E20, E19, E18, E17, E16, E15, E14, E13, E12, E11, E10, E9, E8, E7, E6, E5, E4, E3, E2, E1) \
  (__VA_ARGS__)
#define STRUCT(type, ...)                                                            \
  {                                                                                  \
    using S = type;                                                                  \
    text += "\"" #type "\":{\"size\":" + std::to_string(sizeof(S)) + ",\"fields\":{"; \
    EACH(__VA_ARGS__)                                                                \
    text.back() = '}';                                                               \
    text += "},";                                                                    \
  }

}  // namespace

std::string describe() {
  std::string text = "{\"abi\":" + std::to_string(MI_ABI_VERSION) + ",\"version\":\"" MINFERENCE_VERSION "\",\"cuda\":";
#if defined(MINFERENCE_CUDA)
  text += "true";
#else
  text += "false";
#endif
  text += ",\"compiler\":\"" __VERSION__ "\",\"structs\":{";
  STRUCT(mi_error, code, native, wanted, available, text)
  STRUCT(mi_device_options, size, kind, index, threads, memory_limit, isa, profile)
  STRUCT(mi_device_info, size, kind, index, threads, capability_major, capability_minor, isa, reserved, total_memory,
         free_memory, allocated, peak, name, host_free_memory, host_allocated)
  STRUCT(mi_header, size, op)
  STRUCT(mi_ref, buffer, offset)
  STRUCT(mi_view, buffer, offset, head_stride, row_stride, dtype, reserved)
  STRUCT(mi_embed_params, header, ids, table, out, rows, dim, vocab, reserved)
  STRUCT(mi_rms_norm_params, header, x, residual, weight, out, rows, heads, dim, eps)
  STRUCT(mi_rope_params, header, x, out, inv_freq, position, rows, heads, head_dim, rotary_dim, interleaved, scale)
  STRUCT(mi_copy_params, header, src, dst, rows, heads, dim, reserved)
  STRUCT(mi_linear_params, header, x, w, bias, w_scales, y, workspace, workspace_bytes, rows, in_features, out_features, accumulate,
         precision, reserved)
  STRUCT(mi_silu_mul_params, header, gate, up, out, rows, dim)
  STRUCT(mi_sample_params, header, logits, history, out, vocab, history_length, temperature, top_p, min_p,
         repetition_penalty, top_k, reserved, seed, step)
  STRUCT(mi_convert_params, header, src, dst, src_dtype, dst_dtype, elements)
  STRUCT(mi_quantise_params, header, src, dst, scales, scale_stride, position, rows, heads, dim)
  STRUCT(mi_dequantise_params, header, src, dst, scales, scale_stride, rows, heads, dim, reserved)
  STRUCT(mi_quantise_rows_params, header, src, dst, scales, rows, dim)
  STRUCT(mi_attention_params, header, q, k, v, out, lse, list, k_scales, v_scales, workspace, list_bytes,
         workspace_bytes, scale_stride, q_heads, kv_heads, head_dim, q_len, kv_len, causal, scale, reserved)
  STRUCT(mi_estimate_params, header, q, k, vertical, slash, lse, workspace, workspace_bytes, q_heads, kv_heads, head_dim,
         q_len, kv_len, last_q, scale, reserved)
  STRUCT(mi_pattern, kind, selection, vertical, slash, mass, sink, local, top_k, flags, reserved)
  STRUCT(mi_head_stats, kind, bands, columns, density, retained_mean, retained_min, tiles, causal_tiles, guarded,
         unguarded_mean, unguarded_min, reserved)
  STRUCT(mi_index_params, header, q, k, vertical, slash, lse, list, stats, workspace, list_bytes, workspace_bytes, q_heads,
         kv_heads, head_dim, q_len, kv_len, last_q, scale, dense_above, measure_mass, guard_mean, guard_min,
         reserved)
  text.back() = '}';
  return text + "}";
}

}  // namespace mi
