// minference.h - the C ABI of libminference.so, and the only header TypeScript mirrors.
//
// Rules
//   * Every function returns a status: 0 (MI_OK) or a negative mi_status. Text and numbers of a
//     failure go into the caller's mi_error (may be NULL). Nothing throws, exits or prints.
//   * A device is an in-order queue. mi_submit validates its parameters, copies them and returns;
//     mi_sync waits. Buffers stay alive until the work that uses them is done, also after mi_free.
//   * Handles are generation-checked: a stale one is MI_BAD_HANDLE, never a crash.
//   * Parameter structs hold only fixed-width integers and floats, are little-endian, begin with
//     {size, op} and contain no implicit padding. mi_describe() reports every offset as JSON.
//   * No thread-local state: consecutive calls may come from different threads.
#ifndef MINFERENCE_H
#define MINFERENCE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MI_API __attribute__((visibility("default")))
#define MI_ABI_VERSION 3u
#define MI_BLOCK 64      // rows of a query block and keys of a key tile, on every backend
#define MI_KV_BLOCK 128  // rows of a head that share a scale in a quantised cache
#define MI_E4M3_COLUMNS 16  // columns of e4m3 weights come in multiples of this
#define MI_QUEUED_READ 4096  // most bytes of mi_read_start

typedef enum mi_status {
  MI_OK = 0,
  MI_INVALID_ARGUMENT = -1,
  MI_SHAPE = -2,
  MI_BAD_HANDLE = -3,
  MI_OUT_OF_MEMORY = -4,
  MI_NO_DEVICE = -5,
  MI_UNSUPPORTED_DEVICE = -6,
  MI_UNSUPPORTED = -7,  // a valid request this build or device cannot serve
  MI_CANCELLED = -8,
  MI_IO = -9,
  MI_DEVICE_LOST = -10,
  MI_CUDA = -11,
  MI_INTERNAL = -12,
} mi_status;

typedef struct mi_error {  // 256 bytes
  int32_t code;            // mi_status
  int32_t native;          // errno or cudaError_t, 0 if neither
  uint64_t wanted;         // MI_OUT_OF_MEMORY: bytes asked for
  uint64_t available;      // MI_OUT_OF_MEMORY: bytes that were free
  char text[232];          // UTF-8, NUL-terminated
} mi_error;

typedef enum mi_dtype {
  MI_F32 = 0,
  MI_F16 = 1,
  MI_BF16 = 2,
  MI_I32 = 3,
  MI_U32 = 4,
  MI_U8 = 5,
  MI_E4M3 = 6,
  // GGUF block formats: weights only. Bytes per block / elements per block in brackets.
  MI_Q8_0 = 16,  // [34/32]
  MI_Q4_0 = 17,  // [18/32]
  MI_Q4_1 = 18,  // [20/32]
  MI_Q4_K = 19,  // [144/256]
  MI_Q6_K = 20,  // [210/256]
} mi_dtype;

typedef enum mi_device_kind { MI_CPU = 0, MI_CUDA_GPU = 1 } mi_device_kind;

typedef struct mi_device_options {
  uint32_t size;
  int32_t kind;           // mi_device_kind
  int32_t index;          // CUDA ordinal
  int32_t threads;        // CPU worker threads, 0 = one per available core
  uint64_t memory_limit;  // bytes of buffers this device may hold, those in host memory included, 0 = no limit
  int32_t isa;            // CPU: highest mi_isa to use, 0 = best. CUDA: 80 forces the portable path
  int32_t profile;        // 1 = accumulate time per operation (mi_timings)
} mi_device_options;

typedef enum mi_isa {
  MI_ISA_BEST = 0,
  MI_ISA_PORTABLE = 1,
  MI_ISA_AVX2 = 2,
  MI_ISA_AVX512 = 3,
  MI_ISA_AVX512_BF16 = 4,  // AVX-512 with BF16 dot products and VNNI
} mi_isa;

typedef struct mi_device_info {
  uint32_t size;
  int32_t kind;
  int32_t index;
  int32_t threads;           // CPU worker threads; CUDA: multiprocessors
  int32_t capability_major;  // CUDA compute capability, 0 on the CPU
  int32_t capability_minor;
  int32_t isa;  // CPU: mi_isa in use; CUDA: 90 or 80, the kernel path in use
  int32_t reserved;
  uint64_t total_memory;  // bytes
  uint64_t free_memory;   // bytes
  uint64_t allocated;     // bytes held by buffers on this device
  uint64_t peak;          // highest `allocated` so far
  char name[128];
  uint64_t host_free_memory;  // bytes
  uint64_t host_allocated;    // bytes held by buffers of mi_alloc_host
} mi_device_info;

