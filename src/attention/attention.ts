/**
 * Attention on tensors: one call, or its three steps one by one.
 *
 * @module
 */
import type { CallOptions, Device } from "../device/device.ts";
import { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import { MInferenceError } from "../native/errors.ts";
import type { View } from "../native/structs.ts";
import { causalTiles, chooseDense, DENSE_ABOVE } from "./cost.ts";
import { type GuardOption, resolveGuard } from "./guard.ts";
import { type HeadPattern, resolvePattern } from "./patterns.ts";
import { enqueueAttention, enqueueEstimate, enqueueIndex, type SequenceShape } from "./sequence.ts";
import { decodeStats, denseStats, type HeadStats, statsBytes } from "./stats.ts";
import { type HeadList, readWorkList, type WorkList } from "./work_list.ts";

/** Lengths of one sequence of a padded batch. */
export interface SequenceLengths {
  /** Query rows in use, from the start. */
  readonly q: number;
  /** Keys in use, from the start. The last query row stands at the last key. */
  readonly kv: number;
}

/** Options shared by all attention calls. */
export interface ShapeOptions extends CallOptions {
  /** Softmax scale. Default 1/sqrt(headDim). */
  scale?: number;
  /** Lengths per sequence. Default the full tensors. */
  lengths?: readonly SequenceLengths[];
}

/** Options of {@linkcode buildIndex}. */
export interface BuildIndexOptions extends ShapeOptions {
  /** Probe rows of the estimate, 1 to 64. Default 64. */
  lastQ?: number;
  /** Compute a head densely where its list would not pay. Default false here, true in {@linkcode attention}. */
  automatic?: boolean;
  /** Measure retained attention mass on the probe rows. Default true. */
  measureMass?: boolean;
  /** What a head's list must keep of the probe rows' attention, else it is computed densely. Default nothing. */
  guard?: GuardOption;
}

/** Options of {@linkcode sparseAttention}. */
export interface SparseAttentionOptions extends ShapeOptions {
  /** Destination, same shape as q; may be q. Default a new tensor of q's dtype. */
  out?: Tensor;
}

/** Options of {@linkcode attention}. */
export interface AttentionOptions extends SparseAttentionOptions {
  /** A pattern for all query heads or one per head. Default dense. */
  pattern?: HeadPattern | readonly HeadPattern[];
  /** Causal mask. Default true; patterns require it. */
  causal?: boolean;
  /** Probe rows of the estimate. Default 64. */
  lastQ?: number;
  /** Compute a head densely where sparse would not pay. Default true. */
  automatic?: boolean;
  /** What a head's list must keep of the probe rows' attention, else it is computed densely. Default nothing. */
  guard?: GuardOption;
}

/** Result of {@linkcode attention} and {@linkcode sparseAttention}. */
export interface AttentionResult extends Disposable {
  /** Output, [B, Hq, Nq, D]. */
  readonly out: Tensor;
  /** Log-sum-exp of each query row, f32 [B, Hq, Nq], natural logarithm; -Infinity for a row without keys. */
  readonly lse: Tensor;
  /** What was computed, [B][Hq]; empty without a causal mask. */
  readonly stats: readonly (readonly HeadStats[])[];
}

/** Column and diagonal mass of the last queries: result of {@linkcode estimate}. */
export interface EstimateResult extends Disposable {
  /** f32 [B, Hq, Nk]: attention mass of each key, summed over the probe rows. */
  readonly vertical: Tensor;
  /** f32 [B, Hq, Nk]: mass of each distance (query position minus key position). */
  readonly slash: Tensor;
  /** f32 [B, Hq, probe rows]: log-sum-exp of the probe rows. */
  readonly lse: Tensor;
}

interface Batch {
  readonly device: Device;
  readonly size: number;
  readonly shapes: readonly SequenceShape[];
  view(tensor: Tensor, batch: number): View;
}

function shapeError(message: string, details: Record<string, unknown>): MInferenceError {
  return new MInferenceError("SHAPE", message, { details });
}

function checkDevice(name: string, { device }: { readonly device: Device }, q: Tensor): void {
  if (device === q.device) return;
  throw new MInferenceError("INVALID_ARGUMENT", `${name} is on another device than q`);
}

/** Checks q and keys [B, H, N, D] and their lengths. */
function makeBatch(q: Tensor, k: Tensor, causal: boolean, options: ShapeOptions): Batch {
  for (const [name, t] of [["q", q], ["k", k]] as const) {
    if (t.shape.length !== 4) {
      throw shapeError(`${name} must be [B, H, N, D], got [${t.shape}]`, { [name]: t.shape });
    }
    checkDevice(name, t, q);
  }
  const [size, qHeads, maxQ, headDim] = q.shape;
  const [kSize, kvHeads, maxKv, kDim] = k.shape;
  if (kSize !== size || kDim !== headDim || qHeads % kvHeads !== 0) {
    throw shapeError(
      `q [${q.shape}] and k [${k.shape}] do not fit: B and D must agree and Hkv divide Hq`,
      { q: q.shape, k: k.shape },
    );
  }
  const { lengths } = options;
  if (lengths && lengths.length !== size) {
    throw shapeError(`${lengths.length} lengths given for ${size} sequences`, {
      lengths: lengths.length,
      batch: size,
    });
  }
  const shapes = Array.from({ length: size }, (_, batch) => {
    const { q: qLen, kv: kvLen } = lengths?.[batch] ?? { q: maxQ, kv: maxKv };
    const ok = Number.isInteger(qLen) && Number.isInteger(kvLen) && qLen > 0 && kvLen > 0 &&
      qLen <= maxQ && kvLen <= maxKv && (!causal || qLen <= kvLen);
    if (!ok) {
      throw shapeError(
        `sequence ${batch}: lengths q ${qLen}, kv ${kvLen} must be in 1..${maxQ} and 1..${maxKv}` +
          (causal ? ", q at most kv" : ""),
        { batch, q: qLen, kv: kvLen },
      );
    }
    const scale = options.scale ?? 1 / Math.sqrt(headDim);
    return { qHeads, kvHeads, headDim, qLen, kvLen, scale };
  });
  return {
    device: q.device,
    size,
    shapes,
    view: (tensor, batch) =>
      tensor.view({ offset: batch * tensor.shape[1] * tensor.shape[2] * tensor.shape[3] }),
  };
}

function patternsOf(
  pattern: HeadPattern | readonly HeadPattern[],
  heads: number,
): readonly HeadPattern[] {
  const list = Array.isArray(pattern)
    ? pattern as readonly HeadPattern[]
    : Array<HeadPattern>(heads).fill(pattern as HeadPattern);
  if (list.length !== heads) {
    throw shapeError(`${list.length} patterns given for ${heads} query heads`, {
      patterns: list.length,
      heads,
    });
  }
  return list.map(resolvePattern);
}

function checkOperand(name: string, tensor: Tensor, shape: readonly number[], q: Tensor): void {
  checkDevice(name, tensor, q);
  if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
    throw shapeError(`${name} must be [${shape}], got [${tensor.shape}]`, {
      [name]: tensor.shape,
      expected: shape,
    });
  }
}

