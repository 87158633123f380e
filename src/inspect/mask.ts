/**
 * Which cells a work list computes, seen from afar.
 *
 * @module
 */
import type { SequenceShape } from "../attention/sequence.ts";
import { type HeadList, visits } from "../attention/work_list.ts";
import { BLOCK, gridOf } from "./block_mass.ts";

/** Every so many rows of a block are looked at: bands and blocks are equal for all, local windows nearly so. */
const ROW_STEP = 9;

/**
 * Share of each block's causal cells that a head computes.
 *
 * @returns [row block][key block], flat; 0 where no query sees a key.
 */
export function coverage(list: HeadList, shape: SequenceShape): Float32Array {
  const grid = gridOf(shape);
  const share = new Float32Array(grid.rows * grid.keys);
  for (let block = 0; block < grid.rows; block++) {
    const visible = new Float32Array(grid.keys);
    const computed = new Float32Array(grid.keys);
    const end = Math.min(shape.qLen, (block + 1) * BLOCK);
    for (let row = block * BLOCK; row < end; row += ROW_STEP) {
      const position = shape.kvLen - shape.qLen + row;
      const visited = visits(list, shape, row);
      for (let key = 0; key <= position; key++) {
        visible[Math.floor(key / BLOCK)]++;
        computed[Math.floor(key / BLOCK)] += visited[key];
      }
    }
    for (let key = 0; key < grid.keys; key++) {
      if (visible[key] > 0) share[block * grid.keys + key] = computed[key] / visible[key];
    }
  }
  return share;
}