// ---- parameters ------------------------------------------------------------------------------

typedef struct mi_header {
  uint32_t size;  // bytes of the whole struct with its trailing array
  uint32_t op;    // mi_op
} mi_header;

typedef struct mi_ref {  // a contiguous range of a buffer; buffer 0 = absent
  uint64_t buffer;
  uint64_t offset;  // bytes
} mi_ref;

typedef struct mi_view {  // [heads, rows, dim]; `dim` is contiguous
  uint64_t buffer;        // 0 = absent
  uint64_t offset;        // bytes
  int64_t head_stride;    // elements
  int64_t row_stride;     // elements
  int32_t dtype;
  int32_t reserved;
} mi_view;

typedef enum mi_op {
  MI_OP_EMBED = 1,
  MI_OP_RMS_NORM = 2,
  MI_OP_ROPE = 3,
  MI_OP_COPY = 4,
  MI_OP_LINEAR = 5,
  MI_OP_SILU_MUL = 6,
  MI_OP_SAMPLE = 7,
  MI_OP_CONVERT = 8,
  MI_OP_ATTENTION = 9,
  MI_OP_ESTIMATE = 10,
  MI_OP_INDEX = 11,
  MI_OP_QUANTISE = 12,
  MI_OP_DEQUANTISE = 13,
  MI_OP_QUANTISE_ROWS = 14,
  MI_OP_COUNT = 15,
} mi_op;

// out[r] = table[ids[r]]. Ids outside [0, vocab) are the caller's to reject; they read row 0.
typedef struct mi_embed_params {
  mi_header header;
  mi_ref ids;     // i32 [rows]
  mi_view table;  // [vocab, dim], any weight dtype
  mi_view out;    // [rows, dim] f32, f16 or bf16
  int32_t rows, dim, vocab, reserved;
} mi_embed_params;

// x += residual (if present); out = x * rsqrt(mean(x^2) + eps) * weight, per head and row.
typedef struct mi_rms_norm_params {
  mi_header header;
  mi_view x;         // [heads, rows, dim], written only if `residual` is present
  mi_view residual;  // optional
  mi_ref weight;     // f32 [dim]
  mi_view out;       // may be x
  int32_t rows, heads, dim;
  float eps;
} mi_rms_norm_params;

// Rotary embedding of the first rotary_dim elements of each head; the rest is copied.
// angle(row, i) = (position + row) * inv_freq[i]; cos and sin are multiplied by `scale`.
typedef struct mi_rope_params {
  mi_header header;
  mi_view x;        // [heads, rows, head_dim]
  mi_view out;      // may be x, may have another dtype (the KV cache)
  mi_ref inv_freq;  // f32 [rotary_dim / 2]
  int64_t position;
  int32_t rows, heads, head_dim, rotary_dim;
  int32_t interleaved;  // 1: pairs (2i, 2i+1), as GGUF llama; 0: pairs (i, i + rotary_dim/2), as HF
  float scale;
} mi_rope_params;

// dst = src with conversion between f32, f16, bf16.
typedef struct mi_copy_params {
  mi_header header;
  mi_view src, dst;
  int32_t rows, heads, dim, reserved;
} mi_copy_params;

// y = x w^T + bias (+ y if accumulate). Weights of e4m3 come with the scales of MI_OP_QUANTISE_ROWS, a scale per output
// feature; their rows start on 16 bytes. Where x has many rows, a GPU rounds each of them to e4m3 likewise.
typedef struct mi_linear_params {
  mi_header header;
  mi_view x;    // [rows, in_features]
  mi_view w;    // [out_features, in_features], any weight dtype
  mi_ref bias;  // f32 [out_features], optional
  mi_ref w_scales;  // f32 [out_features], with e4m3 weights alone
  mi_view y;    // [rows, out_features]
  mi_ref workspace;
  uint64_t workspace_bytes;
  int32_t rows, in_features, out_features;
  int32_t accumulate;
  int32_t precision;  // mi_precision
  int32_t reserved;
} mi_linear_params;

