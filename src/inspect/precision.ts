/**
 * What fp8 weights change: a model twice on one device, as stored and quantised, matrix by matrix and as a whole.
 *
 * @module
 */
import type { CallOptions } from "../device/device.ts";
import { Scratch } from "../device/scratch.ts";
import type { Engine } from "../model/model.ts";
import { type OnProgress, Reporter } from "../model/progress.ts";
import {
  byKind,
  compareMatrices,
  type KindError,
  LINEAR_KINDS,
  type MatrixError,
} from "./linear_error.ts";
import { comparePredictions, type PredictionError } from "./prediction_error.ts";

/** What was measured. */
export interface PrecisionReport {
  /** Every quantised matrix. */
  readonly matrices: readonly MatrixError[];
  /** By kind; kinds without a quantised matrix are left out. */
  readonly kinds: readonly KindError[];
  /** On the sample. */
  readonly sample: PredictionError;
}

/** Options of {@linkcode measurePrecision}. */
export interface PrecisionOptions extends CallOptions {
  /** Receives progress in layers. */
  onProgress?: OnProgress;
}

/**
 * Measures what fp8 weights change, by running both.
 *
 * @param stored The model with its weights as stored.
 * @param fp8 The same with fp8 weights, on the same device.
 * @param tokens Token ids of a sample.
 * @param options Signal and progress.
 * @throws {MInferenceError} `OUT_OF_MEMORY`; `signal.reason` on abort.
 */
export async function measurePrecision(
  stored: Engine,
  fp8: Engine,
  tokens: Uint32Array,
  options: PrecisionOptions = {},
): Promise<PrecisionReport> {
  const { device, config } = stored.decoder;
  const [before, after] = [stored, fp8].map(({ decoder }) => decoder.parameters.layers);
  const progress = new Reporter("search", config.layers, options.onProgress);
  return await device.exclusive(async () => {
    using scratch = new Scratch(device);
    const matrices: MatrixError[] = [];
    for (let layer = 0; layer < config.layers; layer++) {
      options.signal?.throwIfAborted();
      for (const kind of LINEAR_KINDS) {
        const [one, other] = [before[layer][kind], after[layer][kind]];
        if (!other.weight.scales) continue; // of an odd size: it stayed as it was
        const errors = await compareMatrices(device, scratch, one, other);
        matrices.push({ layer, kind, ...errors });
      }
      progress.update(layer + 1);
    }
    const sample = await comparePredictions(stored, fp8, tokens, options);
    return { matrices, kinds: byKind(matrices), sample };
  });
}
