/**
 * Index sets and inputs of the GPU benchmark: the same ones that gpu_peers/inputs.py gives the peers.
 *
 * @module
 */

/** First keys, which upstream always takes. */
const SINKS = 30;
/** Nearest distances, likewise. */
const FORCED = 100;
/** Length of a run of slashes outside the local band. */
const RUN = 64;

/** A budget of the published Llama-3-8B-262k pattern file. */
export interface Budget {
  /** Columns. */
  readonly vertical: number;
  /** Slashes. */
  readonly slash: number;
  /** Heads of a layer of 32 in the proportion of the model's 1024 (473, 278, 153, 89, 31). */
  readonly heads: number;
}

/** The published budgets. */
export const BUDGETS: readonly Budget[] = [
  { vertical: 1000, slash: 6096, heads: 15 },
  { vertical: 30, slash: 800, heads: 8 },
  { vertical: 100, slash: 800, heads: 5 },
  { vertical: 3500, slash: 100, heads: 3 },
  { vertical: 500, slash: 700, heads: 1 },
];

/** The budget of each head of a layer of 32. */
export const LAYER_BUDGETS: readonly Budget[] = BUDGETS.flatMap((budget) =>
  Array<Budget>(budget.heads).fill(budget)
);

/** x' = 1664525 x + 1013904223 mod 2^32 (Numerical Recipes); a draw below n takes the high bits. */
function lcg(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return (n) => {
    state = (Math.imul(1664525, state) + 1013904223) >>> 0;
    return Math.floor(state * n / 2 ** 32);
  };
}

/**
 * Columns and distances (query position minus key position) of one head, both ascending. Columns: the
 * sinks and random others. Distances: two thirds, and what is forced, are the
 * local band, the rest runs of 64.
 */
export function indexSet(
  tokens: number,
  vertical: number,
  slash: number,
  seed: number,
): { columns: Int32Array; distances: Int32Array } {
  const below = lcg(seed);
  const columns = new Set<number>();
  for (let c = 0; c < Math.min(SINKS, vertical, tokens); c++) columns.add(c);
  while (columns.size < Math.min(vertical, tokens)) columns.add(below(tokens));
  const wanted = Math.min(slash, tokens);
  const distances = new Set<number>();
  const local = Math.min(wanted, Math.max(FORCED, Math.floor(2 * wanted / 3)));
  for (let d = 0; d < local; d++) distances.add(d);
  while (distances.size < wanted) {
    const start = RUN * below(Math.ceil(tokens / RUN));
    const end = Math.min(start + RUN, tokens);
    for (let d = start; d < end && distances.size < wanted; d++) distances.add(d);
  }
  return {
    columns: Int32Array.from(columns).sort(),
    distances: Int32Array.from(distances).sort(),
  };
}

/** A uniform number in [-1, 1) of an index (the lowbias32 hash). */
function hashUnit(index: number): number {
  let x = index | 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return ((x ^ (x >>> 16)) >>> 0) / 2 ** 31 - 1;
}

const DIM = 128;
const LOCAL = 24; // pairs of low harmonics: a bump at distance 0
const COMB = 32; // pairs of harmonics of tokens / 32: peaks at its multiples
const LOCAL_SCALE = 1.4;
const COMB_SCALE = 1;
const SALT = { q: 1, k: 2, v: 3 } as const;

/** cos and sin of every step of a full turn, interleaved. */
function circle(steps: number): Float64Array {
  const table = new Float64Array(2 * steps);
  for (let i = 0; i < steps; i++) {
    table[2 * i] = Math.cos(2 * Math.PI * i / steps);
    table[2 * i + 1] = Math.sin(2 * Math.PI * i / steps);
  }
  return table;
}

const period = (tokens: number): number => Math.max(Math.floor(tokens / 32), 64);

let cached: { tokens: number; local: Float64Array; comb: Float64Array } | undefined;

/** The circles of a length; those of the last length are kept. */
function turns(tokens: number): { local: Float64Array; comb: Float64Array } {
  if (cached?.tokens !== tokens) {
    cached = { tokens, local: circle(2 * tokens), comb: circle(period(tokens)) };
  }
  return cached;
}

/**
 * Rows of q, k or v of one head of 128: attention with sinks, strong columns, a local band and periodic
 * diagonals. Pairs of dimensions hold cos and sin of harmonics of the position, so that q·k depends on the
 * distance; the last dimensions add mass to columns, the rest is noise.
 *
 * @returns f32 [count, 128].
 */
export function structuredRows(
  tokens: number,
  kind: "q" | "k" | "v",
  first: number,
  count: number,
): Float32Array<ArrayBuffer> {
  const rows = new Float32Array(count * DIM);
  const salt = SALT[kind] << 28;
  const turn = turns(tokens);
  const noise = kind === "v" ? 1 : 0.5;
  for (let i = 0; i < count; i++) {
    const position = first + i;
    const row = rows.subarray(i * DIM, (i + 1) * DIM);
    for (let d = 0; d < DIM; d++) row[d] = noise * hashUnit(position * DIM + d + salt);
    if (kind === "v") continue;
    for (let pair = 0; pair < LOCAL + COMB; pair++) {
      const local = pair < LOCAL;
      const harmonic = local ? pair + 1 : pair - LOCAL + 1;
      const length = local ? 2 * tokens : period(tokens);
      const scale = local ? LOCAL_SCALE : COMB_SCALE;
      const at = 2 * ((position * harmonic) % length);
      const table = local ? turn.local : turn.comb;
      row[2 * pair] = scale * table[at];
      row[2 * pair + 1] = scale * table[at + 1];
    }
    const strong = (hashUnit(position + (4 << 28)) + 1) / 2;
    row[126] = kind === "q" ? 4 : 12 * strong ** 16;
    row[127] = kind === "q" ? 4 : position < SINKS ? 12 : 0;
  }
  return rows;
}