typedef enum mi_precision {
  MI_PRECISION_F32 = 0,   // products and sums in f32
  MI_PRECISION_BF16 = 1,  // operands rounded to bf16 (or 8-bit blocks for Q8_0), sums in f32, where that is faster
} mi_precision;

// out = silu(gate) * up
typedef struct mi_silu_mul_params {
  mi_header header;
  mi_view gate, up, out;  // [rows, dim]
  int32_t rows, dim;
} mi_silu_mul_params;

// Draws one token: repetition penalty, temperature, top-k, top-p, min-p, in that order.
// temperature 0 takes the argmax (lowest id on ties). NaN logits never win.
typedef struct mi_sample_params {
  mi_header header;
  mi_ref logits;   // f32 [vocab]
  mi_ref history;  // i32 [history_length], optional: tokens the penalty applies to
  mi_ref out;      // i32 [1]
  int32_t vocab, history_length;
  float temperature, top_p, min_p, repetition_penalty;
  int32_t top_k, reserved;
  uint64_t seed;  // the draw depends on (seed, step) alone
  uint64_t step;
} mi_sample_params;

// dst = src as another dtype: every weight dtype to f32, f16, bf16; f32, f16, bf16 to Q8_0.
typedef struct mi_convert_params {
  mi_header header;
  mi_ref src, dst;
  int32_t src_dtype, dst_dtype;
  int64_t elements;
} mi_convert_params;

// Keys or values into a cache of e4m3. The rows [128 b, 128 b + 128) of a head share a scale, the least power of two
// that brings them to 448 or below: dequantising is then exact in f32 and bf16, and a block can be quantised again when
// rows join it without changing those it holds (but for magnitudes under 2^-14 of the largest, which lose last bits).
// Rows [position, position + rows) are written; where `position` lies within a block, the rows before it stay, and
// its scale stays or grows. A value that is not finite makes its block's scale NaN.
typedef struct mi_quantise_params {
  mi_header header;
  mi_view src;     // [heads, rows, dim] f32, f16 or bf16
  mi_view dst;     // [heads, position + rows, dim] e4m3
  mi_ref scales;   // f32 [heads, scale_stride]
  int64_t scale_stride;  // elements between heads, at least ceil((position + rows) / 128)
  int32_t position, rows, heads, dim;
} mi_quantise_params;

// The first rows of such a cache.
typedef struct mi_dequantise_params {
  mi_header header;
  mi_view src;     // [heads, rows, dim] e4m3
  mi_view dst;     // [heads, rows, dim] f32, f16 or bf16
  mi_ref scales;   // f32 [heads, scale_stride]
  int64_t scale_stride;
  int32_t rows, heads, dim, reserved;
} mi_dequantise_params;

// A matrix as e4m3 with a scale per row, its largest magnitude over 448 (no denormal): src = dst * scale up to rounding.
// A row of zeros stays one; a value that is not finite makes its row's scale NaN.
typedef struct mi_quantise_rows_params {
  mi_header header;
  mi_view src;     // [rows, dim], any weight dtype but e4m3
  mi_view dst;     // [rows, dim] e4m3; dim and stride are multiples of 16, rows start on 16 bytes
  mi_ref scales;   // f32 [rows]
  int32_t rows, dim;
} mi_quantise_rows_params;

// Attention of one sequence, all heads. Query row r stands at position kv_len - q_len + r.
// Without a list every head is dense. Rows without a key write out = 0, lse = -inf.
typedef struct mi_attention_params {
  mi_header header;
  mi_view q;     // [q_heads, q_len, head_dim] f32, f16 or bf16
  mi_view k, v;  // [kv_heads, kv_len, head_dim]; or e4m3 with scales (on a GPU: for up to 64 query rows a KV head)
  mi_view out;   // [q_heads, q_len, head_dim], may be q
  mi_ref lse;    // f32 [q_heads, q_len], natural logarithm, optional
  mi_ref list;   // work list written by MI_OP_INDEX, optional
  mi_ref k_scales, v_scales;  // f32 [kv_heads, scale_stride], with e4m3 alone
  mi_ref workspace;
  uint64_t list_bytes;
  uint64_t workspace_bytes;
  int64_t scale_stride;
  int32_t q_heads, kv_heads, head_dim;
  int32_t q_len, kv_len;
  int32_t causal;  // a list requires 1
  float scale;     // softmax scale, usually 1/sqrt(head_dim)
  int32_t reserved;
} mi_attention_params;