/**
 * Attention mass of each key and each distance, from the last queries of every head
 * (arXiv 2407.02490, section 3.3; the online estimate of vertical-slash heads).
 *
 * @param q [B, Hq, Nq, D] f32, f16 or bf16.
 * @param k [B, Hkv, Nk, D].
 * @param options Scale, lengths, probe rows (`lastQ`, default 64).
 * @returns Sums in f32. Entries beyond a sequence's length are undefined.
 * @throws {MInferenceError} `SHAPE`, `INVALID_ARGUMENT`, `OUT_OF_MEMORY`.
 */
export async function estimate(
  q: Tensor,
  k: Tensor,
  options: ShapeOptions & { lastQ?: number } = {},
): Promise<EstimateResult> {
  const batch = makeBatch(q, k, true, options);
  const { device, size } = batch;
  const lastQ = options.lastQ ?? 64;
  const [, heads, maxQ] = q.shape;
  const keys = k.shape[2];
  const probes = Math.min(lastQ, maxQ);
  using owned = new DisposableStack();
  const vertical = owned.use(device.tensor([size, heads, keys]));
  const slash = owned.use(device.tensor([size, heads, keys]));
  const lse = owned.use(device.tensor([size, heads, probes]));
  await device.exclusive(async () => {
    using scratch = new Scratch(device);
    batch.shapes.forEach((shape, b) => {
      // Rows of a short sequence are packed: the native sums are [Hq, kvLen].
      const out = {
        vertical: vertical.ref(b * heads * keys),
        slash: slash.ref(b * heads * keys),
        lse: lse.ref(b * heads * probes),
      };
      enqueueEstimate(device, scratch, shape, batch.view(q, b), batch.view(k, b), out, lastQ);
    });
    await device.sync(options);
  }, options);
  const kept = owned.move();
  return { vertical, slash, lse, [Symbol.dispose]: (): void => kept.dispose() };
}

