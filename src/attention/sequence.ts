/**
 * The three native steps of sparse attention on one sequence, all heads: estimate, index, attend.
 * Everything here only queues work; the caller awaits `device.sync()`.
 *
 * @module
 */
import type { Device, Plan, Planner } from "../device/device.ts";
import { ABSENT, NO_WORKSPACE, type Scratch, type Workspace } from "../device/scratch.ts";
import * as params from "../native/params.ts";
import type { Ref, View } from "../native/structs.ts";
import type { Guard } from "./guard.ts";
import type { HeadPattern } from "./patterns.ts";
import type { WorkList } from "./work_list.ts";

/** Shape of one sequence's attention. Query row r stands at position `kvLen - qLen + r`. */
export interface SequenceShape {
  /** Query heads. */
  readonly qHeads: number;
  /** Key/value heads; divides `qHeads`. */
  readonly kvHeads: number;
  /** Elements of a head: a multiple of 8 up to 256. */
  readonly headDim: number;
  /** Query rows. */
  readonly qLen: number;
  /** Keys. */
  readonly kvLen: number;
  /** Softmax scale. */
  readonly scale: number;
}

/** Options of {@linkcode enqueueIndex}. */
export interface IndexOptions {
  /** Probe rows of the estimate, 1 to 64. Default 64 (arXiv 2407.02490, section 3.3). */
  lastQ?: number;
  /** A head denser than this is computed dense. Default 1: never. */
  denseAbove?: number;
  /** Measure the attention mass the list retains on the probe rows. Default false. */
  measureMass?: boolean;
  /** What a head's list must keep, else it is computed dense. Default nothing. */
  guard?: Guard;
  /** Receives `mi_head_stats` of every query head. */
  stats?: Ref;
  /**
   * The list has memory of its own, which the caller disposes. Default false: it is in the scratch of the other
   * buffers, where the next index overwrites it.
   */
  keep?: boolean;
}

function shapeFields(shape: SequenceShape): {
  q_heads: number;
  kv_heads: number;
  head_dim: number;
  q_len: number;
  kv_len: number;
  scale: number;
} {
  return {
    q_heads: shape.qHeads,
    kv_heads: shape.kvHeads,
    head_dim: shape.headDim,
    q_len: shape.qLen,
    kv_len: shape.kvLen,
    scale: shape.scale,
  };
}

/** A work list, or what is known of one before it is made. */
type PlannedList = Pick<WorkList, "bytes"> & Partial<WorkList>;

function listFields(list?: PlannedList): { list: Ref; list_bytes: number } {
  return { list: list?.memory?.ref() ?? ABSENT, list_bytes: list?.bytes ?? 0 };
}

/** Column sums, diagonal sums and log-sum-exp of the probe rows. */
export interface Estimate {
  /** f32 [qHeads, kvLen]: mass of each key. */
  readonly vertical: Ref;
  /** f32 [qHeads, kvLen]: mass of each distance. */
  readonly slash: Ref;
  /** f32 [qHeads, probe rows]. */
  readonly lse: Ref;
}

const NO_ESTIMATE: Estimate = { vertical: ABSENT, slash: ABSENT, lse: ABSENT };

function encodeEstimate(
  shape: SequenceShape,
  q: View,
  k: View,
  out: Estimate,
  lastQ: number,
  workspace: Workspace,
): Uint8Array<ArrayBuffer> {
  return params.estimate.encode({
    ...shapeFields(shape),
    ...out,
    q,
    k,
    last_q: lastQ,
    ...workspace,
  });
}

/** Bytes of workspace of {@linkcode enqueueEstimate}; of the views, only strides and dtypes count. */
export function planEstimate(
  device: Planner,
  shape: SequenceShape,
  q: View,
  k: View,
  lastQ = 64,
): number {
  return device.plan(encodeEstimate(shape, q, k, NO_ESTIMATE, lastQ, NO_WORKSPACE)).workspace;
}

