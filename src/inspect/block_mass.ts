/**
 * Where dense attention lies, block by block, for all heads of a layer at once.
 *
 * @module
 */
import { enqueueAttention, type SequenceShape } from "../attention/sequence.ts";
import type { CallOptions, Device } from "../device/device.ts";
import { type FloatDType, FORMAT } from "../device/dtype.ts";
import { Scratch } from "../device/scratch.ts";
import { activationDtype, type LayerOperands } from "../model/decoder.ts";

/** Side of a block, in queries and in keys. */
export const BLOCK = 64;

/** Blocks of a layer's attention. */
export interface BlockGrid {
  /** Blocks of query rows. */
  readonly rows: number;
  /** Blocks of keys. */
  readonly keys: number;
}

/** Blocks of a shape. */
export function gridOf({ qLen, kvLen }: SequenceShape): BlockGrid {
  return { rows: Math.ceil(qLen / BLOCK), keys: Math.ceil(kvLen / BLOCK) };
}

const FLOATS: readonly FloatDType[] = ["f32", "f16", "bf16"];

/**
 * Mean attention mass of a query in each key block, by the attention kernel itself: with values that are 1 in
 * the column of their key block and 0 elsewhere, a row of the output is the mass of `headDim` blocks.
 *
 * @returns [heads][row block][key block], flat; a row sums to 1.
 */
export async function blockMass(
  device: Device,
  { q, k, shape }: LayerOperands,
  options: CallOptions = {},
): Promise<Float32Array> {
  const { qHeads, kvHeads, headDim, qLen, kvLen } = shape;
  const grid = gridOf(shape);
  const mass = new Float32Array(qHeads * grid.rows * grid.keys);
  using scratch = new Scratch(device);
  using out = device.tensor([qHeads, qLen, headDim], { dtype: activationDtype(device) });
  const dtype = FLOATS.find((name) => FORMAT[name].code === k.dtype)!;
  for (let first = 0; first < grid.keys; first += headDim) {
    const count = Math.min(headDim, grid.keys - first);
    const indicator = new Float32Array(kvHeads * kvLen * headDim);
    for (let key = first * BLOCK; key < Math.min(kvLen, (first + count) * BLOCK); key++) {
      const column = Math.floor(key / BLOCK) - first;
      for (let h = 0; h < kvHeads; h++) indicator[(h * kvLen + key) * headDim + column] = 1;
    }
    using v = device.tensor([kvHeads, kvLen, headDim], { dtype, data: indicator });
    enqueueAttention(device, scratch, shape, { q, k, v: v.view(), out: out.view() });
    await device.sync(options);
    const values = await out.read();
    for (let head = 0; head < qHeads; head++) {
      for (let row = 0; row < qLen; row++) {
        const block = Math.floor(row / BLOCK);
        const share = 1 / Math.min(BLOCK, qLen - block * BLOCK);
        const from = (head * qLen + row) * headDim;
        const to = (head * grid.rows + block) * grid.keys + first;
        for (let c = 0; c < count; c++) mass[to + c] += share * values[from + c];
      }
    }
  }
  return mass;
}
