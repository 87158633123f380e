/**
 * How much memory a context takes, before it is taken.
 *
 * @module
 */
import { DEFAULT_GUARD } from "../attention/guard.ts";
import type { HeadPattern } from "../attention/patterns.ts";
import {
  estimateBytes,
  needsEstimate,
  planAttention,
  planEstimate,
  planIndex,
  type SequenceShape,
} from "../attention/sequence.ts";
import { statsBytes } from "../attention/stats.ts";
import type { Planner } from "../device/device.ts";
import { byteLength, type DType, FORMAT } from "../device/dtype.ts";
import { type LinearOptions, planLinear } from "../device/ops.ts";
import { ABSENT } from "../device/scratch.ts";
import { MInferenceError } from "../native/errors.ts";
import type { View } from "../native/structs.ts";
import type { ModelConfig } from "./config.ts";
import { FP8_HEAD, idBytes, kvBytes, kvCapacity, kvPassBytes, type KvShape } from "./kv_cache.ts";
import {
  activationDtype,
  activationSizes,
  attentionShape,
  indexOptions,
  listedPatterns,
  type SparseOptions,
} from "./pass.ts";
import { weightSpecs } from "./weights.ts";

/** Memory of a context. Bytes. */
export interface MemoryPlan {
  /** Tokens planned for. */
  readonly tokens: number;
  /** Weights, already taken. */
  readonly weights: number;
  /** Keys and values. */
  readonly kvCache: number;
  /** Peak of activations, work lists and workspaces when all tokens are read at once. */
  readonly workspace: number;
  /** All of it. */
  readonly total: number;
  /** Free on the device now, the weights not counted. */
  readonly free: number;
  /** Longest context that fits, at most the model's own limit. */
  readonly maxContext: number;
  /** Whether the planned tokens fit. */
  readonly fits: boolean;
  /** Whether they would with an fp8 KV cache. */
  readonly fitsAsFp8: boolean;
}

/** What the plan depends on. */
export interface MemoryInputs {
  /** Says what operations take. */
  readonly device: Planner;
  /** The model. */
  readonly config: ModelConfig;
  /** Its cache. */
  readonly kv: KvShape;
  /** Patterns of a session, [layer][query head]; null for dense attention. */
  readonly patterns: readonly (readonly HeadPattern[])[] | null;
  /** Arithmetic of the linear layers. */
  readonly precision: LinearOptions["precision"];
  /** Element type that a weight of `weightSpecs` has on the device. */
  readonly weightDtype: (name: string) => DType;
  /** Bytes of weights on the device. */
  readonly weights: number;
  /** Free bytes now. */
  readonly free: number;
}

/** A view of which only the layout is known. */
function layout(dtype: DType, rowStride: number, headStride = 0): View {
  return { ...ABSENT, dtype: FORMAT[dtype].code, rowStride, headStride };
}

/** Most workspace of a linear layer over `rows` rows. */
function linearWorkspace(inputs: MemoryInputs, rows: number): number {
  const { device, config, precision, weightDtype } = inputs;
  const act = activationDtype(device);
  const bytes = new Map<string, number>(); // by shape and type: layers repeat
  for (const { name, shape } of weightSpecs(config)) {
    // Embedding and output projection are applied to one row alone.
    if (shape.length !== 2 || !name.startsWith("layers.")) continue;
    const [features, columns] = shape;
    const dtype = weightDtype(name);
    const key = `${features} ${columns} ${dtype}`;
    if (bytes.has(key)) continue;
    const weight = { view: layout(dtype, columns), rows: features, columns };
    const [x, y] = [layout(act, columns), layout(act, features)];
    bytes.set(key, planLinear(device, x, weight, y, rows, { precision }));
  }
  return Math.max(...bytes.values());
}

/** Bytes that attention takes in each of the decoder's buffers. */
interface AttentionBytes {
  readonly workspace: number;
  readonly list: number;
  readonly estimate: number;
}

/** What the attention of one layer takes, over the last rows of `shape`. */
function attentionBytes(
  inputs: MemoryInputs,
  shape: SequenceShape,
  layer: number,
  capacity: number,
  sparse?: SparseOptions,
): AttentionBytes {
  const { device, kv } = inputs;
  const { qHeads, headDim } = shape;
  const q = layout(activationDtype(device), qHeads * headDim, headDim);
  const k = layout(kv.dtype, headDim, capacity * headDim);
  const patterns = listedPatterns(device.kind, shape, layer, sparse);
  if (!sparse || !patterns) {
    const workspace = planAttention(device, shape, { q, k, v: k, out: q });
    return { workspace, list: 0, estimate: 0 };
  }
  const index = planIndex(device, shape, q, k, patterns, indexOptions(device.kind, sparse));
  const list = { ref: ABSENT, bytes: index.list };
  const workspaces = [index.workspace, planAttention(device, shape, { q, k, v: k, out: q, list })];
  let estimate = 0;
  if (needsEstimate(patterns)) {
    workspaces.push(planEstimate(device, shape, q, k, sparse.lastQ));
    estimate = Object.values(estimateBytes(shape, sparse.lastQ)).reduce((a, b) => a + b);
  }
  return { workspace: Math.max(...workspaces), list: index.list, estimate };
}

