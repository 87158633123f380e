// Attention in float64, cell by cell: the oracle of every attention path.
import type { SequenceShape } from "../../src/attention/sequence.ts";

/** One sequence's operands: q [Hq, Nq, D], k and v [Hkv, Nk, D]. */
export interface Operands {
  readonly q: ArrayLike<number>;
  readonly k: ArrayLike<number>;
  readonly v: ArrayLike<number>;
}

/** How often a cell counts: 0 is masked. */
export type Visits = (head: number, row: number) => ArrayLike<number>;

/** The causal mask. */
export function causal(shape: SequenceShape): Visits {
  const offset = shape.kvLen - shape.qLen;
  return (_, row) => Array.from({ length: shape.kvLen }, (_, key) => key <= offset + row ? 1 : 0);
}

/** No mask. */
export function full(shape: SequenceShape): Visits {
  return () => Array(shape.kvLen).fill(1);
}

/** Output [Hq, Nq, D] and natural log-sum-exp [Hq, Nq] over the visited cells; rows without one give 0 and -Infinity. */
export function attend(
  shape: SequenceShape,
  { q, k, v }: Operands,
  visits: Visits,
): { out: Float64Array; lse: Float64Array } {
  const { qHeads, kvHeads, headDim: d, qLen, kvLen, scale } = shape;
  const out = new Float64Array(qHeads * qLen * d);
  const lse = new Float64Array(qHeads * qLen);
  for (let h = 0; h < qHeads; h++) {
    const kv = Math.floor(h / (qHeads / kvHeads)) * kvLen;
    for (let r = 0; r < qLen; r++) {
      const row = h * qLen + r;
      const weight = visits(h, r);
      const scores = new Float64Array(kvLen).fill(-Infinity);
      let max = -Infinity;
      for (let j = 0; j < kvLen; j++) {
        if (!weight[j]) continue;
        let dot = 0;
        for (let c = 0; c < d; c++) dot += q[row * d + c] * k[(kv + j) * d + c];
        scores[j] = dot * scale;
        max = Math.max(max, scores[j]);
      }
      let sum = 0;
      for (let j = 0; j < kvLen; j++) {
        if (scores[j] === -Infinity) continue;
        const p = weight[j] * Math.exp(scores[j] - max);
        sum += p;
        for (let c = 0; c < d; c++) out[row * d + c] += p * v[(kv + j) * d + c];
      }
      lse[row] = sum > 0 ? max + Math.log(sum) : -Infinity;
      for (let c = 0; c < d && sum > 0; c++) out[row * d + c] /= sum;
    }
  }
  return { out, lse };
}
