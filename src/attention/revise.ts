/**
 * The online estimate, open to revision: whoever has a better idea of which keys and distances matter can try it
 * in the real model without touching native code.
 *
 * @module
 */
import type { CallOptions, Device } from "../device/device.ts";
import type { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import type { View } from "../native/structs.ts";
import { enqueueEstimate, type Estimate, type SequenceShape } from "./sequence.ts";

/** What a layer's vertical-slash heads choose their columns and diagonals by. */
export interface LayerEstimate {
  /** Which layer. */
  readonly layer: number;
  /** f32 [Hq, keys]: attention mass of each key, summed over the probe rows. */
  readonly vertical: Tensor;
  /** f32 [Hq, keys]: mass of each distance (query position minus key position). */
  readonly slash: Tensor;
}

/**
 * Called with the sums of the last queries (arXiv 2407.02490, section 3.3) of each layer that has vertical-slash
 * heads and runs sparsely; what it leaves in the tensors, which are valid until it returns, is what the heads
 * select by. Counts take the largest values; a mass budget takes the sums as masses, so they must not be
 * negative, nor add up to more than 2^23 in a head.
 *
 * @example
 * ```ts ignore
 * // Diagonals alone: no column is worth more than another.
 * const reviseEstimate: ReviseEstimate = ({ vertical }) => vertical.write(new Float32Array(vertical.length));
 * await session.prefill(prompt, { reviseEstimate });
 * ```
 */
export type ReviseEstimate = (estimate: LayerEstimate) => Promise<void> | void;

/**
 * Makes a layer's estimate and has it revised.
 *
 * @param revise Who revises it.
 * @param options Probe rows and the signal.
 * @returns Sums for {@linkcode enqueueIndex}; to be disposed when the index is queued.
 * @throws What `revise` throws.
 */
export async function revisedEstimate(
  device: Device,
  scratch: Scratch,
  shape: SequenceShape,
  { layer, q, k }: { readonly layer: number; readonly q: View; readonly k: View },
  revise: ReviseEstimate,
  options: CallOptions & { lastQ?: number } = {},
): Promise<{ readonly sums: Estimate } & Disposable> {
  const { qHeads, qLen, kvLen } = shape;
  const lastQ = options.lastQ ?? 64;
  using owned = new DisposableStack();
  const vertical = owned.use(device.tensor([qHeads, kvLen]));
  const slash = owned.use(device.tensor([qHeads, kvLen]));
  const lse = owned.use(device.tensor([qHeads, Math.min(lastQ, qLen)]));
  const sums = { vertical: vertical.ref(), slash: slash.ref(), lse: lse.ref() };
  enqueueEstimate(device, scratch, shape, q, k, sums, lastQ);
  await device.sync(options);
  await revise({ layer, vertical, slash });
  const kept = owned.move();
  return { sums, [Symbol.dispose]: (): void => kept.dispose() };
}
