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
import { checkNumber } from "../native/checks.ts";
import { MInferenceError } from "../native/errors.ts";
import type { View } from "../native/structs.ts";
import type { ModelConfig } from "./config.ts";
import {
  FP8_HEAD,
  idBytes,
  kvBytesByPlace,
  kvCapacity,
  kvPassBytes,
  type KvPlace,
  type KvShape,
} from "./kv_shape.ts";
import {
  activationDtype,
  activationSizes,
  attentionShape,
  indexOptions,
  listedPatterns,
  type SparseOptions,
} from "./pass.ts";
import { weightSpecs } from "./weights.ts";

/** Memory of a context. Bytes on the device unless said otherwise. */
export interface MemoryPlan {
  /** Tokens planned for. */
  readonly tokens: number;
  /** Weights, already taken. */
  readonly weights: number;
  /** Keys and values; of a cache in host memory, the two layers that are on the device at a time. */
  readonly kvCache: number;
  /** Keys and values in host memory. */
  readonly hostKvCache: number;
  /** Peak of activations, work lists and workspaces when all tokens are read at once. */
  readonly workspace: number;
  /** All of it on the device. */
  readonly total: number;
  /** Free on the device now, the weights not counted. */
  readonly free: number;
  /** Longest context that fits, at most the model's own limit. */
  readonly maxContext: number;
  /** Whether the planned tokens fit. */
  readonly fits: boolean;
  /** Whether they would with an fp8 KV cache. */
  readonly fitsAsFp8: boolean;
  /** Whether they would with the KV cache in host memory. */
  readonly fitsOnHost: boolean;
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
  /** Free bytes of the host now. */
  readonly hostFree: number;
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
  const list = { bytes: index.list };
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

/** The inputs with a quantised cache, if there can be one and there is none. */
function asFp8(inputs: MemoryInputs): MemoryInputs | undefined {
  const { kv } = inputs;
  if (kv.quantised || kv.headDim % FP8_HEAD !== 0) return undefined;
  return { ...inputs, kv: { ...kv, quantised: true } };
}

/** The inputs with a cache in host memory, if that is not the device's own and the cache is not there. */
function onHost(inputs: MemoryInputs): MemoryInputs | undefined {
  if (inputs.kv.offloaded || inputs.device.kind === "cpu") return undefined;
  return { ...inputs, kv: { ...inputs.kv, offloaded: true } };
}

/** Bytes that a context takes beside the weights, the last `rows` of its tokens read at once. */
function need(inputs: MemoryInputs, tokens: number, rows = tokens): Record<KvPlace, number> {
  const { device, host } = kvBytesByPlace(inputs.kv, kvCapacity(tokens));
  return { device: device + workspaceBytes(inputs, tokens, rows), host };
}

/** What is needed if it is there. */
function ifItFits(
  inputs: MemoryInputs | undefined,
  tokens: number,
  rows = tokens,
): Record<KvPlace, number> | undefined {
  if (!inputs) return undefined;
  const wanted = need(inputs, tokens, rows);
  return wanted.device <= inputs.free && wanted.host <= inputs.hostFree ? wanted : undefined;
}

/** Keys that attention can address. */
const MOST_PLANNED = 1 << 29;

/**
 * Plans a context.
 *
 * @param inputs The model and the device's state.
 * @param tokens Tokens of the context.
 * @throws {MInferenceError} `INVALID_ARGUMENT` for what no context can be.
 */
export function planMemory(inputs: MemoryInputs, tokens: number): MemoryPlan {
  checkNumber("tokens", tokens, { least: 1, most: MOST_PLANNED });
  const { maxPositions } = inputs.config;
  let low = 0;
  let high = maxPositions;
  while (low < high) { // need() grows with the tokens
    const middle = Math.ceil((low + high) / 2);
    if (ifItFits(inputs, middle)) low = middle;
    else high = middle - 1;
  }
  const { device: kvCache, host: hostKvCache } = kvBytesByPlace(inputs.kv, kvCapacity(tokens));
  const workspace = workspaceBytes(inputs, tokens);
  const wouldFit = (other: MemoryInputs | undefined): boolean =>
    tokens <= maxPositions && ifItFits(other ?? inputs, tokens) !== undefined;
  return {
    tokens,
    weights: inputs.weights,
    kvCache,
    hostKvCache,
    workspace,
    total: inputs.weights + kvCache + workspace,
    free: inputs.free,
    maxContext: low,
    fits: tokens <= low,
    fitsAsFp8: inputs.kv.headDim % FP8_HEAD === 0 && wouldFit(asFp8(inputs)),
    fitsOnHost: wouldFit(onHost(inputs)),
  };
}

/** Caches that take less of what is free cannot be what does not fit; planning them is saved. */
const NEGLIGIBLE = 0.01;

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;

/** Bytes by place, in words. */
function bytesText({ device, host }: Record<KvPlace, number>): string {
  return host > 0 ? `${gib(device)} on the device and ${gib(host)} of host memory` : gib(device);
}

/**
 * Refuses a prompt that will not fit, before anything is taken for it.
 *
 * @param inputs The model and the device's state; `free` and `hostFree` count what its session and decoder hold already.
 * @param tokens Tokens held at the end of the prompt.
 * @param rows Those that it adds.
 * @throws {MInferenceError} `OUT_OF_MEMORY` with the bytes, and whether an fp8 KV cache or one in host memory would fit.
 */
export function refuseTooLarge(inputs: MemoryInputs, tokens: number, rows: number): void {
  const { free, hostFree, kv } = inputs;
  const cache = kvBytesByPlace(kv, kvCapacity(tokens));
  if (cache.device < NEGLIGIBLE * free && cache.host < NEGLIGIBLE * hostFree) return;
  if (ifItFits(inputs, tokens, rows)) return;
  const wanted = need(inputs, tokens, rows);
  const [fp8, host] = [asFp8, onHost].map((change) => ifItFits(change(inputs), tokens, rows));
  const available = { device: free, host: kv.offloaded ? hostFree : 0 };
  throw new MInferenceError(
    "OUT_OF_MEMORY",
    `${tokens} tokens take ${bytesText(wanted)} beside the weights, ${
      bytesText(available)
    } are free` +
      (fp8 ? `; with an fp8 KV cache they take ${bytesText(fp8)}, which fits` : "") +
      (host ? `; with the KV cache in host memory they take ${bytesText(host)}, which fits` : ""),
    {
      details: {
        tokens,
        wanted: wanted.device,
        available: free,
        hostWanted: wanted.host,
        hostAvailable: hostFree,
        fitsAsFp8: fp8 !== undefined,
        fitsOnHost: host !== undefined,
      },
    },
  );
}
