/**
 * One layer's keys and values in memory.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import type { DType } from "../device/dtype.ts";
import type { Tensor } from "../device/tensor.ts";
import { KV_BLOCK, type KvPlace, type KvShape } from "./kv_shape.ts";

/** One layer's memory. */
export interface LayerMemory {
  /** K of every head, then V: [2 kvHeads, capacity, headDim]. */
  readonly rows: Tensor;
  /** Of a quantised cache: f32 [2 kvHeads, capacity / 128]. */
  readonly scales?: Tensor;
}

/** Bytes of a layer's memory. */
export function layerBytes({ rows, scales }: LayerMemory): number {
  return rows.byteLength + (scales?.byteLength ?? 0);
}

/**
 * Takes memory for `capacity` tokens of one layer.
 *
 * @throws {MInferenceError} `OUT_OF_MEMORY`; nothing is taken then.
 */
export async function allocateLayer(
  device: Device,
  { kvHeads, headDim, dtype, quantised }: KvShape,
  capacity: number,
  place: KvPlace,
): Promise<LayerMemory> {
  const tensor = async (shape: readonly number[], dtype: DType): Promise<Tensor> =>
    place === "host" ? await device.hostTensor(shape, { dtype }) : device.tensor(shape, { dtype });
  const shape = [2 * kvHeads, capacity, headDim];
  if (!quantised) return { rows: await tensor(shape, dtype) };
  const rows = await tensor(shape, "e4m3");
  try {
    return { rows, scales: await tensor([2 * kvHeads, capacity / KV_BLOCK], "f32") };
  } catch (error) {
    rows.dispose();
    throw error;
  }
}

/** Frees a layer's memory. */
export function freeLayer({ rows, scales }: LayerMemory): void {
  rows.dispose();
  scales?.dispose();
}

/**
 * Queues copies of what tokens [first, end) have of one layer, whole blocks of a quantised one, to memory that may
 * have another capacity.
 */
export function copyTokens(to: LayerMemory, from: LayerMemory, first: number, end: number): void {
  const copy = (dst: Tensor, src: Tensor, row: number, rows: number): void => {
    const [heads] = dst.shape;
    const bytes = src.byteLength / src.length * (src.shape[2] ?? 1); // of a row
    for (let head = 0; head < heads; head++) {
      const [at, start] = [dst, src].map((tensor) => tensor.byteLength / heads * head);
      dst.device.copy(dst, at + row * bytes, src, start + row * bytes, rows * bytes);
    }
  };
  if (!to.scales || !from.scales) return copy(to.rows, from.rows, first, end - first);
  const block = Math.floor(first / KV_BLOCK);
  copy(to.rows, from.rows, block * KV_BLOCK, end - block * KV_BLOCK);
  copy(to.scales, from.scales, block, Math.ceil(end / KV_BLOCK) - block);
}
