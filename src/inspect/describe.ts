/**
 * What patterns are called in tables and charts. Runs in the page, too: types alone are imported.
 *
 * @module
 */
import type { HeadPattern } from "../attention/patterns.ts";

/** How a head selects keys: a pattern together with the kind of its budget. */
export type Method =
  | "dense"
  | "a_shape"
  | "counts"
  | "mass"
  | "pooled"
  | "antidiagonal";

/** Methods in the order of legends, with their names. */
export const METHOD_NAMES: Readonly<Record<Method, string>> = {
  dense: "dense",
  a_shape: "A-shape",
  counts: "vertical-slash, counts",
  mass: "vertical-slash, mass",
  pooled: "blocks, pooled",
  antidiagonal: "blocks, antidiagonal",
};

/** Methods as a cell of a table shows them. */
const METHOD_LETTERS: Readonly<Record<Method, string>> = {
  dense: "dense",
  a_shape: "A",
  counts: "V",
  mass: "V",
  pooled: "P",
  antidiagonal: "D",
};

/** What the letters of {@linkcode shortName} mean. */
export const LETTER_HELP =
  "A: A-shape, first + last keys; V: vertical-slash, columns + diagonals or share of the mass;\n" +
  "P, D: key blocks by pooled or antidiagonal scores";

/** The method of a pattern. */
export function methodOf(pattern: HeadPattern): Method {
  switch (pattern.kind) {
    case "dense":
    case "a_shape":
      return pattern.kind;
    case "vertical_slash":
      return pattern.mass ? "mass" : "counts";
    case "block_sparse":
      return pattern.score ?? "pooled";
  }
}

/** The budget of a pattern: `64+256` keys, `90%` of the mass, `48` blocks; empty for dense. */
export function budgetText(pattern: HeadPattern): string {
  switch (pattern.kind) {
    case "dense":
      return "";
    case "a_shape":
      return `${pattern.sink}+${pattern.local}`;
    case "vertical_slash":
      return pattern.mass
        ? `${Number((100 * pattern.mass).toPrecision(3))}%`
        : `${pattern.vertical}+${pattern.slash}`;
    case "block_sparse":
      return `${pattern.topK}`;
  }
}

/** Size of a budget, to be compared within a method: keys, blocks, or the fraction of the mass. */
export function budgetSize(pattern: HeadPattern): number {
  switch (pattern.kind) {
    case "dense":
      return 1;
    case "a_shape":
      return pattern.sink + pattern.local;
    case "vertical_slash":
      return pattern.mass || (pattern.vertical ?? 0) + (pattern.slash ?? 0);
    case "block_sparse":
      return pattern.topK;
  }
}

/** `V 90%`, `A 64+256`: method and budget in a few characters. */
export function shortName(pattern: HeadPattern): string {
  return `${METHOD_LETTERS[methodOf(pattern)]} ${budgetText(pattern)}`.trimEnd();
}
