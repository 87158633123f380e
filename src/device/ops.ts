/**
 * The decoder's operations, queued on a device. Shapes and dtypes are checked by the native side.
 *
 * @module
 */
import * as params from "../native/params.ts";
import type { Ref, View } from "../native/structs.ts";
import type { Device, Planner } from "./device.ts";
import { ABSENT, ABSENT_VIEW, NO_WORKSPACE, type Scratch, type Workspace } from "./scratch.ts";

/** A weight matrix [rows, columns], one row per output feature. */
export interface Weight {
  /** Where it is. */
  readonly view: View;
  /** Output features. */
  readonly rows: number;
  /** Input features. */
  readonly columns: number;
  /** f32 [rows], with e4m3 alone: what its rows are multiplied by. */
  readonly scales?: Ref;
}

/** out[r] = table[ids[r]]. */
export function embed(device: Device, ids: Ref, table: Weight, out: View, rows: number): void {
  device.submit(params.embed.encode({
    ids,
    table: table.view,
    out,
    rows,
    dim: table.columns,
    vocab: table.rows,
  }));
}

/**
 * RMS normalisation over the last dimension of [heads, rows, dim] (arXiv 1910.07467). A `residual` is
 * added to x first, in place.
 */
export function rmsNorm(
  device: Device,
  x: View,
  weight: Ref,
  out: View,
  size: { rows: number; dim: number; heads?: number; eps: number },
  residual: View = ABSENT_VIEW,
): void {
  device.submit(params.rmsNorm.encode({
    x,
    residual,
    weight,
    out,
    rows: size.rows,
    heads: size.heads ?? 1,
    dim: size.dim,
    eps: size.eps,
  }));
}

/** Size and angles of {@linkcode rope}. */
export interface RopeSize {
  /** Rows. */
  readonly rows: number;
  /** Heads. */
  readonly heads: number;
  /** Elements of a head. */
  readonly headDim: number;
  /** Elements of a head that are rotated. */
  readonly rotaryDim: number;
  /** Position of the first row. */
  readonly position: number;
  /** Pairs (2i, 2i+1) instead of (i, i + rotaryDim/2). */
  readonly interleaved: boolean;
  /** Factor of cosine and sine. */
  readonly scale: number;
}

/** Rotary position embedding (arXiv 2104.09864) of [heads, rows, headDim]. */
export function rope(device: Device, x: View, invFreq: Ref, out: View, size: RopeSize): void {
  device.submit(params.rope.encode({
    x,
    out,
    inv_freq: invFreq,
    position: size.position,
    rows: size.rows,
    heads: size.heads,
    head_dim: size.headDim,
    rotary_dim: size.rotaryDim,
    interleaved: size.interleaved ? 1 : 0,
    scale: size.scale,
  }));
}

/** Copies [heads, rows, dim] with dtype conversion. */
export function convertCopy(
  device: Device,
  src: View,
  dst: View,
  size: { rows: number; heads: number; dim: number },
): void {
  device.submit(params.copy.encode({ src, dst, ...size }));
}

/** Options of {@linkcode linear}. */
export interface LinearOptions {
  /** f32 [rows of the weight]. */
  bias?: Ref;
  /** Add to y instead of overwriting it. */
  accumulate?: boolean;
  /** `bf16` allows operands rounded to bf16 (8-bit blocks for q8_0 weights) where that is faster. */
  precision: "f32" | "bf16";
}

function encodeLinear(
  x: View,
  w: Weight,
  y: View,
  rows: number,
  options: LinearOptions,
  workspace: Workspace,
): Uint8Array<ArrayBuffer> {
  return params.linear.encode({
    x,
    w: w.view,
    bias: options.bias ?? ABSENT,
    w_scales: w.scales ?? ABSENT,
    y,
    ...workspace,
    rows,
    in_features: w.columns,
    out_features: w.rows,
    accumulate: options.accumulate ? 1 : 0,
    precision: params.PRECISION[options.precision],
  });
}