interface IndexParts {
  /** Where it lies. */
  readonly device: Device;
  /** Shapes the index was built for. */
  readonly shapes: readonly SequenceShape[];
  /** Work lists in device memory, one per sequence. */
  readonly lists: readonly WorkList[];
}

const indexParts = new WeakMap<SparseIndex, IndexParts>();

function partsOf(index: SparseIndex): IndexParts {
  const parts = indexParts.get(index);
  if (!parts) {
    throw new MInferenceError("DISPOSED", "the index was disposed, or not made by buildIndex");
  }
  return parts;
}

/** Checks that an index was built for these shapes. */
function checkBuiltFor(built: readonly SequenceShape[], now: readonly SequenceShape[]): void {
  if (built.length !== now.length) {
    const message = `the index was built for ${built.length} sequences, not ${now.length}`;
    throw shapeError(message, { built: built.length, now: now.length });
  }
  const dimensions = ["qLen", "kvLen", "qHeads", "kvHeads", "headDim"] as const;
  const describe = (shape: SequenceShape): string =>
    dimensions.map((name) => `${name} ${shape[name]}`).join(", ");
  built.forEach((was, b) => {
    if (dimensions.every((name) => was[name] === now[b][name])) return;
    const message = `the index was built for ${describe(was)}, not ${describe(now[b])}`;
    throw shapeError(message, { built: was, now: now[b], batch: b });
  });
}

/**
 * A sparse index: the work list of every sequence and head. Made by {@linkcode buildIndex}, walked by
 * {@linkcode sparseAttention}; valid for tensors of the shapes it was built for.
 */
export class SparseIndex implements Disposable {
  /** @ignore Use {@linkcode buildIndex}. */
  constructor(
    /** What each head will compute, [B][Hq]. */
    readonly stats: readonly (readonly HeadStats[])[],
    /** Bytes of device memory held. */
    readonly byteLength: number,
  ) {}

  /** Frees the lists. */
  [Symbol.dispose](): void {
    for (const { memory } of indexParts.get(this)?.lists ?? []) memory.dispose();
    indexParts.delete(this);
  }
}

/**
 * Reads an index back: what each head will compute.
 *
 * @param index From {@linkcode buildIndex}.
 * @param batch Sequence. Default 0.
 * @returns One list per query head.
 * @throws {MInferenceError} `DISPOSED`, or `INVALID_ARGUMENT` if there is no such sequence.
 */
export async function readIndex(index: SparseIndex, batch = 0): Promise<HeadList[]> {
  const parts = partsOf(index);
  if (!(batch in parts.lists)) {
    const message = `sequence ${batch} of an index of ${parts.lists.length}`;
    throw new MInferenceError("INVALID_ARGUMENT", message, { details: { batch } });
  }
  return await readWorkList(parts.lists[batch], parts.shapes[batch]);
}

/**
 * Builds the sparse index of every head for this prompt.
 *
 * @param q [B, Hq, Nq, D].
 * @param k [B, Hkv, Nk, D].
 * @param pattern A pattern for all query heads or one per head.
 * @param options Scale, lengths, probe rows, automatic choice, guard.
 * @throws {MInferenceError} `INVALID_ARGUMENT` naming the head, `SHAPE`, `OUT_OF_MEMORY`.
 */
export async function buildIndex(
  q: Tensor,
  k: Tensor,
  pattern: HeadPattern | readonly HeadPattern[],
  options: BuildIndexOptions = {},
): Promise<SparseIndex> {
  const batch = makeBatch(q, k, true, options);
  const { device } = batch;
  const heads = q.shape[1];
  const patterns = patternsOf(pattern, heads);
  const guard = resolveGuard(options.guard ?? false);
  return await device.exclusive(async () => {
    using owned = new DisposableStack();
    using scratch = new Scratch(device);
    using stats = device.tensor([batch.size, statsBytes(heads)], { dtype: "u8" });
    const lists = batch.shapes.map((shape, b) => {
      const list = enqueueIndex(
        device,
        scratch,
        shape,
        batch.view(q, b),
        batch.view(k, b),
        patterns,
        {
          lastQ: options.lastQ,
          measureMass: options.measureMass ?? true,
          denseAbove: options.automatic ? DENSE_ABOVE[device.kind] : 1,
          guard,
          stats: stats.ref(b * statsBytes(heads)),
          keep: true,
        },
      );
      owned.use(list.memory);
      return list;
    });
    await device.sync(options);
    const bytes = await stats.readBytes();
    const perSequence = batch.shapes.map((_, b) =>
      decodeStats(bytes.slice(b * statsBytes(heads), (b + 1) * statsBytes(heads)))
    );
    owned.move();
    const byteLength = lists.reduce((sum, { memory }) => sum + memory.byteLength, 0);
    const index = new SparseIndex(perSequence, byteLength);
    indexParts.set(index, { device, shapes: batch.shapes, lists });
    return index;
  }, options);
}

