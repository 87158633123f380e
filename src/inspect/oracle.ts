/**
 * What selection by key blocks could reach at best: an oracle that knows the mass of every block.
 *
 * @module
 */
import type { BlockGrid } from "./block_mass.ts";
import type { HeadFigures } from "./patterns.ts";

/**
 * For each query block the fewest key blocks that hold a share of its mass.
 *
 * @param mass One head's block masses, [row block][key block] of `grid`.
 * @param share Of each query block's mass, in (0, 1].
 * @param firstRow First row block whose recall counts; the density is that of all.
 * @returns Blocks taken over causal blocks, and the mass they hold.
 */
export function oracle(
  mass: Float32Array,
  grid: BlockGrid,
  share: number,
  firstRow: number,
): HeadFigures {
  const offset = grid.keys - grid.rows; // key blocks before the first row block
  let taken = 0;
  let causal = 0;
  let recall = 0;
  for (let row = 0; row < grid.rows; row++) {
    const visible = Math.min(grid.keys, offset + row + 1);
    const sorted = mass.slice(row * grid.keys, row * grid.keys + visible).sort();
    const wanted = share * sorted.reduce((a, b) => a + b, 0);
    let kept = 0;
    let last = visible;
    while (last > 0 && kept < wanted) kept += sorted[--last];
    taken += visible - last;
    causal += visible;
    if (row >= firstRow) recall += Math.min(1, kept);
  }
  return { density: taken / causal, recall: recall / (grid.rows - firstRow) };
}
