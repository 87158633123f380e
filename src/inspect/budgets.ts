/**
 * Budgets along the density-recall curve.
 *
 * @module
 */
import type { HeadPattern } from "../attention/patterns.ts";
import type { Method } from "./describe.ts";

/** A method with rising budgets. */
export interface BudgetRange {
  /** How keys are selected. */
  readonly method: Method;
  /** Cheapest first. */
  readonly patterns: readonly HeadPattern[];
}

/** Shares of the mass for budgets by mass, and for the oracle. */
export const SHARES: readonly number[] = [0.5, 0.65, 0.8, 0.9, 0.95, 0.975, 0.99];

/** Doublings from `first` while below `end`. */
function doublings(first: number, end: number): number[] {
  const values: number[] = [];
  for (let value = first; value < end; value *= 2) values.push(value);
  return values;
}

/**
 * What is measured for the curve.
 *
 * @param tokens Length of the sample: budgets that would take most of it are left out.
 */
export function budgetRanges(tokens: number): readonly BudgetRange[] {
  const most = tokens / 3;
  const blocks = (score: "pooled" | "antidiagonal"): HeadPattern[] =>
    doublings(2, most / 64).map((topK) => {
      return { kind: "block_sparse", topK, score, forceSink: true, forceDiagonal: true };
    });
  return [
    {
      method: "a_shape",
      patterns: doublings(64, most).map((local) => ({ kind: "a_shape", sink: 64, local })),
    },
    {
      method: "counts",
      patterns: doublings(128, most).map((count) => {
        return { kind: "vertical_slash", vertical: count, slash: count };
      }),
    },
    {
      method: "mass",
      patterns: SHARES.map((mass) => ({ kind: "vertical_slash", mass })),
    },
    { method: "pooled", patterns: blocks("pooled") },
    { method: "antidiagonal", patterns: blocks("antidiagonal") },
  ];
}