// The last-queries estimate (arXiv 2407.02490, section 3.3): P = softmax of the last
// L = min(last_q, q_len) query rows over all keys, causal; column sums and diagonal sums of P.
typedef struct mi_estimate_params {
  mi_header header;
  mi_view q, k;
  mi_ref vertical;  // f32 [q_heads, kv_len], sum of P over the probe rows for each key
  mi_ref slash;     // f32 [q_heads, kv_len], sum of P for each distance (query - key)
  mi_ref lse;       // f32 [q_heads, L], natural log-sum-exp of each probe row
  mi_ref workspace;
  uint64_t workspace_bytes;
  int32_t q_heads, kv_heads, head_dim;
  int32_t q_len, kv_len;
  int32_t last_q;  // 1 to 64
  float scale;
  int32_t reserved;
} mi_estimate_params;

typedef enum mi_pattern_kind {
  MI_DENSE = 0,
  MI_A_SHAPE = 1,
  MI_VERTICAL_SLASH = 2,
  MI_BLOCK_SPARSE = 3,
} mi_pattern_kind;

typedef enum mi_selection {
  MI_EXACT = 0,   // upstream semantics: single diagonals, each a sliding 64-key range per row block
  MI_BANDED = 1,  // diagonals chosen as 64-wide tiles by their mass
} mi_selection;

typedef enum mi_pattern_flags {
  MI_FORCE_SINK = 1,      // block-sparse: always visit the first key block
  MI_FORCE_DIAGONAL = 2,  // block-sparse: always visit the query's own block
  MI_ANTIDIAGONAL = 4,    // block-sparse: score blocks by strided antidiagonal sums, not mean pooling
} mi_pattern_flags;

typedef struct mi_pattern {  // one query head, 40 bytes
  int32_t kind;              // mi_pattern_kind
  int32_t selection;         // mi_selection
  int32_t vertical;          // columns, count
  int32_t slash;             // diagonals, count
  float mass;                // > 0: choose columns and bands until this fraction of the estimated mass
                             // is covered; vertical and slash are then upper bounds (0 = none)
  int32_t sink, local;       // A-shape: key j is seen from i iff i-j < local or j < sink
  int32_t top_k;             // block-sparse: key blocks per query block
  int32_t flags;             // mi_pattern_flags
  int32_t reserved;
} mi_pattern;

typedef struct mi_head_stats {  // 56 bytes, written per query head by MI_OP_INDEX
  uint32_t kind;                // mi_pattern_kind after the automatic choice and the guard
  uint32_t bands;               // merged bands in the list
  uint32_t columns;             // single columns in the list
  float density;                // tiles / causal_tiles
  float retained_mean;          // attention mass of the list on the probe rows, mean over rows
  float retained_min;           // and the worst row
  uint64_t tiles;               // 64 x 64 tiles the attention computes
  uint64_t causal_tiles;        // 64 x 64 tiles of dense causal attention
  uint32_t guarded;             // 1: the guard made this head dense
  float unguarded_mean;         // then: retained_mean and retained_min of the list it had
  float unguarded_min;
  uint32_t reserved;
} mi_head_stats;

// Selects columns, bands and blocks for every head and writes the work list (work_list.h).
// Needs the sums of MI_OP_ESTIMATE over the same q and k for vertical-slash heads.
typedef struct mi_index_params {
  mi_header header;
  mi_view q, k;
  mi_ref vertical, slash, lse;  // from MI_OP_ESTIMATE; may be absent without vertical-slash heads
  mi_ref list;                  // out; mi_plan reports its bytes
  mi_ref stats;                 // out, mi_head_stats [q_heads], optional
  mi_ref workspace;
  uint64_t list_bytes;
  uint64_t workspace_bytes;
  int32_t q_heads, kv_heads, head_dim;
  int32_t q_len, kv_len;
  int32_t last_q;
  float scale;
  float dense_above;     // a head whose density exceeds this becomes dense; >= 1 keeps the list
  int32_t measure_mass;  // 1: fill retained_mean and retained_min (one more pass over the probe rows)
  // Guard, decided where the list is built: a head becomes dense whose list has a retained_mean under guard_mean
  // or a retained_min under guard_min. In [0, 1], 0 = off. A guard measures the mass.
  float guard_mean, guard_min;
  int32_t reserved;
  // followed by mi_pattern[q_heads]
} mi_index_params;

