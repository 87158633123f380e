/**
 * Maps of blocks, shrunk and packed for the page.
 *
 * @module
 */
import type { BlockGrid } from "./block_mass.ts";
import { type ByteMap, MASS_DECADES } from "./page_data.ts";

/** Most cells along a side. */
const MOST_CELLS = 128;

/**
 * Shrinks a map of blocks to at most 128 cells a side and packs it.
 *
 * @param values [row block][key block], flat, of a square grid.
 * @param join What becomes of the blocks of one cell: mass adds up across keys, shares do not.
 * @param toByte Value to byte, given in [0, 1].
 */
function pack(
  values: Float32Array,
  { rows, keys }: BlockGrid,
  join: "sum" | "mean",
  toByte: (value: number) => number,
): ByteMap {
  const step = Math.ceil(keys / MOST_CELLS);
  const size = Math.ceil(keys / step);
  const cells = new Float32Array(size * size);
  const counts = new Float32Array(size * size);
  for (let row = 0; row < rows; row++) {
    for (let key = 0; key <= row; key++) {
      const cell = Math.floor(row / step) * size + Math.floor(key / step);
      cells[cell] += values[row * keys + key];
      counts[cell]++;
    }
  }
  let text = "";
  for (let cell = 0; cell < size * size; cell++) {
    const value = counts[cell] === 0 ? 0 : cells[cell] / counts[cell];
    const fraction = toByte(join === "sum" ? value * step : value);
    text += String.fromCharCode(Math.round(255 * Math.max(0, Math.min(1, fraction))));
  }
  return { size, bytes: btoa(text) };
}

/** Masses of blocks on a logarithmic scale, {@linkcode MASS_DECADES} deep. */
export function packMass(mass: Float32Array, grid: BlockGrid): ByteMap {
  return pack(mass, grid, "sum", (value) => value > 0 ? 1 + Math.log10(value) / MASS_DECADES : 0);
}

/** Shares of computed cells. */
export function packMask(share: Float32Array, grid: BlockGrid): ByteMap {
  return pack(share, grid, "mean", (value) => value);
}
