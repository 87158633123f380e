/**
 * Kernel-aware pattern search (arXiv 2407.02490, section 3.2 and algorithm 1): runs a sample through the
 * model, measures every candidate on every head in the real kernels, and keeps the best.
 *
 * @module
 */
import type { HeadPattern } from "../attention/patterns.ts";
import type { CallOptions } from "../device/device.ts";
import { MInferenceError } from "../native/errors.ts";
import type { ModelConfig } from "../model/config.ts";
import { engineOf, type Model } from "../model/model.ts";
import { type OnProgress, Reporter } from "../model/progress.ts";
import { candidates } from "./candidates.ts";
import { checkObjective, choose, DEFAULT_OBJECTIVE, type Objective } from "./choose.ts";
import { LayerMeter, type Measurement } from "./measure.ts";

/** Options of {@linkcode searchPatterns}. */
export interface SearchOptions extends CallOptions {
  /** What to optimise. Default {@linkcode DEFAULT_OBJECTIVE}. */
  objective?: Objective;
  /** Candidates. Default `full`. */
  space?: "published" | "full";
  /** Receives progress in layers. */
  onProgress?: OnProgress;
}

/** Result of {@linkcode searchPatterns}. */
export interface SearchResult {
  /** The choice of each head, [layer][head], with what was measured at the longest sample. */
  readonly choices: readonly (readonly Measurement[])[];
  /** Everything measured, [sample][layer][head][candidate]. */
  readonly measurements: readonly (readonly (readonly (readonly Measurement[])[])[])[];
  /** Tokens of each sample. */
  readonly lengths: readonly number[];
}

/** Fewer tokens say nothing about sparsity: every candidate keeps all of them. */
export const LEAST_TOKENS = 1024;

/**
 * Searches a pattern for every head.
 *
 * @param model The model.
 * @param samples Token ids of one or more prompts of rising length; each pattern must pass on all of them.
 * @throws {MInferenceError} `INVALID_ARGUMENT` for a sample under 1024 tokens or an objective that no pattern
 * could meet, `CONTEXT_OVERFLOW` beyond the model's positions.
 */
export async function searchPatterns(
  model: Model,
  samples: readonly Uint32Array[],
  options: SearchOptions = {},
): Promise<SearchResult> {
  const { config } = model;
  const objective = checkObjective(options.objective ?? DEFAULT_OBJECTIVE);
  if (samples.length === 0) throw new MInferenceError("INVALID_ARGUMENT", "no sample is given");
  for (const { length } of samples) {
    if (length < LEAST_TOKENS) {
      throw new MInferenceError(
        "INVALID_ARGUMENT",
        `a sample of ${length} tokens is too short to search on, ${LEAST_TOKENS} are needed`,
        { details: { tokens: length, needed: LEAST_TOKENS } },
      );
    }
    if (length > config.maxPositions) {
      throw new MInferenceError(
        "CONTEXT_OVERFLOW",
        `a sample of ${length} tokens exceeds the model's ${config.maxPositions} positions`,
        { details: { tokens: length, maxPositions: config.maxPositions } },
      );
    }
  }
  const longest = Math.max(...samples.map((s) => s.length));
  const space = candidates(longest, options.space ?? "full");
  const total = samples.length * config.layers;
  const report = new Reporter("search", total, options.onProgress);
  const measurements: Measurement[][][][] = [];
  let done = 0;
  for (const sample of samples) {
    measurements.push(
      await measureSample(model, sample, space, options, () => report.update(++done)),
    );
  }
  const heads = Array.from(
    { length: config.layers * config.heads },
    (_, i) => measurements.map((sample) => sample[Math.floor(i / config.heads)][i % config.heads]),
  );
  const chosen = choose(heads, objective, countedHeads(config));
  const choices = Array.from(
    { length: config.layers },
    (_, layer) => chosen.slice(layer * config.heads, (layer + 1) * config.heads),
  );
  return { choices, measurements, lengths: samples.map((s) => s.length) };
}

/**
 * How many heads a mean is of: those before the last layer. A prefill computes that layer for one row alone; free to
 * keep all of its mass, it would pay for what the others lose.
 */
export function countedHeads({ layers, heads }: Pick<ModelConfig, "layers" | "heads">): number {
  return Math.max(1, layers - 1) * heads;
}

/** Runs one sample densely and measures each layer on the way: [layer][head][candidate]. */
async function measureSample(
  model: Model,
  tokens: Uint32Array,
  space: readonly HeadPattern[],
  options: SearchOptions,
  onLayer: () => void,
): Promise<Measurement[][][]> {
  const { device, config } = model;
  const { decoder, createCache } = engineOf(model);
  const layers: Measurement[][][] = [];
  await device.exclusive(async () => {
    using cache = createCache();
    using logits = device.tensor([config.vocabSize]);
    await cache.reserve(tokens.length, 0);
    let meter: LayerMeter | undefined;
    try {
      await decoder.forward(tokens, cache, 0, logits, {
        signal: options.signal,
        inspect: async (operands): Promise<void> => {
          meter ??= new LayerMeter(device, operands.shape);
          layers.push(await meter.measure(operands, space, options));
          onLayer();
        },
      });
    } finally {
      meter?.[Symbol.dispose]();
    }
  });
  return layers;
}
