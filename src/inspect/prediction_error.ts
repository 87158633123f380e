/**
 * How far the predictions of two models are apart.
 *
 * @module
 */
import type { CallOptions } from "../device/device.ts";
import type { Tensor } from "../device/tensor.ts";
import type { Engine } from "../model/model.ts";
import { RelativeError } from "./relative_error.ts";

/** Predictions of the two, position by position. */
export interface PredictionError {
  /** Positions compared. */
  readonly tokens: number;
  /** ‖fp8 - stored‖ / ‖stored‖ of all logits. */
  readonly logits: number;
  /** Fraction of positions at which the likeliest token is the same. */
  readonly topAgreement: number;
  /** Mean Kullback-Leibler divergence of fp8 from stored, nats. */
  readonly klMean: number;
  /** The largest. */
  readonly klMax: number;
}

/** Logits [tokens, vocabulary] of a sample. */
async function logitsOf(
  { decoder, createCache }: Engine,
  tokens: Uint32Array,
  options: CallOptions,
): Promise<Tensor> {
  const { device, config } = decoder;
  using owned = new DisposableStack();
  const logits = owned.use(device.tensor([tokens.length, config.vocabSize]));
  using cache = createCache();
  await cache.reserve(tokens.length, 0);
  const { signal } = options;
  await decoder.forward(tokens, cache, 0, logits, { signal, logits: "all" });
  decoder.trim();
  owned.move();
  return logits;
}

/** Index of the largest, and the logarithm of the sum of exponentials. */
function summary(logits: Float32Array): { top: number; lse: number } {
  let top = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[top]) top = i;
  let sum = 0;
  for (const x of logits) sum += Math.exp(x - logits[top]);
  return { top, lse: logits[top] + Math.log(sum) };
}

/** KL(expected || actual) of the predictions, and whether their likeliest token is the same. */
function compareRow(
  expected: Float32Array,
  actual: Float32Array,
): { kl: number; sameTop: boolean } {
  const [p, q] = [summary(expected), summary(actual)];
  let kl = 0;
  for (let i = 0; i < expected.length; i++) {
    const log = expected[i] - p.lse;
    kl += Math.exp(log) * (log - (actual[i] - q.lse));
  }
  return { kl: Math.max(0, kl), sameTop: p.top === q.top }; // rounding may leave less than nothing
}

/** Both models on a sample. */
export async function comparePredictions(
  stored: Engine,
  fp8: Engine,
  tokens: Uint32Array,
  options: CallOptions,
): Promise<PredictionError> {
  using expected = await logitsOf(stored, tokens, options);
  using actual = await logitsOf(fp8, tokens, options);
  const { vocabSize } = stored.decoder.config;
  const error = new RelativeError();
  let [same, klSum, klMax] = [0, 0, 0];
  for (let row = 0; row < tokens.length; row++) {
    options.signal?.throwIfAborted();
    const a = await expected.read(row * vocabSize, vocabSize);
    const b = await actual.read(row * vocabSize, vocabSize);
    error.add(b, a);
    const { kl, sameTop } = compareRow(a, b);
    same += sameTop ? 1 : 0;
    klSum += kl;
    klMax = Math.max(klMax, kl);
  }
  return {
    tokens: tokens.length,
    logits: error.value,
    topAgreement: same / tokens.length,
    klMean: klSum / tokens.length,
    klMax,
  };
}
