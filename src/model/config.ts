/**
 * What drives the decoder: one description for every supported architecture.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";
import type { RopeConfig } from "./rope.ts";

/**
 * A decoder-only transformer as data. Architectures differ in these fields alone.
 *
 * All of them share: token embedding; per layer RMSNorm, attention with rotary embedding, residual, RMSNorm, SiLU-gated
 * feed-forward, residual; a last RMSNorm and the output projection.
 */
export interface ModelConfig {
  /** The checkpoint's name of the architecture, e.g. `llama`, `qwen3`. */
  readonly architecture: string;
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** Decoder layers. */
  readonly layers: number;
  /** Query heads. */
  readonly heads: number;
  /** Key-value heads; divides `heads`. */
  readonly kvHeads: number;
  /** Elements of a head: a multiple of 8, at most 256. */
  readonly headDim: number;
  /** Width of the feed-forward layer. */
  readonly intermediateSize: number;
  /** Rows of the embedding. */
  readonly vocabSize: number;
  /** Epsilon of every RMSNorm. */
  readonly normEps: number;
  /** The output projection is the embedding. */
  readonly tieEmbeddings: boolean;
  /** Rotary embedding. */
  readonly rope: RopeConfig;
  /** Query, key and value projections have biases. */
  readonly qkvBias: boolean;
  /** The attention's output projection has a bias. */
  readonly outBias: boolean;
  /** The feed-forward projections have biases. */
  readonly mlpBias: boolean;
  /** RMSNorm over each query and key head before the rotary embedding (Qwen3). */
  readonly qkNorm: boolean;
  /** One matrix holds the query, key and value rows, in this order (Phi-3). */
  readonly fusedQkv: boolean;
  /** One matrix holds the gate and up rows, in this order (Phi-3, GLM-4). */
  readonly fusedGateUp: boolean;
  /** RMSNorm of the attention's and the feed-forward's output before each residual (GLM-4-0414). */
  readonly postNorms: boolean;
  /** Longest sequence the model is made for, in tokens. */
  readonly maxPositions: number;
  /** Token that begins a text, if any. */
  readonly bosId?: number;
  /** Tokens that end a generation. */
  readonly eosIds: readonly number[];
}

/** Architectures this package runs, by `model_type` of config.json. */
export const HF_ARCHITECTURES = [
  "llama",
  "mistral",
  "qwen2",
  "qwen3",
  "phi3",
  "glm",
  "glm4",
] as const;

/** Architectures this package runs, by GGUF's `general.architecture`. */
export const GGUF_ARCHITECTURES = ["llama", "qwen2", "qwen3", "phi3", "chatglm", "glm4"] as const;

/** Most elements of a head, and what it has to be a multiple of: the attention kernels' tile sizes. */
const MAX_HEAD_DIM = 256;
const HEAD_DIM_STEP = 8;

/** Sizes become int32 in the C ABI. */
const MAX_SIZE = 2 ** 31 - 1;

/**
 * An `UNSUPPORTED_MODEL` error.
 *
 * @param path The checkpoint.
 * @param message What is not supported and what is.
 * @param details Extra facts.
 */
export function unsupported(
  path: string,
  message: string,
  details: Record<string, unknown> = {},
): MInferenceError {
  return new MInferenceError("UNSUPPORTED_MODEL", `${path}: ${message}`, {
    details: { path, ...details },
  });
}

function invalid(path: string, message: string, details: Record<string, unknown>): MInferenceError {
  return new MInferenceError("CHECKPOINT", `${path}: ${message}`, {
    details: { path, ...details },
  });
}

function checkIds(path: string, config: ModelConfig): void {
  const ids = config.bosId === undefined ? config.eosIds : [config.bosId, ...config.eosIds];
  for (const id of ids) {
    if (!Number.isSafeInteger(id) || id < 0 || id >= config.vocabSize) {
      throw invalid(
        path,
        `special token ${id} is outside the vocabulary of ${config.vocabSize}`,
        { id, vocabSize: config.vocabSize },
      );
    }
  }
}

function checkRope(path: string, { rope, headDim }: ModelConfig): void {
  const { theta, rotaryDim, scaling } = rope;
  if (!(Number.isFinite(theta) && theta > 1)) {
    throw invalid(path, `rope theta is ${theta}, it must be above 1`, { theta });
  }
  if (!(rotaryDim >= 2 && rotaryDim <= headDim && rotaryDim % 2 === 0)) {
    throw invalid(path, `rotary dimension ${rotaryDim} must be even and from 2 to ${headDim}`, {
      rotaryDim,
      headDim,
    });
  }
  for (const [name, value] of Object.entries(scaling)) {
    if (name === "kind") continue;
    const values: readonly unknown[] = Array.isArray(value) ? value : [value];
    if (Array.isArray(value) && value.length !== rotaryDim / 2) {
      throw invalid(
        path,
        `rope scaling: ${name} has ${value.length} entries, ${rotaryDim / 2} are needed`,
        { name, entries: value.length, wanted: rotaryDim / 2 },
      );
    }
    const bad = values.find((n) => !(typeof n === "number" && Number.isFinite(n) && n > 0));
    if (bad !== undefined || values.includes(undefined)) {
      throw invalid(path, `rope scaling: ${name} is ${bad}, it must be a positive number`, {
        name,
        value: bad,
      });
    }
  }
}

/**
 * Checks every number of a configuration.
 *
 * @param path The checkpoint, for errors.
 * @param config The configuration.
 * @returns The same configuration.
 * @throws {MInferenceError} `CHECKPOINT` for numbers that contradict each other, `UNSUPPORTED_MODEL` for a head size the
 * kernels do not have. The numbers are in the text and in `details`.
 */
export function validateConfig(path: string, config: ModelConfig): ModelConfig {
  const sizes = [
    "hiddenSize",
    "layers",
    "heads",
    "kvHeads",
    "headDim",
    "intermediateSize",
    "vocabSize",
    "maxPositions",
  ] as const;
  for (const name of sizes) {
    const value = config[name];
    if (!Number.isSafeInteger(value) || value < 1 || value > MAX_SIZE) {
      throw invalid(path, `${name} is ${value}, it must be an integer from 1 to ${MAX_SIZE}`, {
        name,
        value,
      });
    }
  }
  const { heads, kvHeads, headDim, normEps } = config;
  if (heads % kvHeads !== 0) {
    throw invalid(path, `${heads} query heads cannot share ${kvHeads} key-value heads evenly`, {
      heads,
      kvHeads,
    });
  }
  if (headDim > MAX_HEAD_DIM || headDim % HEAD_DIM_STEP !== 0) {
    throw unsupported(
      path,
      `heads of ${headDim} elements; supported are multiples of ${HEAD_DIM_STEP} up to ${MAX_HEAD_DIM}`,
      { headDim },
    );
  }
  if (heads * headDim > MAX_SIZE || 2 * config.intermediateSize > MAX_SIZE) {
    throw invalid(path, `a projection has more than ${MAX_SIZE} rows`, { heads, headDim });
  }
  if (!(normEps >= 0 && normEps < 1)) {
    throw invalid(path, `epsilon of the RMSNorm is ${normEps}, it must be in [0, 1)`, { normEps });
  }
  checkRope(path, config);
  checkIds(path, config);
  return config;
}
