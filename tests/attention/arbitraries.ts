// Random shapes and patterns for the property tests.
import fc from "fast-check";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import type { SequenceShape } from "../../src/attention/sequence.ts";
import type { FloatDType } from "../../src/device/dtype.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import { attentionDtypes, device, gaussians } from "../support.ts";

/** Head sizes worth trying: the common ones and odd multiples of 8. */
const HEAD_DIMS = [8, 24, 64, 96, 128, 256];

/** Shapes with q_len <= kv_len, small enough for the float64 oracle. */
export const shapes: fc.Arbitrary<SequenceShape> = fc.record({
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.constantFrom(1, 2, 4, 7, 8),
  headDim: fc.constantFrom(...HEAD_DIMS),
  kvLen: fc.oneof(
    fc.integer({ min: 1, max: 300 }),
    fc.constantFrom(1, 63, 64, 65, 127, 128, 129, 256),
  ),
  queries: fc.double({ min: 0, max: 1, noNaN: true }),
}).map(({ kvHeads, group, headDim, kvLen, queries }) => ({
  qHeads: kvHeads * group,
  kvHeads,
  headDim,
  kvLen,
  qLen: Math.max(1, Math.round(queries * kvLen)),
  scale: 1 / Math.sqrt(headDim),
}));

/** Longer shapes with small heads, for the index: there must be something to leave out. */
export const longShapes: fc.Arbitrary<SequenceShape> = fc.record({
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 2 }),
  kvLen: fc.oneof(fc.integer({ min: 1, max: 900 }), fc.constantFrom(1, 64, 100, 128, 640)),
  queries: fc.oneof(fc.constant(1), fc.double({ min: 0, max: 1, noNaN: true })),
}).map(({ kvHeads, group, kvLen, queries }) => ({
  qHeads: kvHeads * group,
  kvHeads,
  headDim: 16,
  kvLen,
  qLen: Math.max(1, Math.round(queries * kvLen)),
  scale: 0.25,
}));

/** More keys than one thread block of the probe takes, in any number of heads: estimates alone. */
export const splitShapes: fc.Arbitrary<SequenceShape> = fc.record({
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 9 }),
  headDim: fc.constantFrom(16, 72),
  kvLen: fc.oneof(fc.integer({ min: 513, max: 1400 }), fc.constantFrom(1024, 1025)),
  queries: fc.double({ min: 0, max: 1, noNaN: true }),
}).map(({ kvHeads, group, headDim, kvLen, queries }) => ({
  qHeads: kvHeads * group,
  kvHeads,
  headDim,
  kvLen,
  qLen: Math.max(1, Math.round(queries * 200)),
  scale: 1 / Math.sqrt(headDim),
}));

/** Queries [1, Hq, Nq, D] and keys [1, Hkv, Nk, D], and their values as stored. */
export interface Case extends Disposable {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly values: { q: Float32Array; k: Float32Array };
}

/** Random queries and keys; the larger `spread`, the fewer keys a query looks at. */
export async function makeCase(
  shape: SequenceShape,
  seed: number,
  spread = 1.7,
  dtype: FloatDType = attentionDtypes[0],
): Promise<Case> {
  const make = (heads: number, rows: number, n: number): Tensor =>
    device.tensor([1, heads, rows, shape.headDim], {
      dtype,
      data: gaussians(heads * rows * shape.headDim, seed + n, spread),
    });
  const q = make(shape.qHeads, shape.qLen, 1);
  const k = make(shape.kvHeads, shape.kvLen, 2);
  const values = { q: await q.read(), k: await k.read() };
  return { q, k, values, [Symbol.dispose]: () => [q, k].forEach((t) => t.dispose()) };
}

/** Budgets from 1 to beyond the length. */
const budget = fc.oneof(fc.integer({ min: 1, max: 400 }), fc.constantFrom(1, 30, 64, 100, 1000));

/** How blocks may be scored. */
export const blockScore: fc.Arbitrary<"pooled" | "antidiagonal"> = fc.constantFrom(
  "pooled",
  "antidiagonal",
);

/** Every kind of pattern. */
export const patterns: fc.Arbitrary<HeadPattern> = fc.oneof(
  fc.constant<HeadPattern>({ kind: "dense" }),
  fc.record({
    kind: fc.constant("a_shape" as const),
    sink: fc.integer({ min: 0, max: 200 }),
    local: fc.integer({ min: 1, max: 200 }),
  }),
  fc.record({
    kind: fc.constant("vertical_slash" as const),
    vertical: budget,
    slash: budget,
    selection: fc.constantFrom("exact" as const, "banded" as const),
  }),
  fc.record({
    kind: fc.constant("vertical_slash" as const),
    mass: fc.double({ min: 0.05, max: 1, noNaN: true }),
  }),
  fc.record({
    kind: fc.constant("block_sparse" as const),
    topK: fc.integer({ min: 1, max: 7 }),
    forceSink: fc.boolean(),
    forceDiagonal: fc.boolean(),
    score: blockScore,
  }),
);

/**
 * Largest relative error of an output in this dtype: inputs are compared as stored, so f32 differs from the
 * oracle by its sums alone; 16-bit outputs round once (bf16 2^-9, f16 2^-12), and where the device multiplies
 * in bf16 the probabilities are rounded, too.
 */
export function tolerance(dtype: "f32" | "f16" | "bf16"): number {
  if (dtype === "bf16") return 8e-3;
  if (dtype === "f16") return device.kind === "cpu" ? 6e-4 : 2e-3;
  return 3e-6;
}
