/**
 * Patterns that the search tries on every head.
 *
 * @module
 */
import type { HeadPattern } from "../attention/patterns.ts";

/** The space of the paper (arXiv 2407.02490, table 7), plus the pairs of upstream's shipped files. */
const PUBLISHED: readonly HeadPattern[] = [
  { kind: "a_shape", sink: 1024, local: 4096 },
  { kind: "vertical_slash", vertical: 30, slash: 800 },
  { kind: "vertical_slash", vertical: 100, slash: 800 },
  { kind: "vertical_slash", vertical: 500, slash: 700 },
  { kind: "vertical_slash", vertical: 3500, slash: 100 },
  { kind: "vertical_slash", vertical: 1000, slash: 6096 },
  { kind: "block_sparse", topK: 100 },
];

/** Fractions of the estimated mass, cheapest first: the ladder a head climbs until its recall suffices. */
const MASS_LADDER: readonly number[] = [0.8, 0.9, 0.95, 0.975, 0.99];

/**
 * Most columns and diagonals beside a fraction: a head that looks everywhere needs ever more of them as prompts grow,
 * though the answer hardly ever depends on it.
 */
const MASS_BOUNDS = { vertical: 8192, slash: 2048 };

function blocks(topK: number, score: "pooled" | "antidiagonal"): HeadPattern {
  return { kind: "block_sparse", topK, score, forceSink: true, forceDiagonal: true };
}

/**
 * The candidates for a prompt of `tokens` tokens.
 *
 * @param tokens Length of the sample.
 * @param space `published`: the paper's space. `full`: mass-fraction budgets, and block-sparse heads by pooled and by
 * antidiagonal scores (arXiv 2503.16428). No windows and no counts of columns and diagonals: those that hold on the
 * sample keep too little of a prompt four times as long, while a fraction of the mass follows it.
 */
export function candidates(tokens: number, space: "published" | "full"): readonly HeadPattern[] {
  if (space === "published") return PUBLISHED;
  const keyBlocks = Math.ceil(tokens / 64);
  const topKs = [48].filter((topK) => topK < keyBlocks / 2); // 16 keep too little of a prompt four times as long
  return [
    ...MASS_LADDER.map((mass): HeadPattern => ({ kind: "vertical_slash", mass, ...MASS_BOUNDS })),
    ...topKs.map((topK) => blocks(topK, "pooled")),
    ...topKs.map((topK) => blocks(topK, "antidiagonal")),
  ];
}
