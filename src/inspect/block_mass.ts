/**
 * Where dense attention lies, block by block, for all heads of a layer at once.
 *
 * @module
 */
import { enqueueAttention, type SequenceShape } from "../attention/sequence.ts";
import type { WorkList } from "../attention/work_list.ts";
import type { CallOptions, Device } from "../device/device.ts";
import { type FloatDType, FORMAT } from "../device/dtype.ts";
import { Scratch } from "../device/scratch.ts";
import type { LayerOperands } from "../model/decoder.ts";
import { activationDtype } from "../model/pass.ts";

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

/** Mass of every block, for all heads. */
export interface BlockMass {
  /** Mean mass of a query in each key block, [heads][row block][key block], flat. */
  readonly mass: Float32Array;
  /** Log-sum-exp of the cells computed, [heads, rows]. */
  readonly lse: Float32Array;
}

/** Options of {@linkcode blockMass}. */
export interface BlockMassOptions extends CallOptions {
  /** Cells to compute. Default all: dense attention. */
  list?: WorkList;
  /** Log-sum-exp of dense attention: with it mass is a fraction of dense attention's, not of the cells computed. */
  dense?: Float32Array;
}

const FLOATS: readonly FloatDType[] = ["f32", "f16", "bf16"];

/** Values that are 1 in the column of their key block, of `count` blocks from `first` on, and 0 elsewhere. */
function indicator(shape: SequenceShape, first: number, count: number): Float32Array<ArrayBuffer> {
  const { kvHeads, kvLen, headDim } = shape;
  const values = new Float32Array(kvHeads * kvLen * headDim);
  for (let key = first * BLOCK; key < Math.min(kvLen, (first + count) * BLOCK); key++) {
    const column = Math.floor(key / BLOCK) - first;
    for (let h = 0; h < kvHeads; h++) values[(h * kvLen + key) * headDim + column] = 1;
  }
  return values;
}

/**
 * Attention mass in each block, by the attention kernel itself: with values that are 1 in the column of their
 * key block, a row of the output is the mass of `headDim` blocks.
 */
export async function blockMass(
  device: Device,
  { q, k, shape }: LayerOperands,
  options: BlockMassOptions = {},
): Promise<BlockMass> {
  const { qHeads, kvHeads, headDim, qLen, kvLen } = shape;
  const grid = gridOf(shape);
  const mass = new Float32Array(qHeads * grid.rows * grid.keys);
  using scratch = new Scratch(device);
  using out = device.tensor([qHeads, qLen, headDim], { dtype: activationDtype(device) });
  using lseTensor = device.tensor([qHeads, qLen]);
  let lse = new Float32Array();
  const dtype = FLOATS.find((name) => FORMAT[name].code === k.dtype)!;
  for (let first = 0; first < grid.keys; first += headDim) {
    const count = Math.min(headDim, grid.keys - first);
    const data = indicator(shape, first, count);
    using v = device.tensor([kvHeads, kvLen, headDim], { dtype, data });
    enqueueAttention(device, scratch, shape, {
      ...{ q, k, v: v.view(), out: out.view(), list: options.list },
      lse: lseTensor.ref(),
    });
    await device.sync(options);
    const values = await out.read();
    lse = await lseTensor.read();
    for (let row = 0; row < qHeads * qLen; row++) {
      const head = Math.floor(row / qLen);
      const block = Math.floor(row % qLen / BLOCK);
      const fraction = options.dense ? Math.exp(lse[row] - options.dense[row]) : 1;
      const weight = fraction / Math.min(BLOCK, qLen - block * BLOCK);
      const to = (head * grid.rows + block) * grid.keys + first;
      for (let c = 0; c < count; c++) mass[to + c] += weight * values[row * headDim + c];
    }
  }
  return { mass, lse };
}
