/**
 * Parameter structs of minference.h, field for field.
 *
 * @module
 */
import { Struct } from "./structs.ts";

/** `MI_ABI_VERSION`. */
export const ABI_VERSION = 3;

/** `MI_OP_COUNT`. */
export const OP_COUNT = 15;

/** Names of `mi_op`, by number. */
export const OP_NAMES = [
  "copy",
  "embed",
  "rms_norm",
  "rope",
  "copy",
  "linear",
  "silu_mul",
  "sample",
  "convert",
  "attention",
  "estimate",
  "index",
  "quantise",
  "dequantise",
  "quantise_rows",
] as const;

/** Names of `mi_pattern_kind`, by number. */
export const PATTERN_KINDS = ["dense", "a_shape", "vertical_slash", "block_sparse"] as const;
/** `mi_selection`. */
export const SELECTION = { exact: 0, banded: 1 } as const;
/** `mi_pattern_flags`. */
export const PATTERN_FLAG = { forceSink: 1, forceDiagonal: 2, antidiagonal: 4 } as const;
/** `mi_precision`. */
export const PRECISION = { f32: 0, bf16: 1 } as const;
/** `mi_device_kind`. */
export const DEVICE_KIND = { cpu: 0, cuda: 1 } as const;

/** `mi_device_options`. */
export const deviceOptions = new Struct("mi_device_options", {
  size: "u32",
  kind: "i32",
  index: "i32",
  threads: "i32",
  memory_limit: "u64",
  isa: "i32",
  profile: "i32",
});

/** `mi_embed_params`. */
export const embed = new Struct("mi_embed_params", {
  ids: "ref",
  table: "view",
  out: "view",
  rows: "i32",
  dim: "i32",
  vocab: "i32",
  reserved: "i32",
}, 1);

/** `mi_rms_norm_params`. */
export const rmsNorm = new Struct("mi_rms_norm_params", {
  x: "view",
  residual: "view",
  weight: "ref",
  out: "view",
  rows: "i32",
  heads: "i32",
  dim: "i32",
  eps: "f32",
}, 2);

/** `mi_rope_params`. */
export const rope = new Struct("mi_rope_params", {
  x: "view",
  out: "view",
  inv_freq: "ref",
  position: "i64",
  rows: "i32",
  heads: "i32",
  head_dim: "i32",
  rotary_dim: "i32",
  interleaved: "i32",
  scale: "f32",
}, 3);

/** `mi_copy_params`. */
export const copy = new Struct("mi_copy_params", {
  src: "view",
  dst: "view",
  rows: "i32",
  heads: "i32",
  dim: "i32",
  reserved: "i32",
}, 4);

/** `mi_linear_params`. */
export const linear = new Struct("mi_linear_params", {
  x: "view",
  w: "view",
  bias: "ref",
  w_scales: "ref",
  y: "view",
  workspace: "ref",
  workspace_bytes: "u64",
  rows: "i32",
  in_features: "i32",
  out_features: "i32",
  accumulate: "i32",
  precision: "i32",
  reserved: "i32",
}, 5);

/** `mi_silu_mul_params`. */
export const siluMul = new Struct("mi_silu_mul_params", {
  gate: "view",
  up: "view",
  out: "view",
  rows: "i32",
  dim: "i32",
}, 6);

/** `mi_sample_params`. */
export const sample = new Struct("mi_sample_params", {
  logits: "ref",
  history: "ref",
  out: "ref",
  vocab: "i32",
  history_length: "i32",
  temperature: "f32",
  top_p: "f32",
  min_p: "f32",
  repetition_penalty: "f32",
  top_k: "i32",
  reserved: "i32",
  seed: "u64",
  step: "u64",
}, 7);

/** `mi_convert_params`. */
export const convert = new Struct("mi_convert_params", {
  src: "ref",
  dst: "ref",
  src_dtype: "i32",
  dst_dtype: "i32",
  elements: "i64",
}, 8);

/** `mi_attention_params`. */
export const attention = new Struct("mi_attention_params", {
  q: "view",
  k: "view",
  v: "view",
  out: "view",
  lse: "ref",
  list: "ref",
  k_scales: "ref",
  v_scales: "ref",
  workspace: "ref",
  list_bytes: "u64",
  workspace_bytes: "u64",
  scale_stride: "i64",
  q_heads: "i32",
  kv_heads: "i32",
  head_dim: "i32",
  q_len: "i32",
  kv_len: "i32",
  causal: "i32",
  scale: "f32",
  reserved: "i32",
}, 9);

/** `mi_estimate_params`. */
export const estimate = new Struct("mi_estimate_params", {
  q: "view",
  k: "view",
  vertical: "ref",
  slash: "ref",
  lse: "ref",
  workspace: "ref",
  workspace_bytes: "u64",
  q_heads: "i32",
  kv_heads: "i32",
  head_dim: "i32",
  q_len: "i32",
  kv_len: "i32",
  last_q: "i32",
  scale: "f32",
  reserved: "i32",
}, 10);

/** `mi_pattern`. */
export const pattern = new Struct("mi_pattern", {
  kind: "i32",
  selection: "i32",
  vertical: "i32",
  slash: "i32",
  mass: "f32",
  sink: "i32",
  local: "i32",
  top_k: "i32",
  flags: "i32",
  reserved: "i32",
});

/** `mi_head_stats`. */
export const headStats = new Struct("mi_head_stats", {
  kind: "u32",
  bands: "u32",
  columns: "u32",
  density: "f32",
  retained_mean: "f32",
  retained_min: "f32",
  tiles: "u64",
  causal_tiles: "u64",
  guarded: "u32",
  unguarded_mean: "f32",
  unguarded_min: "f32",
  reserved: "u32",
});

/** `mi_index_params`; followed by one `mi_pattern` per query head. */
export const index = new Struct("mi_index_params", {
  q: "view",
  k: "view",
  vertical: "ref",
  slash: "ref",
  lse: "ref",
  list: "ref",
  stats: "ref",
  workspace: "ref",
  list_bytes: "u64",
  workspace_bytes: "u64",
  q_heads: "i32",
  kv_heads: "i32",
  head_dim: "i32",
  q_len: "i32",
  kv_len: "i32",
  last_q: "i32",
  scale: "f32",
  dense_above: "f32",
  measure_mass: "i32",
  guard_mean: "f32",
  guard_min: "f32",
  reserved: "i32",
}, 11);

/** `mi_quantise_params`. */
export const quantise = new Struct("mi_quantise_params", {
  src: "view",
  dst: "view",
  scales: "ref",
  scale_stride: "i64",
  position: "i32",
  rows: "i32",
  heads: "i32",
  dim: "i32",
}, 12);

/** `mi_dequantise_params`. */
export const dequantise = new Struct("mi_dequantise_params", {
  src: "view",
  dst: "view",
  scales: "ref",
  scale_stride: "i64",
  rows: "i32",
  heads: "i32",
  dim: "i32",
  reserved: "i32",
}, 13);

/** `mi_quantise_rows_params`. */
export const quantiseRows = new Struct("mi_quantise_rows_params", {
  src: "view",
  dst: "view",
  scales: "ref",
  rows: "i32",
  dim: "i32",
}, 14);
