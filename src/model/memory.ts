/**
 * How much memory a context takes, before it is taken.
 *
 * @module
 */
import { pattern as patternStruct } from "../native/params.ts";
import type { ModelConfig } from "./config.ts";
import { kvBytes, type KvShape } from "./kv_cache.ts";

/** Memory of a context. Bytes. */
export interface MemoryPlan {
  /** Tokens planned for. */
  readonly tokens: number;
  /** Weights, already taken. */
  readonly weights: number;
  /** Keys and values. */
  readonly kvCache: number;
  /** Peak of activations, work lists and workspaces during prefill. */
  readonly workspace: number;
  /** All of it. */
  readonly total: number;
  /** Free on the device now, the weights not counted. */
  readonly free: number;
  /** Longest context that fits, at most the model's own limit. */
  readonly maxContext: number;
  /** Whether the planned tokens fit. */
  readonly fits: boolean;
}

/** What the plan depends on. */
export interface MemoryInputs {
  /** The model. */
  readonly config: ModelConfig;
  /** Its cache. */
  readonly kv: KvShape;
  /** Bytes of weights on the device. */
  readonly weights: number;
  /** Bytes of one activation element. */
  readonly activationBytes: number;
  /** Rows per pass of the token-wise operations. */
  readonly rowChunk: number;
  /** Free bytes now. */
  readonly free: number;
}

/** Peak workspace of a prefill of `tokens` tokens at once. */
function workspaceBytes(inputs: MemoryInputs, tokens: number): number {
  const { config, activationBytes, rowChunk } = inputs;
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize } = config;
  const rows = Math.min(tokens, rowChunk);
  const whole = tokens * (hiddenSize + heads * headDim) * activationBytes; // residual stream, q
  const perChunk = rows * (hiddenSize + kvHeads * headDim + 2 * intermediateSize) * activationBytes;
  // Column and diagonal sums, columns with coverage bits of up to an eighth of the keys, pattern table.
  const blocks = Math.ceil(tokens / 64);
  const columns = Math.ceil(tokens / 8);
  const lists = heads * (columns * 4 + blocks * Math.ceil(columns / 32) * 4 + blocks * 8);
  const index = heads * (2 * tokens * 4 + patternStruct.size) + lists;
  return whole + perChunk + index + tokens * 4 + (1 << 20);
}

/**
 * Plans a context.
 *
 * @param inputs The model and the device's state.
 * @param tokens Tokens of the context.
 */
export function planMemory(inputs: MemoryInputs, tokens: number): MemoryPlan {
  const need = (n: number): number => kvBytes(inputs.kv, n) + workspaceBytes(inputs, n);
  let low = 0;
  let high = inputs.config.maxPositions;
  while (low < high) { // need() grows with n
    const middle = Math.ceil((low + high) / 2);
    if (need(middle) <= inputs.free) low = middle;
    else high = middle - 1;
  }
  const kvCache = kvBytes(inputs.kv, tokens);
  const workspace = workspaceBytes(inputs, tokens);
  return {
    tokens,
    weights: inputs.weights,
    kvCache,
    workspace,
    total: inputs.weights + kvCache + workspace,
    free: inputs.free,
    maxContext: low,
    fits: tokens <= low,
  };
}