/** Queues the last-queries estimate into `out`. */
export function enqueueEstimate(
  device: Device,
  scratch: Scratch,
  shape: SequenceShape,
  q: View,
  k: View,
  out: Estimate,
  lastQ = 64,
): void {
  const workspace = scratch.workspace(planEstimate(device, shape, q, k, lastQ));
  device.submit(encodeEstimate(shape, q, k, out, lastQ, workspace));
}

/** Bytes of each buffer of an estimate. */
export function estimateBytes(
  { qHeads, qLen, kvLen }: SequenceShape,
  lastQ = 64,
): Record<keyof Estimate, number> {
  const sums = qHeads * kvLen * 4;
  return { vertical: sums, slash: sums, lse: qHeads * Math.min(lastQ, qLen) * 4 };
}

/** Buffers for an estimate of this shape. */
export function estimateBuffers(scratch: Scratch, shape: SequenceShape, lastQ = 64): Estimate {
  const { vertical, slash, lse } = estimateBytes(shape, lastQ);
  return {
    vertical: scratch.ref("vertical", vertical),
    slash: scratch.ref("slash", slash),
    lse: scratch.ref("probe lse", lse),
  };
}

function encodePatterns(bytes: Uint8Array<ArrayBuffer>, patterns: readonly HeadPattern[]): void {
  const view = new DataView(bytes.buffer);
  const { forceSink, forceDiagonal, antidiagonal } = params.PATTERN_FLAG;
  patterns.forEach((p, head) => {
    const vs = p.kind === "vertical_slash" ? p : undefined;
    const blocks = p.kind === "block_sparse" ? p : undefined;
    const aShape = p.kind === "a_shape" ? p : undefined;
    params.pattern.write(view, params.index.size + head * params.pattern.size, {
      kind: params.PATTERN_KINDS.indexOf(p.kind),
      selection: params.SELECTION[vs?.selection ?? "exact"],
      vertical: vs?.vertical ?? 0,
      slash: vs?.slash ?? 0,
      mass: vs?.mass ?? 0,
      sink: aShape?.sink ?? 0,
      local: aShape?.local ?? 0,
      top_k: blocks?.topK ?? 0,
      flags: (blocks?.forceSink ? forceSink : 0) | (blocks?.forceDiagonal ? forceDiagonal : 0) |
        (blocks?.score === "antidiagonal" ? antidiagonal : 0),
    });
  });
}

function encodeIndex(
  shape: SequenceShape,
  q: View,
  k: View,
  patterns: readonly HeadPattern[],
  options: IndexOptions,
  sums: Estimate,
  workspace: Workspace,
  list?: WorkList,
): Uint8Array<ArrayBuffer> {
  const encoded = params.index.encode({
    ...shapeFields(shape),
    ...sums,
    q,
    k,
    ...listFields(list),
    stats: options.stats ?? ABSENT,
    ...workspace,
    last_q: options.lastQ ?? 64,
    dense_above: options.denseAbove ?? 1,
    measure_mass: options.measureMass ? 1 : 0,
    guard_mean: options.guard?.retained ?? 0,
    guard_min: options.guard?.retainedMin ?? 0,
  }, patterns.length * params.pattern.size);
  encodePatterns(encoded, patterns);
  return encoded;
}

/** Bytes of list and workspace of {@linkcode enqueueIndex}; of the views, only strides and dtypes count. */
export function planIndex(
  device: Planner,
  shape: SequenceShape,
  q: View,
  k: View,
  patterns: readonly HeadPattern[],
  options: IndexOptions = {},
): Plan {
  return device.plan(encodeIndex(shape, q, k, patterns, options, NO_ESTIMATE, NO_WORKSPACE));
}

/** Whether an index needs an estimate first. */
export function needsEstimate(patterns: readonly HeadPattern[]): boolean {
  return patterns.some((pattern) => pattern.kind === "vertical_slash");
}

