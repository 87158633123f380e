#include "validate.h"

#include <climits>
#include <cmath>
#include <string>

#include "../index/work_list.h"
#include "status.h"

namespace mi {

namespace {

// Turns refs and views into pointers. The first failure sticks; later calls do nothing.
class Checker {
 public:
  Checker(const char* op, bool planning, const FindBuffer& find, Operation* operation, mi_error* error)
      : op_(op), planning_(planning), find_(find), operation_(operation), error_(error) {}

  mi_status status() const { return status_; }

  __attribute__((format(printf, 4, 5))) void require(bool ok, mi_status code, const char* format, ...) {
    if (ok || status_ != MI_OK) return;
    char text[200];
    va_list list;
    va_start(list, format);
    std::vsnprintf(text, sizeof text, format, list);
    va_end(list);
    status_ = fail(error_, code, "%s: %s", op_, text);
  }
  void positive(const char* name, int64_t value) {
    require(value > 0, MI_SHAPE, "%s must be positive, got %lld", name, (long long)value);
  }

  // A contiguous range of `bytes`; null if absent and optional.
  template <class T>
  T* ref(const char* name, const mi_ref& r, uint64_t bytes, bool optional = false) {
    return static_cast<T*>(bytes_at(name, r, bytes, alignof(T), optional));
  }

  // Elements one after the other.
  void* elements(const char* name, const mi_ref& r, int32_t dtype, int64_t count) {
    return bytes_at(name, r, (uint64_t)bytes_of(dtype, count), element_alignment(dtype));
  }

  // Room for an operation's own use.
  void* workspace(const mi_ref& r, uint64_t bytes) { return bytes_at("workspace", r, bytes, 16, bytes == 0); }

  void* bytes_at(const char* name, const mi_ref& r, uint64_t bytes, uint64_t alignment, bool optional = false) {
    if (status_ != MI_OK) return nullptr;
    if (r.buffer == 0) {
      require(optional || planning_, MI_INVALID_ARGUMENT, "%s is missing", name);
      return nullptr;
    }
    if (planning_) return nullptr;
    return resolve(name, r.buffer, r.offset, bytes, alignment);
  }

  // A strided view. `dtypes` is a bit set made by types().
  View view(const char* name, const mi_view& v, int64_t heads, int64_t rows, int64_t dim, uint64_t dtypes,
            bool optional = false) {
    View out;
    out.dtype = v.dtype;
    out.head_stride = v.head_stride;
    out.row_stride = v.row_stride;
    if (status_ != MI_OK) return out;
    if (v.buffer == 0) {
      require(optional || planning_, MI_INVALID_ARGUMENT, "%s is missing", name);
      if (optional || status_ != MI_OK) return out;
    }
    require(v.dtype >= 0 && v.dtype < 64 && (dtypes >> v.dtype & 1), MI_INVALID_ARGUMENT, "%s has unsupported dtype %d",
            name, v.dtype);
    if (status_ != MI_OK) return out;
    const int64_t block = block_elements(v.dtype);
    require(dim % block == 0 && v.row_stride % block == 0 && v.head_stride % block == 0, MI_SHAPE,
            "%s: dim %lld and strides %lld, %lld must be multiples of the dtype's block of %lld", name, (long long)dim,
            (long long)v.row_stride, (long long)v.head_stride, (long long)block);
    // Overlapping rows or heads would race; broadcasting (stride 0) is not offered.
    require((rows <= 1 || v.row_stride >= dim || heads > 1) && v.row_stride >= 0 && v.head_stride >= 0 &&
                (heads <= 1 || v.head_stride > 0) && (rows <= 1 || v.row_stride > 0),
            MI_SHAPE, "%s: strides %lld (row), %lld (head) do not fit dim %lld", name, (long long)v.row_stride,
            (long long)v.head_stride, (long long)dim);
    if (status_ != MI_OK || planning_) return out;
    int64_t span = 0, row_span, head_span;  // elements up to and including the last one
    const bool overflow = __builtin_mul_overflow(v.row_stride, rows - 1, &row_span) ||
                          __builtin_mul_overflow(v.head_stride, heads - 1, &head_span) ||
                          __builtin_add_overflow(row_span, head_span, &span) ||
                          __builtin_add_overflow(span, dim, &span) || span > INT64_MAX / 8;
    require(!overflow, MI_SHAPE, "%s: strides %lld, %lld overflow", name, (long long)v.row_stride,
            (long long)v.head_stride);
    if (status_ != MI_OK) return out;
    out.data = resolve(name, v.buffer, v.offset, (uint64_t)bytes_of(v.dtype, span), (uint64_t)element_alignment(v.dtype));
    return out;
  }