/**
 * Attention over the cells that an index names, all heads in one launch per sequence.
 *
 * @param q [B, Hq, Nq, D] f32, f16 or bf16.
 * @param k [B, Hkv, Nk, D].
 * @param v [B, Hkv, Nk, D], k's dtype.
 * @param index From {@linkcode buildIndex} over the same shapes; null for dense causal attention.
 * @returns Output and log-sum-exp. Rows beyond a sequence's length are undefined.
 * @throws {MInferenceError} `SHAPE`, `INVALID_ARGUMENT`, `OUT_OF_MEMORY`.
 */
export function sparseAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  index: SparseIndex | null,
  options: SparseAttentionOptions = {},
): Promise<AttentionResult> {
  return attend(q, k, v, index, true, options);
}

/** Statistics of a sequence whose heads are all dense. */
function allDense(shape: SequenceShape): HeadStats[] {
  return Array<HeadStats>(shape.qHeads).fill(denseStats(causalTiles(shape)));
}

async function attend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  index: SparseIndex | null,
  causal: boolean,
  options: SparseAttentionOptions,
): Promise<AttentionResult> {
  const batch = makeBatch(q, k, causal, options);
  const { device } = batch;
  checkOperand("v", v, k.shape, q);
  if (options.out) checkOperand("out", options.out, q.shape, q);
  const parts = index ? partsOf(index) : undefined;
  if (parts) {
    checkDevice("the index", parts, q);
    checkBuiltFor(parts.shapes, batch.shapes);
  }
  using owned = new DisposableStack();
  const out = options.out ??
    owned.use(device.tensor(q.shape, { dtype: q.dtype }));
  const lse = owned.use(device.tensor(q.shape.slice(0, 3)));
  await device.exclusive(async () => {
    using scratch = new Scratch(device);
    batch.shapes.forEach((shape, b) => {
      enqueueAttention(device, scratch, shape, {
        q: batch.view(q, b),
        k: batch.view(k, b),
        v: batch.view(v, b),
        out: batch.view(out, b),
        lse: lse.ref(b * q.shape[1] * q.shape[2]),
        list: parts?.lists[b],
        causal,
      });
    });
    await device.sync(options);
  }, options);
  const kept = owned.move();
  return {
    out,
    lse,
    stats: index?.stats ?? (causal ? batch.shapes.map(allDense) : []),
    [Symbol.dispose]: (): void => kept.dispose(),
  };
}

/**
 * Attention with a pattern per head: estimate, index and sparse attention in one call.
 *
 * @param q [B, Hq, Nq, D] f32, f16 or bf16. Row r of Nq stands at position Nk - Nq + r.
 * @param k [B, Hkv, Nk, D]; Hkv divides Hq.
 * @param v [B, Hkv, Nk, D], k's dtype.
 * @param options Pattern, mask, scale, lengths, destination, signal.
 * @returns Output, log-sum-exp and per-head statistics. NaN and infinities in q, k or v propagate as in
 * dense arithmetic on the computed cells.
 * @throws {MInferenceError} `SHAPE`, `INVALID_ARGUMENT`, `OUT_OF_MEMORY`; `signal.reason` on abort.
 *
 * @example
 * ```ts ignore
 * using r = await attention(q, k, v, {
 *   pattern: { kind: "vertical_slash", vertical: 1000, slash: 6096 },
 * });
 * console.log(r.stats[0].map((head) => head.density));
 * ```
 */
export async function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions = {},
): Promise<AttentionResult> {
  const { pattern = { kind: "dense" }, causal = true, automatic = true } = options;
  const batch = makeBatch(q, k, causal, options);
  const patterns = patternsOf(pattern, q.shape[1]);
  const dense = patterns.every((p) => p.kind === "dense");
  if (!causal && !dense) {
    throw new MInferenceError("INVALID_ARGUMENT", "sparse patterns need causal attention");
  }
  const { kind } = batch.device;
  if (dense || (automatic && batch.shapes.every((s) => chooseDense(kind, s, patterns)))) {
    return await attend(q, k, v, null, causal, options);
  }
  using index = await buildIndex(q, k, patterns, { ...options, automatic });
  return await attend(q, k, v, index, true, options);
}
