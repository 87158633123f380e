// The index builder's semantics in float64 and sets: arXiv 2407.02490, section 3.3, and upstream's conversion
// (shared reference 1.1 and 1.2), written for clarity.
import type { SequenceShape } from "../../src/attention/sequence.ts";
import type { Band } from "../../src/attention/work_list.ts";

/** One head's estimate. */
export interface HeadEstimate {
  /** Probabilities of each probe row over its causal keys, [probe rows][position + 1]. */
  readonly rows: Float64Array[];
  /** Sum of probabilities of each key, [kvLen]. */
  readonly vertical: Float64Array;
  /** Sum of probabilities of each distance (query position minus key position), [kvLen]. */
  readonly slash: Float64Array;
  /** Natural log-sum-exp of each probe row. */
  readonly lse: Float64Array;
}

/** Attention of the last min(lastQ, qLen) rows of one query head. q: [Hq, Nq, D], k: [Hkv, Nk, D]. */
export function estimateHead(
  shape: SequenceShape,
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  head: number,
  lastQ: number,
): HeadEstimate {
  const { qHeads, kvHeads, headDim: d, qLen, kvLen, scale } = shape;
  const keys = Math.floor(head / (qHeads / kvHeads)) * kvLen;
  const count = Math.min(lastQ, qLen);
  const vertical = new Float64Array(kvLen);
  const slash = new Float64Array(kvLen);
  const lse = new Float64Array(count);
  const rows = Array.from({ length: count }, (_, i) => {
    const position = kvLen - count + i;
    const query = head * qLen + qLen - count + i;
    const p = Float64Array.from({ length: position + 1 }, (_, key) => {
      let dot = 0;
      for (let c = 0; c < d; c++) dot += q[query * d + c] * k[(keys + key) * d + c];
      return dot * scale;
    });
    const max = p.reduce((a, b) => Math.max(a, b));
    lse[i] = max + Math.log(p.reduce((sum, s) => sum + Math.exp(s - max), 0));
    p.forEach((s, key) => {
      p[key] = Math.exp(s - lse[i]);
      vertical[key] += p[key];
      slash[position - key] += p[key];
    });
    return p;
  });
  return { rows, vertical, slash, lse };
}

/** Indices of the k largest values, ascending; the first `forced` come before all others, ties go to the lowest index. */
export function topK(values: ArrayLike<number>, k: number, forced: number): number[] {
  const rank = (i: number): number => i < forced ? Infinity : values[i];
  return Array.from({ length: values.length }, (_, i) => i)
    .sort((a, b) => rank(b) === rank(a) ? a - b : rank(b) - rank(a))
    .slice(0, k)
    .sort((a, b) => a - b);
}

/** Columns and distances after upstream's rule of minimum counts. */
export function budgets(
  vertical: number,
  slash: number,
  kvLen: number,
): { columns: number; distances: number } {
  return {
    columns: Math.min(kvLen, Math.max(vertical, 30)),
    distances: Math.min(kvLen, Math.max(slash, 50)),
  };
}

/** Our bands: 64-wide ranges per distance, chained from the farthest, relative to the row block's end. */
export function bandsOf(distances: readonly number[]): Band[] {
  const bands: { near: number; far: number }[] = [];
  for (const s of [...distances].sort((a, b) => b - a)) {
    const last = bands.at(-1);
    if (!last || s < last.near - 64) bands.push({ near: s, far: s + 64 });
    else if (s < last.near) last.near -= 64;
  }
  return bands.reverse().map(({ near, far }) => ({ near: Math.max(near, 0), far }));
}

/** Keys that upstream computes for the row block that ends before `end`, as ranges and single columns. */
export function upstreamKeys(
  columns: readonly number[],
  distances: readonly number[],
  end: number,
): Set<number> {
  const keys = new Set<number>();
  const ends = [...distances].sort((a, b) => b - a).filter((s) => s < end)
    .map((s) => Math.max(end - s, 64));
  const flush = (from: number, to: number): void => {
    for (let key = from; key < to; key++) keys.add(key);
  };
  let from = ends[0] - 64;
  let to = ends[0];
  for (const e of ends.slice(1)) {
    if (e > to + 64) {
      flush(from, to);
      [from, to] = [e - 64, e];
    } else if (e > to) {
      to += 64;
    }
  }
  flush(from, to);
  for (const column of columns) if (column < end) keys.add(column);
  return keys;
}

/** Upstream's block scores of row block m: unscaled products of means over 64 rows, zeros filling up short blocks. */
export function pooledScores(
  shape: SequenceShape,
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  head: number,
  block: number,
): number[] {
  const { qHeads, kvHeads, headDim: d, qLen, kvLen } = shape;
  const keys = Math.floor(head / (qHeads / kvHeads)) * kvLen;
  const mean = (values: ArrayLike<number>, first: number, count: number): Float64Array => {
    const sum = new Float64Array(d);
    for (let r = 0; r < count; r++) {
      for (let c = 0; c < d; c++) sum[c] += values[(first + r) * d + c] / 64;
    }
    return sum;
  };
  const query = mean(q, head * qLen + 64 * block, Math.min(64, qLen - 64 * block));
  return Array.from({ length: Math.ceil(kvLen / 64) }, (_, b) => {
    const key = mean(k, keys + 64 * b, Math.min(64, kvLen - 64 * b));
    return query.reduce((sum, x, c) => sum + x * key[c], 0);
  });
}

/**
 * Block scores of row block m by antidiagonals (arXiv 2503.16428): rows go in groups of 8, two groups score the
 * mean of q[7 - i] . k[i], missing rows being zeros; each query group's scores over the key groups that begin
 * no later than its last row pass a softmax, and a block's score is the probability it receives.
 */
export function antidiagonalScores(
  shape: SequenceShape,
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  head: number,
  block: number,
): number[] {
  const { qHeads, kvHeads, headDim: d, qLen, kvLen, scale } = shape;
  const queries = head * qLen;
  const keys = Math.floor(head / (qHeads / kvHeads)) * kvLen;
  const scores = new Array<number>(Math.ceil(kvLen / 64)).fill(0);
  for (let first = 64 * block; first < Math.min(qLen, 64 * block + 64); first += 8) {
    const last = kvLen - qLen + first + 7;
    const groups = Math.min(Math.floor(last / 8) + 1, Math.ceil(kvLen / 8));
    const s = Array.from({ length: groups }, (_, g) => {
      let dot = 0;
      for (let i = 0; i < 8; i++) {
        const row = first + 7 - i;
        const key = 8 * g + i;
        if (row >= qLen || key >= kvLen) continue;
        for (let c = 0; c < d; c++) dot += q[(queries + row) * d + c] * k[(keys + key) * d + c];
      }
      return dot * scale / 8;
    });
    const max = s.reduce((a, b) => Math.max(a, b));
    const total = s.reduce((sum, x) => sum + Math.exp(x - max), 0);
    s.forEach((x, g) => scores[Math.floor(g / 8)] += Math.exp(x - max) / total);
  }
  return scores;
}
