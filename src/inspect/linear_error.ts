/**
 * What fp8 weights change in each linear layer.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import { linear, type Weight } from "../device/ops.ts";
import type { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import type { LinearParameters } from "../model/parameters.ts";
import { activationDtype } from "../model/pass.ts";
import { RelativeError } from "./relative_error.ts";

/** Linear layers of a decoder layer, in the order they run. */
export const LINEAR_KINDS = ["q", "k", "v", "output", "gate", "up", "down"] as const;

/** Which linear layer of a decoder layer. */
export type LinearKind = typeof LINEAR_KINDS[number];

/** Relative errors of one matrix, ‖fp8 - stored‖ / ‖stored‖. */
export interface MatrixError {
  /** Decoder layer. */
  readonly layer: number;
  /** Which of its matrices. */
  readonly kind: LinearKind;
  /** Of the weights, estimated from their products with random vectors. */
  readonly weight: number;
  /** Of the products with many random rows, which a GPU rounds to fp8, too. */
  readonly output: number;
}

/** The matrices of one kind. */
export interface KindError {
  /** Which. */
  readonly kind: LinearKind;
  /** Mean error of the weights over the layers. */
  readonly weight: number;
  /** Mean error of the outputs. */
  readonly output: number;
  /** The matrix whose outputs are farthest off. */
  readonly worst: MatrixError;
}

/** Rows that stay as they are on every device, and rows that a GPU rounds. */
const [PROBES, ROWS] = [4, 64];

/** Deterministic normal numbers, clear of the correlations of short generators by their number alone. */
function normals(count: number): Float32Array<ArrayBuffer> {
  let state = 0x9e3779b9;
  const uniform = (): number => { // xorshift32
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => {
    return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  });
}

async function productsOf(
  device: Device,
  scratch: Scratch,
  x: Tensor,
  weight: Weight,
  precision: "f32" | "bf16",
): Promise<Float32Array> {
  const [rows] = x.shape;
  using y = device.tensor([rows, weight.rows]);
  linear(device, scratch, x.view(), weight, y.view(), rows, { precision });
  return await y.read();
}

/** Relative errors of a matrix of fp8 beside the stored one, and of its products. */
export async function compareMatrices(
  device: Device,
  scratch: Scratch,
  stored: LinearParameters,
  fp8: LinearParameters,
): Promise<{ weight: number; output: number }> {
  const { columns } = stored.weight;
  const errorOf = async (rows: number, precision: "f32" | "bf16"): Promise<number> => {
    const dtype = activationDtype(device);
    using x = device.tensor([rows, columns], { dtype, data: normals(rows * columns) });
    const error = new RelativeError();
    const expected = await productsOf(device, scratch, x, stored.weight, precision);
    error.add(await productsOf(device, scratch, x, fp8.weight, precision), expected);
    return error.value;
  };
  return { weight: await errorOf(PROBES, "f32"), output: await errorOf(ROWS, "bf16") };
}

/** Means over the layers. */
export function byKind(matrices: readonly MatrixError[]): KindError[] {
  return LINEAR_KINDS.flatMap((kind) => {
    const own = matrices.filter((matrix) => matrix.kind === kind);
    if (own.length === 0) return [];
    const mean = (of: "weight" | "output"): number =>
      own.reduce((sum, matrix) => sum + matrix[of], 0) / own.length;
    const worst = own.reduce((a, b) => b.output > a.output ? b : a);
    return [{ kind, weight: mean("weight"), output: mean("output"), worst }];
  });
}
