/**
 * What fp8 weights change: a model twice on one device, as stored and quantised, matrix by matrix and as a whole.
 *
 * @module
 */
import type { CallOptions, Device } from "../device/device.ts";
import { linear, type Weight } from "../device/ops.ts";
import { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import type { Engine } from "../model/model.ts";
import type { LinearParameters } from "../model/parameters.ts";
import { activationDtype } from "../model/pass.ts";
import { type OnProgress, Reporter } from "../model/progress.ts";

/** Linear layers of a decoder layer, in the order they run. */
const LINEAR_KINDS = ["q", "k", "v", "output", "gate", "up", "down"] as const;

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

/** Sums of squares: of a difference, and of what it is measured against. */
class RelativeError {
  #difference = 0;
  #norm = 0;

  add(actual: Float32Array, expected: Float32Array): void {
    for (let i = 0; i < expected.length; i++) {
      this.#difference += (actual[i] - expected[i]) ** 2;
      this.#norm += expected[i] ** 2;
    }
  }

  get value(): number {
    return this.#difference === 0 ? 0 : Math.sqrt(this.#difference / this.#norm);
  }
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

async function compareMatrices(
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

function byKind(matrices: readonly MatrixError[]): KindError[] {
  return LINEAR_KINDS.flatMap((kind) => {
    const own = matrices.filter((matrix) => matrix.kind === kind);
    if (own.length === 0) return [];
    const mean = (of: "weight" | "output"): number =>
      own.reduce((sum, matrix) => sum + matrix[of], 0) / own.length;
    const worst = own.reduce((a, b) => b.output > a.output ? b : a);
    return [{ kind, weight: mean("weight"), output: mean("output"), worst }];
  });
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

async function comparePredictions(
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