  static uint64_t element_alignment(int32_t dtype) {
    return block_elements(dtype) == 1 ? (uint64_t)block_bytes(dtype) : 2;  // GGUF blocks start with an f16
  }

 private:
  void* resolve(const char* name, uint64_t handle, uint64_t offset, uint64_t bytes, uint64_t alignment) {
    std::shared_ptr<Buffer> buffer = find_(handle);
    require(buffer != nullptr, MI_BAD_HANDLE, "%s: no such buffer on this device (freed?)", name);
    if (!buffer) return nullptr;
    require(buffer->place == Place::kDevice, MI_INVALID_ARGUMENT, "%s lies in host memory", name);
    require(offset <= buffer->bytes && bytes <= buffer->bytes - offset, MI_SHAPE,
            "%s needs %llu bytes at offset %llu, the buffer holds %llu", name, (unsigned long long)bytes,
            (unsigned long long)offset, (unsigned long long)buffer->bytes);
    require(offset % alignment == 0, MI_INVALID_ARGUMENT, "%s: offset %llu is not a multiple of %llu", name,
            (unsigned long long)offset, (unsigned long long)alignment);
    if (status_ != MI_OK) return nullptr;
    void* data = static_cast<char*>(buffer->data) + offset;
    operation_->buffers.push_back(std::move(buffer));
    return data;
  }