// ---- functions -------------------------------------------------------------------------------

MI_API uint32_t mi_abi_version(void);

// JSON: version, backends built in, offsets of every struct. Returns the bytes needed, and writes
// at most `capacity`.
MI_API uint64_t mi_describe(char* text, uint64_t capacity);

// Devices of a kind: >= 0, or MI_NO_DEVICE with the reason. The CPU counts 1.
MI_API int32_t mi_device_count(int32_t kind, mi_error* error);
MI_API int32_t mi_device_open(const mi_device_options* options, uint64_t* device, mi_error* error);
// Cancels queued work, waits for what runs, frees every buffer.
MI_API int32_t mi_device_close(uint64_t device, mi_error* error);
MI_API int32_t mi_device_info_get(uint64_t device, mi_device_info* info, mi_error* error);

MI_API int32_t mi_alloc(uint64_t device, uint64_t bytes, uint64_t* buffer, mi_error* error);
// The same in host memory, page-locked for a GPU: mi_copy and mi_free alone take it.
MI_API int32_t mi_alloc_host(uint64_t device, uint64_t bytes, uint64_t* buffer, mi_error* error);
MI_API int32_t mi_free(uint64_t device, uint64_t buffer, mi_error* error);

// In queue order; return when the bytes have arrived.
MI_API int32_t mi_write(uint64_t device, uint64_t buffer, uint64_t offset, const void* data, uint64_t bytes,
                        mi_error* error);
MI_API int32_t mi_read(uint64_t device, uint64_t buffer, uint64_t offset, void* data, uint64_t bytes,
                       mi_error* error);
// A read of up to MI_QUEUED_READ bytes in two halves: mi_read_start takes its place in the queue and returns;
// mi_read_finish waits for the bytes, writes as many as were asked for and ends `read`. Work queued between the two
// does not wait for either.
MI_API int32_t mi_read_start(uint64_t device, uint64_t buffer, uint64_t offset, uint64_t bytes, uint64_t* read,
                             mi_error* error);
MI_API int32_t mi_read_finish(uint64_t device, uint64_t read, void* data, mi_error* error);
// Streams a range of a file into a buffer without a second host copy of it.
MI_API int32_t mi_load(uint64_t device, uint64_t buffer, uint64_t offset, const char* path, uint64_t file_offset,
                       uint64_t bytes, mi_error* error);
// Queues a copy. Between host and device memory a GPU runs it beside what is queued after it; what touches its buffer on
// the device waits until it is done.
MI_API int32_t mi_copy(uint64_t device, uint64_t dst, uint64_t dst_offset, uint64_t src, uint64_t src_offset,
                       uint64_t bytes, mi_error* error);

// Bytes an operation needs: out[0] workspace, out[1] work list (MI_OP_INDEX alone).
MI_API int32_t mi_plan(uint64_t device, const mi_header* params, uint64_t* out, mi_error* error);
MI_API int32_t mi_submit(uint64_t device, const mi_header* params, mi_error* error);
// Operations one after the other, as mi_submit would queue them: `bytes` bytes of parameter structs without gaps. All
// are checked before any is queued. A GPU runs them as one graph, which costs it less than so many launches: for steps
// of many short operations, the same from step to step but for addresses and lengths.
MI_API int32_t mi_submit_batch(uint64_t device, const void* params, uint64_t bytes, mi_error* error);
// Waits for all queued work. MI_CANCELLED if mi_cancel dropped some of it; the device is usable again.
MI_API int32_t mi_sync(uint64_t device, mi_error* error);
// Drops queued work and stops the running operation at its next tile. Cheap, any thread.
MI_API int32_t mi_cancel(uint64_t device, mi_error* error);
// out[0] operations submitted, out[1] completed, out[2] and out[3] parts done and all of the running one.
MI_API int32_t mi_progress(uint64_t device, uint64_t* out, mi_error* error);
// Nanoseconds spent per mi_op since the last call: out[MI_OP_COUNT]. Counted while profiling is on.
MI_API int32_t mi_timings(uint64_t device, uint64_t* out, mi_error* error);
// Turns profiling on (1) or off (0) for what runs from now on; it starts as mi_device_options said.
MI_API int32_t mi_profile(uint64_t device, int32_t on, mi_error* error);

#ifdef __cplusplus
}
#endif
#endif
