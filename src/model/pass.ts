/**
 * What a pass of tokens through the decoder takes on the device beside weights and cache. Said once: the
 * decoder takes it, the memory plan counts it.
 *
 * @module
 */
import { chooseDense, DENSE_ABOVE } from "../attention/cost.ts";
import type { Guard } from "../attention/guard.ts";
import { type HeadPattern, resolvePattern } from "../attention/patterns.ts";
import type { ReviseEstimate } from "../attention/revise.ts";
import type { IndexOptions, SequenceShape } from "../attention/sequence.ts";
import type { DeviceKind } from "../device/info.ts";
import type { FloatDType } from "../device/dtype.ts";
import type { Tensor } from "../device/tensor.ts";
import type { ModelConfig } from "./config.ts";

/** Sparse attention of a forward pass. */
export interface SparseOptions {
  /** Patterns, [layer][query head]. */
  readonly patterns: readonly (readonly HeadPattern[])[];
  /** u8 [layers * statsBytes(heads)]: receives `mi_head_stats`; layers that run densely leave theirs. */
  readonly stats?: Tensor;
  /** Measure retained mass on the probe rows. */
  readonly measureMass?: boolean;
  /** What a head's list must keep, else it is computed densely. Default nothing. */
  readonly guard?: Guard;
  /** Probe rows. Default 64. */
  readonly lastQ?: number;
  /** Revises what vertical-slash heads select by. */
  readonly reviseEstimate?: ReviseEstimate;
  /** Compute a head densely where its list would not pay. Default true. */
  readonly automatic?: boolean;
}

/**
 * Rows per pass of the token-wise operations: bounds their workspace whatever the prompt's length. A GPU
 * takes many rows to fill its multiprocessors evenly.
 */
export const ROW_CHUNK: Readonly<Record<DeviceKind, number>> = { cpu: 2048, cuda: 16_384 };

/** Element type of activations: f32 on the CPU, bf16 on a GPU. */
export function activationDtype({ kind }: { readonly kind: DeviceKind }): FloatDType {
  return kind === "cpu" ? "f32" : "bf16";
}

/** Names of the activations. */
export type Activation = "hidden" | "q" | "k" | "v" | "normed" | "gate" | "up" | "update";

/** Rows and columns of the activations of a pass of `rows` tokens. */
export function activationSizes(
  config: ModelConfig,
  kind: DeviceKind,
  rows: number,
): Readonly<Record<Activation, readonly [rows: number, columns: number]>> {
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, postNorms } = config;
  const part = Math.min(rows, ROW_CHUNK[kind]);
  return {
    hidden: [rows, hiddenSize],
    q: [rows, heads * headDim], // the attention's output takes its place
    k: [part, kvHeads * headDim],
    v: [part, kvHeads * headDim],
    normed: [part, hiddenSize],
    gate: [part, intermediateSize],
    up: [part, intermediateSize],
    update: [postNorms ? part : 0, hiddenSize],
  };
}

/** Shape of the attention of the last `rows` of `kvLen` tokens. */
export function attentionShape(config: ModelConfig, rows: number, kvLen: number): SequenceShape {
  const { heads: qHeads, kvHeads, headDim } = config;
  return { qHeads, kvHeads, headDim, qLen: rows, kvLen, scale: 1 / Math.sqrt(headDim) };
}

/** The patterns a layer's work list is made of, or undefined where dense attention is chosen. */
export function listedPatterns(
  kind: DeviceKind,
  shape: SequenceShape,
  layer: number,
  sparse?: SparseOptions,
): readonly HeadPattern[] | undefined {
  if (!sparse || shape.qLen === 1) return undefined; // decoding is dense, as upstream's
  const patterns = sparse.patterns[layer].map(resolvePattern);
  if (patterns.every((p) => p.kind === "dense")) return undefined;
  if ((sparse.automatic ?? true) && chooseDense(kind, shape, patterns)) return undefined;
  return patterns;
}

/** How a pass has its lists made. */
export function indexOptions(kind: DeviceKind, sparse: SparseOptions): IndexOptions {
  const { lastQ, measureMass, guard, automatic = true } = sparse;
  return { lastQ, measureMass, guard, denseAbove: automatic ? DENSE_ABOVE[kind] : 1 };
}