  const char* op_;
  const bool planning_;
  const FindBuffer& find_;
  Operation* operation_;
  mi_error* error_;
  mi_status status_ = MI_OK;
};

constexpr uint64_t types() { return 0; }
template <class... Rest>
constexpr uint64_t types(mi_dtype first, Rest... rest) {
  return uint64_t(1) << first | types(rest...);
}
constexpr uint64_t kFloats = types(MI_F32, MI_F16, MI_BF16);
constexpr uint64_t kWeights = kFloats | types(MI_Q8_0, MI_Q4_0, MI_Q4_1, MI_Q4_K, MI_Q6_K);

EmbedArgs check(Checker& c, const mi_embed_params& p) {
  c.positive("rows", p.rows);
  c.positive("dim", p.dim);
  c.positive("vocab", p.vocab);
  return {c.ref<const int32_t>("ids", p.ids, uint64_t(p.rows) * 4), c.view("table", p.table, 1, p.vocab, p.dim, kWeights),
          c.view("out", p.out, 1, p.rows, p.dim, kFloats), p.rows, p.dim, p.vocab};
}

RmsNormArgs check(Checker& c, const mi_rms_norm_params& p) {
  c.positive("rows", p.rows);
  c.positive("heads", p.heads);
  c.positive("dim", p.dim);
  c.require(p.eps >= 0 && std::isfinite(p.eps), MI_INVALID_ARGUMENT, "eps must be finite and not negative, got %g", p.eps);
  return {c.view("x", p.x, p.heads, p.rows, p.dim, kFloats),
          c.view("residual", p.residual, p.heads, p.rows, p.dim, kFloats, true),
          c.view("out", p.out, p.heads, p.rows, p.dim, kFloats),
          c.ref<const float>("weight", p.weight, uint64_t(p.dim) * 4), p.rows, p.heads, p.dim, p.eps};
}

RopeArgs check(Checker& c, const mi_rope_params& p) {
  c.positive("rows", p.rows);
  c.positive("heads", p.heads);
  c.positive("head_dim", p.head_dim);
  c.require(p.rotary_dim > 0 && p.rotary_dim % 2 == 0 && p.rotary_dim <= p.head_dim, MI_SHAPE,
            "rotary_dim must be even and in 2..head_dim (%d), got %d", p.head_dim, p.rotary_dim);
  c.require(p.position >= 0, MI_INVALID_ARGUMENT, "position must not be negative, got %lld", (long long)p.position);
  return {c.view("x", p.x, p.heads, p.rows, p.head_dim, kFloats),
          c.view("out", p.out, p.heads, p.rows, p.head_dim, kFloats),
          c.ref<const float>("inv_freq", p.inv_freq, uint64_t(p.rotary_dim) / 2 * 4), p.position, p.rows, p.heads,
          p.head_dim, p.rotary_dim, p.interleaved, p.scale};
}

CopyArgs check(Checker& c, const mi_copy_params& p) {
  c.positive("rows", p.rows);
  c.positive("heads", p.heads);
  c.positive("dim", p.dim);
  return {c.view("src", p.src, p.heads, p.rows, p.dim, kFloats), c.view("dst", p.dst, p.heads, p.rows, p.dim, kFloats),
          p.rows, p.heads, p.dim};
}

// e4m3 weights are read 16 at a time.
void check_codes(Checker& c, const char* name, const mi_view& v, int32_t columns) {
  c.require(columns % MI_E4M3_COLUMNS == 0 && v.row_stride % MI_E4M3_COLUMNS == 0, MI_SHAPE,
            "%s is e4m3: its columns and stride must be multiples of %d, got %d and %lld", name, MI_E4M3_COLUMNS, columns,
            (long long)v.row_stride);
  c.require(v.offset % MI_E4M3_COLUMNS == 0, MI_INVALID_ARGUMENT, "%s is e4m3: its offset %llu is not a multiple of %d",
            name, (unsigned long long)v.offset, MI_E4M3_COLUMNS);
}

LinearArgs check(Checker& c, const mi_linear_params& p) {
  c.positive("rows", p.rows);
  c.positive("in_features", p.in_features);
  c.positive("out_features", p.out_features);
  c.require(p.precision == MI_PRECISION_F32 || p.precision == MI_PRECISION_BF16, MI_INVALID_ARGUMENT,
            "unknown precision %d", p.precision);
  const bool quantised = p.w.dtype == MI_E4M3;
  if (quantised) check_codes(c, "w", p.w, p.in_features);
  c.require(quantised || p.w_scales.buffer == 0, MI_INVALID_ARGUMENT, "w_scales are given, but w is not e4m3");
  return {c.view("x", p.x, 1, p.rows, p.in_features, kFloats),
          c.view("w", p.w, 1, p.out_features, p.in_features, kWeights | types(MI_E4M3)),
          c.view("y", p.y, 1, p.rows, p.out_features, kFloats),
          c.ref<const float>("bias", p.bias, uint64_t(p.out_features) * 4, true),
          c.ref<const float>("w_scales", p.w_scales, uint64_t(p.out_features) * 4, !quantised),
          c.workspace(p.workspace, p.workspace_bytes), p.workspace_bytes, p.rows,
          p.in_features, p.out_features, p.accumulate, p.precision};
}

SiluMulArgs check(Checker& c, const mi_silu_mul_params& p) {
  c.positive("rows", p.rows);
  c.positive("dim", p.dim);
  return {c.view("gate", p.gate, 1, p.rows, p.dim, kFloats), c.view("up", p.up, 1, p.rows, p.dim, kFloats),
          c.view("out", p.out, 1, p.rows, p.dim, kFloats), p.rows, p.dim};
}

SampleArgs check(Checker& c, const mi_sample_params& p) {
  c.positive("vocab", p.vocab);
  c.require(p.history_length >= 0, MI_SHAPE, "history_length must not be negative, got %d", p.history_length);
  c.require(p.temperature >= 0 && std::isfinite(p.temperature), MI_INVALID_ARGUMENT,
            "temperature must be finite and not negative, got %g", p.temperature);
  c.require(p.top_p > 0 && p.top_p <= 1, MI_INVALID_ARGUMENT, "top_p must be in (0, 1], got %g", p.top_p);
  c.require(p.min_p >= 0 && p.min_p <= 1, MI_INVALID_ARGUMENT, "min_p must be in [0, 1], got %g", p.min_p);
  c.require(p.repetition_penalty > 0, MI_INVALID_ARGUMENT, "repetition_penalty must be positive, got %g",
            p.repetition_penalty);
  c.require(p.top_k >= 0, MI_INVALID_ARGUMENT, "top_k must not be negative, got %d", p.top_k);
  return {c.ref<const float>("logits", p.logits, uint64_t(p.vocab) * 4),
          c.ref<const int32_t>("history", p.history, uint64_t(p.history_length) * 4, p.history_length == 0),
          c.ref<int32_t>("out", p.out, 4), p.vocab, p.history_length, p.temperature, p.top_p, p.min_p,
          p.repetition_penalty, p.top_k, p.seed, p.step};
}

ConvertArgs check(Checker& c, const mi_convert_params& p) {
  const auto in = [](uint64_t set, int32_t dtype) { return dtype >= 0 && dtype < 64 && (set >> dtype & 1); };
  c.require(p.elements > 0 && p.elements < INT64_MAX / 8, MI_SHAPE, "elements must be positive, got %lld",
            (long long)p.elements);
  const bool known = (in(kWeights, p.src_dtype) && in(kFloats, p.dst_dtype)) ||
                     (in(kFloats, p.src_dtype) && p.dst_dtype == MI_Q8_0);
  c.require(known, MI_INVALID_ARGUMENT, "no conversion from dtype %d to %d", p.src_dtype, p.dst_dtype);
  if (c.status() == MI_OK)
    c.require(p.elements % block_elements(p.src_dtype) == 0 && p.elements % block_elements(p.dst_dtype) == 0, MI_SHAPE,
              "%lld elements do not fill whole blocks", (long long)p.elements);
  if (c.status() != MI_OK) return {};
  return {c.elements("src", p.src, p.src_dtype, p.elements),
          c.elements("dst", p.dst, p.dst_dtype, p.elements), p.src_dtype, p.dst_dtype, p.elements};
}

// Shapes shared by attention, estimate and index.
template <class P>
void check_heads(Checker& c, const P& p) {
  c.positive("q_heads", p.q_heads);
  c.positive("kv_heads", p.kv_heads);
  c.positive("q_len", p.q_len);
  c.positive("kv_len", p.kv_len);
  c.require(p.kv_heads > 0 && p.q_heads % p.kv_heads == 0, MI_SHAPE, "q_heads %d is not a multiple of kv_heads %d",
            p.q_heads, p.kv_heads);
  c.require(p.head_dim > 0 && p.head_dim % 8 == 0 && p.head_dim <= 256, MI_SHAPE,
            "head_dim must be a multiple of 8 up to 256, got %d", p.head_dim);
  c.require(std::isfinite(p.scale), MI_INVALID_ARGUMENT, "scale must be finite, got %g", p.scale);
}

// f32 [heads, stride], a scale for every MI_KV_BLOCK of `rows` rows.
template <class T>
T* check_scales(Checker& c, const char* name, const mi_ref& scales, int64_t stride, int64_t heads, int64_t rows) {
  const int64_t blocks = ceil_div(rows, MI_KV_BLOCK);
  c.require(stride >= blocks && stride < INT64_MAX / 4 / heads, MI_SHAPE,
            "scale_stride must be at least %lld, got %lld", (long long)blocks, (long long)stride);
  return c.ref<T>(name, scales, uint64_t((heads - 1) * stride + blocks) * 4);
}

QuantiseArgs check(Checker& c, const mi_quantise_params& p) {
  c.positive("rows", p.rows);
  c.positive("heads", p.heads);
  c.positive("dim", p.dim);
  c.require(p.position >= 0 && int64_t(p.position) + p.rows <= INT32_MAX, MI_SHAPE,
            "position must not be negative nor position + rows exceed 2^31 - 1, got %d + %d", p.position, p.rows);
  if (c.status() != MI_OK) return {};
  const int64_t end = int64_t(p.position) + p.rows;
  return {c.view("src", p.src, p.heads, p.rows, p.dim, kFloats), c.view("dst", p.dst, p.heads, end, p.dim, types(MI_E4M3)),
          check_scales<float>(c, "scales", p.scales, p.scale_stride, p.heads, end), p.scale_stride, p.position, p.rows,
          p.heads, p.dim};
}

DequantiseArgs check(Checker& c, const mi_dequantise_params& p) {
  c.positive("rows", p.rows);
  c.positive("heads", p.heads);
  c.positive("dim", p.dim);
  if (c.status() != MI_OK) return {};
  return {c.view("src", p.src, p.heads, p.rows, p.dim, types(MI_E4M3)), c.view("dst", p.dst, p.heads, p.rows, p.dim, kFloats),
          check_scales<const float>(c, "scales", p.scales, p.scale_stride, p.heads, p.rows), p.scale_stride, p.rows,
          p.heads, p.dim};
}

QuantiseRowsArgs check(Checker& c, const mi_quantise_rows_params& p) {
  c.positive("rows", p.rows);
  c.positive("dim", p.dim);
  check_codes(c, "dst", p.dst, p.dim);
  return {c.view("src", p.src, 1, p.rows, p.dim, kWeights), c.view("dst", p.dst, 1, p.rows, p.dim, types(MI_E4M3)),
          c.ref<float>("scales", p.scales, uint64_t(p.rows) * 4), p.rows, p.dim};
}

AttentionArgs check(Checker& c, const mi_attention_params& p) {
  check_heads(c, p);
  c.require(!p.causal || p.q_len <= p.kv_len, MI_SHAPE, "causal attention needs q_len %d <= kv_len %d", p.q_len, p.kv_len);
  const bool sparse = p.list.buffer != 0 || p.list_bytes != 0;
  c.require(p.causal || !sparse, MI_INVALID_ARGUMENT, "a work list requires causal attention");
  c.require(!sparse || p.list_bytes >= uint64_t(p.q_heads) * sizeof(ListHead), MI_SHAPE,
            "list_bytes %llu cannot hold %d heads", (unsigned long long)p.list_bytes, p.q_heads);
  c.require(p.k.dtype == p.v.dtype, MI_INVALID_ARGUMENT, "k and v differ in dtype: %d, %d", p.k.dtype, p.v.dtype);
  if (c.status() != MI_OK) return {};
  const bool quantised = p.k.dtype == MI_E4M3;
  c.require(!quantised || !sparse, MI_UNSUPPORTED, "a work list over e4m3 keys");
  if (c.status() != MI_OK) return {};
  const auto scales = [&](const char* name, const mi_ref& ref) -> const float* {
    if (quantised) return check_scales<const float>(c, name, ref, p.scale_stride, p.kv_heads, p.kv_len);
    c.require(ref.buffer == 0, MI_INVALID_ARGUMENT, "%s are given, but k and v are not e4m3", name);
    return nullptr;
  };
  constexpr uint64_t kKeys = kFloats | types(MI_E4M3);
  return {c.view("q", p.q, p.q_heads, p.q_len, p.head_dim, kFloats),
          c.view("k", p.k, p.kv_heads, p.kv_len, p.head_dim, kKeys),
          c.view("v", p.v, p.kv_heads, p.kv_len, p.head_dim, kKeys),
          c.view("out", p.out, p.q_heads, p.q_len, p.head_dim, kFloats),
          c.ref<float>("lse", p.lse, uint64_t(p.q_heads) * uint64_t(p.q_len) * 4, true),
          c.ref<const uint64_t>("list", p.list, p.list_bytes, !sparse), scales("k_scales", p.k_scales),
          scales("v_scales", p.v_scales),
          c.workspace(p.workspace, p.workspace_bytes), p.list_bytes, p.workspace_bytes,
          p.scale_stride, p.q_heads, p.kv_heads, p.head_dim, p.q_len, p.kv_len, p.causal, p.scale};
}

template <class P>
int32_t check_probe(Checker& c, const P& p) {
  check_heads(c, p);
  c.require(p.q_len <= p.kv_len, MI_SHAPE, "q_len %d exceeds kv_len %d", p.q_len, p.kv_len);
  c.require(p.last_q >= 1 && p.last_q <= MI_BLOCK, MI_INVALID_ARGUMENT, "last_q must be in 1..%d, got %d", MI_BLOCK, p.last_q);
  return p.last_q < p.q_len ? p.last_q : p.q_len;
}

EstimateArgs check(Checker& c, const mi_estimate_params& p) {
  const uint64_t probes = (uint64_t)check_probe(c, p);
  const uint64_t sums = uint64_t(p.q_heads) * uint64_t(p.kv_len) * 4;
  return {c.view("q", p.q, p.q_heads, p.q_len, p.head_dim, kFloats),
          c.view("k", p.k, p.kv_heads, p.kv_len, p.head_dim, kFloats), c.ref<float>("vertical", p.vertical, sums),
          c.ref<float>("slash", p.slash, sums), c.ref<float>("lse", p.lse, uint64_t(p.q_heads) * probes * 4),
          c.workspace(p.workspace, p.workspace_bytes), p.workspace_bytes, p.q_heads,
          p.kv_heads, p.head_dim, p.q_len, p.kv_len, p.last_q, p.scale};
}

void check_pattern(Checker& c, int head, const mi_pattern& p) {
  c.require(p.kind >= MI_DENSE && p.kind <= MI_BLOCK_SPARSE, MI_INVALID_ARGUMENT, "head %d: unknown pattern %d", head, p.kind);
  if (p.kind == MI_A_SHAPE)
    c.require(p.sink >= 0 && p.local >= 1, MI_INVALID_ARGUMENT, "head %d: A-shape needs sink >= 0 and local >= 1, got %d, %d",
              head, p.sink, p.local);
  if (p.kind == MI_BLOCK_SPARSE)
    c.require(p.top_k >= 1 && p.top_k < INT32_MAX - 8, MI_INVALID_ARGUMENT, "head %d: top_k must be at least 1, got %d",
              head, p.top_k);
  if (p.kind == MI_VERTICAL_SLASH) {
    c.require(p.selection == MI_EXACT || p.selection == MI_BANDED, MI_INVALID_ARGUMENT, "head %d: unknown selection %d", head,
              p.selection);
    c.require(p.vertical >= 0 && p.slash >= 0, MI_INVALID_ARGUMENT,
              "head %d: vertical and slash must not be negative, got %d, %d", head, p.vertical, p.slash);
    c.require(p.mass >= 0 && p.mass <= 1, MI_INVALID_ARGUMENT, "head %d: mass must be in [0, 1], got %g", head, p.mass);
  }
}

IndexArgs check(Checker& c, const mi_index_params& p, Operation& operation) {
  const uint64_t probes = (uint64_t)check_probe(c, p);
  bool sums_needed = false;
  if (c.status() == MI_OK) {
    const uint64_t want = sizeof p + uint64_t(p.q_heads) * sizeof(mi_pattern);
    c.require(p.header.size == want, MI_INVALID_ARGUMENT, "%u bytes given, %llu needed for %d patterns", p.header.size,
              (unsigned long long)want, p.q_heads);
  }
  if (c.status() == MI_OK) {
    const mi_pattern* patterns = reinterpret_cast<const mi_pattern*>(&p + 1);
    operation.patterns.assign(patterns, patterns + p.q_heads);
    for (int h = 0; h < p.q_heads; h++) {
      check_pattern(c, h, patterns[h]);
      sums_needed |= patterns[h].kind == MI_VERTICAL_SLASH;
    }
  }
  for (const float least : {p.guard_mean, p.guard_min})
    c.require(least >= 0 && least <= 1, MI_INVALID_ARGUMENT, "a guard must be in [0, 1], got %g", least);
  if (c.status() != MI_OK) return {};
  const uint64_t list = list_bytes(operation.patterns.data(), p.q_heads, p.q_len, p.kv_len);
  const uint64_t sums = uint64_t(p.q_heads) * uint64_t(p.kv_len) * 4;
  return {c.view("q", p.q, p.q_heads, p.q_len, p.head_dim, kFloats),
          c.view("k", p.k, p.kv_heads, p.kv_len, p.head_dim, kFloats),
          c.ref<const float>("vertical", p.vertical, sums, !sums_needed),
          c.ref<const float>("slash", p.slash, sums, !sums_needed),
          c.ref<const float>("lse", p.lse, uint64_t(p.q_heads) * probes * 4, !sums_needed),
          c.ref<uint64_t>("list", p.list, list),
          c.ref<mi_head_stats>("stats", p.stats, uint64_t(p.q_heads) * sizeof(mi_head_stats), true),
          c.workspace(p.workspace, p.workspace_bytes), list, p.workspace_bytes, p.q_heads,
          p.kv_heads, p.head_dim, p.q_len, p.kv_len, p.last_q, p.scale, p.dense_above, p.measure_mass,
          p.guard_mean, p.guard_min, operation.patterns.data()};
}

template <class P>
mi_status accept(const mi_header* header, const char* name, bool planning, const FindBuffer& find, Operation* operation,
                 mi_error* error) {
  Checker c(name, planning, find, operation, error);
  constexpr bool has_patterns = std::is_same_v<P, mi_index_params>;
  c.require(has_patterns ? header->size >= sizeof(P) : header->size == sizeof(P), MI_INVALID_ARGUMENT,
            "parameters of %u bytes, this library expects %zu", header->size, sizeof(P));
  if (c.status() != MI_OK) return c.status();
  const P& p = *reinterpret_cast<const P*>(header);
  if constexpr (has_patterns) operation->args = check(c, p, *operation);
  else operation->args = check(c, p);
  return c.status();
}

}  // namespace

mi_status validate(const mi_header* header, bool planning, const FindBuffer& find, Operation* operation, mi_error* error) {
  if (!header) return fail(error, MI_INVALID_ARGUMENT, "parameters are missing");
  operation->op = (mi_op)header->op;
  const auto run = [&](auto tag, const char* name) {
    return accept<decltype(tag)>(header, name, planning, find, operation, error);
  };
  switch (header->op) {
    case MI_OP_EMBED: return run(mi_embed_params{}, "embed");
    case MI_OP_RMS_NORM: return run(mi_rms_norm_params{}, "rms_norm");
    case MI_OP_ROPE: return run(mi_rope_params{}, "rope");
    case MI_OP_COPY: return run(mi_copy_params{}, "copy");
    case MI_OP_LINEAR: return run(mi_linear_params{}, "linear");
    case MI_OP_SILU_MUL: return run(mi_silu_mul_params{}, "silu_mul");
    case MI_OP_SAMPLE: return run(mi_sample_params{}, "sample");
    case MI_OP_CONVERT: return run(mi_convert_params{}, "convert");
    case MI_OP_QUANTISE: return run(mi_quantise_params{}, "quantise");
    case MI_OP_DEQUANTISE: return run(mi_dequantise_params{}, "dequantise");
    case MI_OP_QUANTISE_ROWS: return run(mi_quantise_rows_params{}, "quantise_rows");
    case MI_OP_ATTENTION: return run(mi_attention_params{}, "attention");
    case MI_OP_ESTIMATE: return run(mi_estimate_params{}, "estimate");
    case MI_OP_INDEX: return run(mi_index_params{}, "index");
    default: return fail(error, MI_INVALID_ARGUMENT, "unknown operation %u", header->op);
  }
}

}  // namespace mi
