/**
 * Where a pass over some tokens writes a layer's keys and values, and where its attention reads them.
 *
 * @module
 */
import type { KvScales } from "../attention/sequence.ts";
import { byteLength, type DType, FORMAT } from "../device/dtype.ts";
import { dequantise, quantise } from "../device/ops.ts";
import type { Scratch } from "../device/scratch.ts";
import type { View } from "../native/structs.ts";
import type { LayerMemory } from "./kv_layer.ts";
import type { KvShape } from "./kv_shape.ts";

/** Keys and values of every token so far, for attention. */
export interface KvOperands {
  /** [kvHeads, tokens, headDim]. */
  readonly k: View;
  /** [kvHeads, tokens, headDim]. */
  readonly v: View;
  /** Where they are e4m3. */
  readonly kvScales?: KvScales;
}

/** A layer's keys and values in one pass. */
export interface KvPass {
  /** Where K of the pass's tokens goes, from token `row` on, as [kvHeads, rows, headDim]. */
  keys(row: number): View;
  /** Where V goes. */
  values(row: number): View;
  /** Keeps what was written. Call once K and V of every token are queued. */
  complete(): KvOperands;
}

/** One layer in one pass. */
export interface LayerPass extends KvPass {
  /** Ends the pass over the layer. Call once its attention is queued. */
  leave(): void;
}

/** Views of K and V in [2 kvHeads, capacity, headDim], from a row on. */
function halves(
  { kvHeads, headDim }: KvShape,
  base: View,
  dtype: DType,
): { keys: (row: number) => View; values: (row: number) => View } {
  const from = (element: number): View => {
    return { ...base, offset: base.offset + byteLength(dtype, element) };
  };
  return {
    keys: (row) => from(row * headDim),
    values: (row) => from(kvHeads * base.headStride + row * headDim),
  };
}

/** The cache holds what attention reads. */
export function storedPass(shape: KvShape, { rows }: LayerMemory, position: number): KvPass {
  const { keys, values } = halves(shape, rows.view(), shape.dtype);
  return {
    keys: (row) => keys(position + row),
    values: (row) => values(position + row),
    complete: () => ({ k: keys(0), v: values(0) }),
  };
}

/**
 * A prompt's attention reads keys and values of this layer that were never quantised, those of earlier
 * tokens dequantised, from scratch; they are quantised for later. A single token's reads the cache itself.
 *
 * Nothing loses by being quantised twice, when a block fills up over several passes: see
 * `mi_quantise_params`.
 */
export function quantisedPass(
  scratch: Scratch,
  shape: KvShape,
  { rows: codes, scales }: LayerMemory,
  position: number,
  rows: number,
): KvPass {
  const { device } = scratch;
  const { kvHeads, headDim, dtype } = shape;
  const decoding = rows === 1;
  const first = decoding ? position : 0; // token in row 0 of the scratch
  const held = position + rows - first;
  const size = { heads: 2 * kvHeads, dim: headDim };
  const floats: View = {
    ...scratch.buffer("layer kv", byteLength(dtype, size.heads * held * headDim)).view(),
    rowStride: headDim,
    headStride: held * headDim,
    dtype: FORMAT[dtype].code,
  };
  const { keys, values } = halves(shape, floats, dtype);
  const cache = { view: codes.view(), scales: scales!.ref(), scaleStride: scales!.shape[1] };
  const before = position - first;
  if (before > 0) dequantise(device, cache, floats, { ...size, rows: before });
  return {
    keys: (row) => keys(before + row),
    values: (row) => values(before + row),
    complete: () => {
      quantise(device, keys(before), cache, { ...size, position, rows });
      if (!decoding) return { k: keys(0), v: values(0) };
      const stored = halves(shape, cache.view, "e4m3");
      return {
        k: stored.keys(0),
        v: stored.values(0),
        kvScales: {
          k: cache.scales,
          v: scales!.ref(kvHeads * cache.scaleStride),
          stride: cache.scaleStride,
        },
      };
    },
  };
}
