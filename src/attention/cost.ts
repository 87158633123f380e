/**
 * The automatic choice between sparse and dense: sparse is never slower.
 *
 * A head's cost is counted in 64 x 64 tiles. Dense attention computes the causal tiles; sparse attention
 * computes `density` times as many, each at `sparseTile` times the price (lists are walked, columns
 * gathered, masks applied), after an index whose price grows with the keys.
 *
 * @module
 */
import type { DeviceKind } from "../device/info.ts";
import type { HeadPattern } from "./patterns.ts";
import type { SequenceShape } from "./sequence.ts";

interface Prices {
  /** A listed tile over a dense one. */
  readonly sparseTile: number;
  /** Index of one head, in tiles per 64 keys. */
  readonly indexPerKeyBlock: number;
  /** Index of one head, in tiles, whatever the length. */
  readonly indexPerHead: number;
  /** Index of a layer, in tiles, whatever its heads: launches. */
  readonly indexFixed: number;
}

/** Measured by `deno task bench` (4K to 28K tokens) and `deno task bench:gpu` (8K to 1M), per tile. */
const PRICES: Record<DeviceKind, Prices> = {
  cpu: { sparseTile: 1.1, indexPerKeyBlock: 3, indexPerHead: 8, indexFixed: 0 },
  cuda: { sparseTile: 1.25, indexPerKeyBlock: 4, indexPerHead: 300, indexFixed: 32_000 },
};

/** Density over which a listed head is dearer than a dense one. */
export const DENSE_ABOVE: Record<DeviceKind, number> = {
  cpu: 1 / PRICES.cpu.sparseTile,
  cuda: 1 / PRICES.cuda.sparseTile,
};

/** Least density a pattern can have, whatever the prompt. */
function leastDensity(pattern: HeadPattern, shape: SequenceShape, causalTiles: number): number {
  const blocks = Math.ceil(shape.qLen / 64);
  const perBlock = (tiles: number): number => Math.min(1, tiles * blocks / causalTiles);
  switch (pattern.kind) {
    case "dense":
      return 1;
    case "a_shape":
      return perBlock(Math.ceil(pattern.sink / 64) + Math.ceil(pattern.local / 64));
    case "block_sparse":
      return perBlock(pattern.topK);
    case "vertical_slash": // forced columns and distances; contiguous slashes share tiles
      return perBlock(3 + (pattern.mass ? 0 : Math.ceil((pattern.slash ?? 0) / 64)));
  }
}

/** Causal tiles of a shape. */
export function causalTiles(shape: SequenceShape): number {
  const blocks = Math.ceil(shape.qLen / 64);
  const last = Math.ceil(shape.kvLen / 64);
  return blocks * last - blocks * (blocks - 1) / 2;
}

/**
 * True where not even the sparsest list these patterns allow would repay its index, so that dense
 * attention is chosen before any index is built. Denser lists are caught after the index is known, head by
 * head, by {@linkcode DENSE_ABOVE}.
 */
export function chooseDense(
  kind: DeviceKind,
  shape: SequenceShape,
  patterns: readonly HeadPattern[],
): boolean {
  const { sparseTile, indexPerKeyBlock, indexPerHead, indexFixed } = PRICES[kind];
  const dense = causalTiles(shape);
  let saved = -indexFixed;
  for (const pattern of patterns) {
    if (pattern.kind === "dense") continue;
    // A list that does not pay is given up for its head, but has been made.
    saved += Math.max(0, dense * (1 - sparseTile * leastDensity(pattern, shape, dense)));
    if (pattern.kind !== "a_shape") {
      saved -= indexPerHead + indexPerKeyBlock * Math.ceil(shape.kvLen / 64);
    }
  }
  return saved <= 0;
}