/** Bytes of workspace of {@linkcode linear}; of the views, only strides and dtypes count. */
export function planLinear(
  device: Planner,
  x: View,
  w: Weight,
  y: View,
  rows: number,
  options: LinearOptions,
): number {
  return device.plan(encodeLinear(x, w, y, rows, options, NO_WORKSPACE)).workspace;
}

/** y = x wᵀ (+ bias) (+ y). */
export function linear(
  device: Device,
  scratch: Scratch,
  x: View,
  w: Weight,
  y: View,
  rows: number,
  options: LinearOptions,
): void {
  const workspace = scratch.workspace(planLinear(device, x, w, y, rows, options));
  device.submit(encodeLinear(x, w, y, rows, options, workspace));
}

/** out = silu(gate) * up. */
export function siluMul(
  device: Device,
  gate: View,
  up: View,
  out: View,
  rows: number,
  dim: number,
): void {
  device.submit(params.siluMul.encode({ gate, up, out, rows, dim }));
}

/** Options of {@linkcode sample}. */
export interface SampleOptions {
  /** 0 takes the argmax. */
  readonly temperature: number;
  /** Keep the k most likely tokens; 0 keeps all. */
  readonly topK: number;
  /** Keep the likeliest tokens up to this probability. */
  readonly topP: number;
  /** Drop tokens less likely than this fraction of the likeliest. */
  readonly minP: number;
  /** Divides (positive) or multiplies (negative) logits of tokens in the history; 1 is off. */
  readonly repetitionPenalty: number;
  /** Seed of the draw. */
  readonly seed: bigint;
  /** Counter of the draw. */
  readonly step: bigint;
}

/** Draws one token id from f32 logits into an i32. */
export function sample(
  device: Device,
  logits: Ref,
  out: Ref,
  vocab: number,
  options: SampleOptions,
  history: Ref = ABSENT,
  historyLength = 0,
): void {
  device.submit(params.sample.encode({
    logits,
    history,
    out,
    vocab,
    history_length: historyLength,
    temperature: options.temperature,
    top_p: options.topP,
    min_p: options.minP,
    repetition_penalty: options.repetitionPenalty,
    top_k: options.topK,
    seed: options.seed,
    step: options.step,
  }));
}

/** Converts a contiguous range to another dtype. */
export function convert(
  device: Device,
  src: Ref,
  srcDtype: number,
  dst: Ref,
  dstDtype: number,
  elements: number,
): void {
  device.submit(params.convert.encode({
    src,
    dst,
    src_dtype: srcDtype,
    dst_dtype: dstDtype,
    elements,
  }));
}

/** Quantises a matrix [rows, columns] of any weight dtype into `out`, e4m3 with a scale per row. */
export function quantiseRows(device: Device, src: View, out: Weight & { scales: Ref }): void {
  const { view: dst, scales, rows, columns: dim } = out;
  device.submit(params.quantiseRows.encode({ src, dst, scales, rows, dim }));
}

/** Rows of e4m3 [heads, rows, dim] with a scale for every 128 rows of a head. */
export interface QuantisedRows {
  /** The rows. */
  readonly view: View;
  /** f32 [heads, scaleStride]. */
  readonly scales: Ref;
  /** Elements between the scales of two heads. */
  readonly scaleStride: number;
}

/** Quantises src [heads, rows, dim] into the rows of `out` from `position` on. */
export function quantise(
  device: Device,
  src: View,
  out: QuantisedRows,
  size: { position: number; rows: number; heads: number; dim: number },
): void {
  const { view: dst, scales, scaleStride: scale_stride } = out;
  device.submit(params.quantise.encode({ src, dst, scales, scale_stride, ...size }));
}

/** The first rows of `src` as floats [heads, rows, dim]. */
export function dequantise(
  device: Device,
  src: QuantisedRows,
  dst: View,
  size: { rows: number; heads: number; dim: number },
): void {
  const { view, scales, scaleStride: scale_stride } = src;
  device.submit(params.dequantise.encode({ src: view, dst, scales, scale_stride, ...size }));
}
