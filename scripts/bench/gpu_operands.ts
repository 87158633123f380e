/**
 * Tensors of the GPU benchmark: large, and never zeros.
 *
 * @module
 */
import type { Device } from "../../src/device/device.ts";
import { convertCopy } from "../../src/device/ops.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import { structuredRows } from "./gpu_inputs.ts";

/** Elements of a head. */
export const HEAD_DIM = 128;

/** q, k and v of one layer, bf16, and where the output goes. */
export interface Operands extends Disposable {
  /** [heads, tokens, 128]. */
  readonly q: Tensor;
  /** [kvHeads, tokens, 128]. */
  readonly k: Tensor;
  /** [kvHeads, tokens, 128]. */
  readonly v: Tensor;
  /** [heads, tokens, 128]. */
  readonly out: Tensor;
}

/** Elements of a stock of random numbers, from which large tensors are filled. */
export const STOCK_SIZE = 1 << 20;

/** A stock of normal numbers (Box-Muller). */
export function normals(scale = 1): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: STOCK_SIZE }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
    return scale * radius * Math.cos(2 * Math.PI * Math.random());
  });
}

let standardNormals: Float32Array<ArrayBuffer> | undefined;

/** Standard normal rows: pieces of the stock, from a random place each. */
async function fillRandom(tensor: Tensor): Promise<void> {
  const { device } = tensor;
  const count = tensor.shape.reduce((a, b) => a * b, 1);
  using stock = device.tensor([STOCK_SIZE], {
    dtype: tensor.dtype,
    data: standardNormals ??= normals(),
  });
  const rows = STOCK_SIZE / HEAD_DIM / 2;
  const total = count / HEAD_DIM;
  for (let row = 0; row < total; row += rows) {
    const size = { rows: Math.min(rows, total - row), heads: 1, dim: HEAD_DIM };
    const from = Math.floor(Math.random() * rows) * HEAD_DIM;
    const flat = { headStride: 0, rowStride: HEAD_DIM };
    convertCopy(
      device,
      stock.view({ offset: from, ...flat }),
      tensor.view({ offset: row * HEAD_DIM, ...flat }),
      size,
    );
  }
  await device.sync();
}

/** Structured rows, every head alike, as the peers get them. */
async function fillStructured(tensor: Tensor, kind: "q" | "k" | "v"): Promise<void> {
  const { device } = tensor;
  const [heads, tokens] = tensor.shape;
  const step = 1 << 16;
  for (let row = 0; row < tokens; row += step) {
    const rows = structuredRows(tokens, kind, row, Math.min(step, tokens - row));
    await tensor.write(rows, row * HEAD_DIM);
  }
  const size = { rows: tokens, heads: 1, dim: HEAD_DIM };
  for (let head = 1; head < heads; head++) {
    const to = tensor.view({ offset: head * tokens * HEAD_DIM });
    convertCopy(device, tensor.view(), to, size);
  }
  await device.sync();
}

/** Operands of `heads` query heads and `kvHeads` key heads. */
export async function makeOperands(
  device: Device,
  tokens: number,
  heads: number,
  kvHeads: number,
  data: "random" | "structured",
): Promise<Operands> {
  using owned = new DisposableStack();
  const make = (count: number): Tensor =>
    owned.use(device.tensor([count, tokens, HEAD_DIM], { dtype: "bf16" }));
  const [q, k, v, out] = [make(heads), make(kvHeads), make(kvHeads), make(heads)];
  for (const [tensor, kind] of [[q, "q"], [k, "k"], [v, "v"]] as const) {
    await (data === "random" ? fillRandom(tensor) : fillStructured(tensor, kind));
  }
  const kept = owned.move();
  return { q, k, v, out, [Symbol.dispose]: (): void => kept.dispose() };
}