/** What a session and the decoder take to read the last `rows` of `tokens` tokens, the cache not counted. */
function workspaceBytes(inputs: MemoryInputs, tokens: number, rows = tokens): number {
  const { device, config, patterns } = inputs;
  const act = activationDtype(device);
  const sizes = activationSizes(config, device.kind, rows);
  const activations = Object.values(sizes)
    .reduce((sum, [height, columns]) => sum + byteLength(act, height * columns), 0);
  const sparse = patterns ? { patterns, guard: DEFAULT_GUARD } : undefined;
  const capacity = inputs.kv.quantised ? tokens : kvCapacity(tokens); // tokens from head to head
  const whole = attentionShape(config, rows, tokens);
  const layers = Array.from(
    { length: config.layers - 1 },
    (_, layer) => attentionBytes(inputs, whole, layer, capacity, sparse),
  );
  // The last layer computes the last row alone.
  layers.push(attentionBytes(inputs, attentionShape(config, 1, tokens), 0, capacity));
  const most = (of: keyof AttentionBytes): number => Math.max(...layers.map((one) => one[of]));
  const [chunk] = sizes.normed;
  const workspace = Math.max(most("workspace"), linearWorkspace(inputs, chunk));
  const ids = idBytes(kvCapacity(tokens));
  const session = ids + config.vocabSize * 4 + config.layers * statsBytes(config.heads);
  const kv = kvPassBytes(inputs.kv, tokens);
  return activations + kv + workspace + most("list") + most("estimate") + session;
}

/** The inputs with a quantised cache. */
function asFp8(inputs: MemoryInputs): MemoryInputs {
  return { ...inputs, kv: { ...inputs.kv, quantised: true } };
}

function cacheBytes({ kv }: MemoryInputs, tokens: number): number {
  return kvBytes(kv, kvCapacity(tokens));
}

/**
 * Plans a context.
 *
 * @param inputs The model and the device's state.
 * @param tokens Tokens of the context.
 */
export function planMemory(inputs: MemoryInputs, tokens: number): MemoryPlan {
  const need = (of: MemoryInputs, n: number): number => cacheBytes(of, n) + workspaceBytes(of, n);
  let low = 0;
  let high = inputs.config.maxPositions;
  while (low < high) { // need() grows with n
    const middle = Math.ceil((low + high) / 2);
    if (need(inputs, middle) <= inputs.free) low = middle;
    else high = middle - 1;
  }
  const kvCache = cacheBytes(inputs, tokens);
  const workspace = workspaceBytes(inputs, tokens);
  const { maxPositions, headDim } = inputs.config;
  return {
    tokens,
    weights: inputs.weights,
    kvCache,
    workspace,
    total: inputs.weights + kvCache + workspace,
    free: inputs.free,
    maxContext: low,
    fits: tokens <= low,
    fitsAsFp8: headDim % FP8_HEAD === 0 && tokens <= maxPositions &&
      need(asFp8(inputs), tokens) <= inputs.free,
  };
}

/** Caches that take less of what is free cannot be what does not fit; planning them is saved. */
const NEGLIGIBLE = 0.01;

/**
 * Refuses a prompt that will not fit, before anything is taken for it.
 *
 * @param inputs The model and the device's state; `free` counts what its session and decoder hold already.
 * @param tokens Tokens held at the end of the prompt.
 * @param rows Those that it adds.
 * @throws {MInferenceError} `OUT_OF_MEMORY` with the bytes, and whether an fp8 KV cache would fit.
 */
export function refuseTooLarge(inputs: MemoryInputs, tokens: number, rows: number): void {
  const need = (of: MemoryInputs): number =>
    cacheBytes(of, tokens) + workspaceBytes(of, tokens, rows);
  const { free, kv } = inputs;
  if (cacheBytes(inputs, tokens) < NEGLIGIBLE * free) return;
  const wanted = need(inputs);
  if (wanted <= free) return;
  const fp8 = !kv.quantised && kv.headDim % FP8_HEAD === 0 ? need(asFp8(inputs)) : Infinity;
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
  throw new MInferenceError(
    "OUT_OF_MEMORY",
    `${tokens} tokens take ${gib(wanted)} beside the weights, ${gib(free)} are free` +
      (fp8 <= free ? `; with an fp8 KV cache they take ${gib(fp8)}, which fits` : ""),
    { details: { tokens, wanted, available: free, fitsAsFp8: fp8 <= free } },
  );
}