/**
 * Queues the work list of every head: the estimate where a head needs it, then selection.
 *
 * @param patterns One resolved pattern per query head.
 * @param estimate Sums made before by {@linkcode enqueueEstimate}; else they are made here.
 * @returns The list.
 */
export function enqueueIndex(
  device: Device,
  scratch: Scratch,
  shape: SequenceShape,
  q: View,
  k: View,
  patterns: readonly HeadPattern[],
  options: IndexOptions = {},
  estimate?: Estimate,
): WorkList {
  let sums = estimate ?? NO_ESTIMATE;
  if (!estimate && needsEstimate(patterns)) {
    sums = estimateBuffers(scratch, shape, options.lastQ);
    enqueueEstimate(device, scratch, shape, q, k, sums, options.lastQ);
  }
  const plan = planIndex(device, shape, q, k, patterns, options);
  const workspace = scratch.workspace(plan.workspace);
  using owned = new DisposableStack();
  const memory = options.keep
    ? owned.use(device.tensor([plan.list], { dtype: "u8" }))
    : scratch.buffer("work list", plan.list);
  const list = { memory, bytes: plan.list };
  device.submit(encodeIndex(shape, q, k, patterns, options, sums, workspace, list));
  owned.move();
  return list;
}

/** Scales of e4m3 keys and values: of a head, one for every 128 keys. */
export interface KvScales {
  /** f32 [kvHeads, stride], of k. */
  readonly k: Ref;
  /** Of v. */
  readonly v: Ref;
  /** Elements between heads. */
  readonly stride: number;
}

/** Operands of {@linkcode enqueueAttention}. */
export interface AttentionOperands {
  /** [qHeads, qLen, headDim]. */
  readonly q: View;
  /** [kvHeads, kvLen, headDim]. */
  readonly k: View;
  /** [kvHeads, kvLen, headDim]. */
  readonly v: View;
  /** Where k and v are e4m3. On a GPU they may be for few query rows: up to 64 for each KV head. */
  readonly kvScales?: KvScales;
  /** [qHeads, qLen, headDim]; may be `q`. */
  readonly out: View;
  /** f32 [qHeads, qLen], natural logarithm. */
  readonly lse?: Ref;
  /** Work list; without one every head is dense. */
  readonly list?: WorkList;
  /** Default true. */
  readonly causal?: boolean;
}

/** Operands of {@linkcode planAttention}: of a list that is not made yet the bytes alone. */
export type PlannedOperands = Omit<AttentionOperands, "list"> & { readonly list?: PlannedList };

function encodeAttention(
  shape: SequenceShape,
  { q, k, v, kvScales, out, lse, list, causal }: PlannedOperands,
  workspace: Workspace,
): Uint8Array<ArrayBuffer> {
  return params.attention.encode({
    ...shapeFields(shape),
    q,
    k,
    v,
    out,
    lse: lse ?? ABSENT,
    ...listFields(list),
    k_scales: kvScales?.k ?? ABSENT,
    v_scales: kvScales?.v ?? ABSENT,
    scale_stride: kvScales?.stride ?? 0,
    causal: causal === false ? 0 : 1,
    ...workspace,
  });
}

/** Bytes of workspace of {@linkcode enqueueAttention}; of the views, only strides and dtypes count. */
export function planAttention(
  device: Planner,
  shape: SequenceShape,
  operands: PlannedOperands,
): number {
  return device.plan(encodeAttention(shape, operands, NO_WORKSPACE)).workspace;
}

/** Queues attention of one sequence, all heads. */
export function enqueueAttention(
  device: Device,
  scratch: Scratch,
  shape: SequenceShape,
  operands: AttentionOperands,
): void {
  const workspace = scratch.workspace(planAttention(device, shape, operands));
  device.submit(encodeAttention(shape, operands, workspace));
}
