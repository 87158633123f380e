// What the tests share: one device for all of them, random tensors, comparisons.
import type { Device } from "../src/device/device.ts";
import { openDevice } from "../src/device/open.ts";
import type { FloatDType } from "../src/device/dtype.ts";
import type { Tensor } from "../src/device/tensor.ts";
import { MInferenceError } from "../src/native/errors.ts";

// MINFERENCE_DEVICE=cuda runs the same suite on a GPU. Opened at module level: a library stays open.
export const device: Device = await openDevice({
  kind: (Deno.env.get("MINFERENCE_DEVICE") ?? "cpu") as "cpu" | "cuda",
});

/** Element types of activations this device computes attention in. */
export const attentionDtypes: readonly FloatDType[] = device.kind === "cpu"
  ? ["f32", "f16", "bf16"]
  : ["f16", "bf16"];

/** Deterministic standard normal numbers. */
export function gaussians(count: number, seed: number, scale = 1): Float32Array<ArrayBuffer> {
  let state = (seed * 2654435761 + 0x9e3779b9) >>> 0;
  const uniform = (): number => { // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Float32Array.from({ length: count }, () => {
    return scale * Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  });
}

/** A random tensor and its values as stored. */
export async function randomTensor(
  shape: readonly number[],
  dtype: FloatDType,
  seed: number,
  scale = 1,
): Promise<{ tensor: Tensor; values: Float32Array }> {
  const data = gaussians(shape.reduce((a, b) => a * b, 1), seed, scale);
  const tensor = device.tensor(shape, { dtype, data });
  return { tensor, values: await tensor.read() };
}

/** ‖a - b‖ / ‖b‖; NaN if either holds one, Infinity if b is zero and a is not. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let error = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i] - b[i]) ** 2;
    norm += b[i] ** 2;
  }
  return error === 0 ? 0 : Math.sqrt(error / norm);
}

/** Runs `body` and returns the error it throws. Fails if it throws none, or another kind. */
export async function failure(body: () => unknown): Promise<MInferenceError> {
  try {
    await body();
  } catch (error) {
    if (error instanceof MInferenceError) return error;
    throw error;
  }
  throw new Error("expected a MInferenceError");
}
