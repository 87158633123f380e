/**
 * What a candidate pattern costs and keeps, for all heads of a layer at once.
 *
 * @module
 */
import { type HeadPattern, resolvePattern } from "../attention/patterns.ts";
import {
  enqueueAttention,
  enqueueEstimate,
  enqueueIndex,
  estimateBuffers,
  type SequenceShape,
} from "../attention/sequence.ts";
import { decodeStats, type HeadStats, statsBytes } from "../attention/stats.ts";
import type { WorkList } from "../attention/work_list.ts";
import type { CallOptions, Device } from "../device/device.ts";
import { convertCopy } from "../device/ops.ts";
import { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import type { LayerOperands } from "../model/decoder.ts";
import { activationDtype } from "../model/pass.ts";

/** One candidate on one head. */
export interface Measurement {
  /** The candidate. */
  readonly pattern: HeadPattern;
  /** 64 x 64 tiles computed over those of dense causal attention. */
  readonly density: number;
  /** Single columns selected. */
  readonly columns: number;
  /** Merged diagonal bands selected. */
  readonly bands: number;
  /**
   * Cost in milliseconds: the head's share of the measured index time, and its tiles at the layer's
   * measured price of a tile.
   */
  readonly ms: number;
  /** ‖sparse - dense‖ / ‖dense‖ of the attention output (the paper's objective, algorithm 1), over sampled rows. */
  readonly error: number;
  /** exp(LSE sparse - LSE dense), mean over the query rows: retained attention mass. */
  readonly recallMean: number;
  /** The same at the 5th percentile of the rows. */
  readonly recallLow: number;
  /** The worst of the last 64 rows: those that ask. A head may retrieve there and nowhere else. */
  readonly recallProbe: number;
}

/** Rows before this one see few keys and keep them all; upstream's score leaves them out, too. */
const FIRST_ROW = 2500;

/** First row whose recall counts, in a sample of `qLen` rows. */
export function firstMeasuredRow(qLen: number): number {
  return Math.min(FIRST_ROW, qLen >> 1);
}

/** Rows of a run, and most runs, whose output is compared: all of it would take longer than computing it. */
const RUN_ROWS = 64;
const RUNS = 16;

/** Neighbouring rows. */
interface Run {
  readonly first: number;
  readonly count: number;
}

/** Runs spread over the measured rows, the last rows among them; all measured rows where they are few. */
export function sampledRuns(qLen: number): Run[] {
  const first = firstMeasuredRow(qLen);
  const rows = qLen - first;
  if (rows <= RUNS * RUN_ROWS) return [{ first, count: rows }];
  return Array.from({ length: RUNS }, (_, run) => {
    const from = first + Math.floor(run * (rows - RUN_ROWS) / (RUNS - 1));
    return { first: from, count: RUN_ROWS };
  });
}

/** The value that would stand at `place` if the values were sorted; reorders them (Hoare's FIND). */
export function nthSmallest(values: Float64Array, place: number): number {
  for (let low = 0, high = values.length - 1; low < high;) {
    const pivot = values[(low + high) >> 1];
    let i = low;
    let j = high;
    while (i <= j) {
      while (values[i] < pivot) i++;
      while (values[j] > pivot) j--;
      if (i > j) break;
      [values[i], values[j]] = [values[j], values[i]];
      i++;
      j--;
    }
    if (place <= j) high = j;
    else if (place >= i) low = i;
    else break;
  }
  return values[place];
}

/** Buffers for measuring layers of one shape. */
export class LayerMeter implements Disposable {
  readonly #scratch: Scratch;
  readonly #out: Tensor;
  readonly #lse: Tensor;
  readonly #stats: Tensor;
  readonly #runs: readonly Run[];
  readonly #sampled: Tensor; // f32 [heads, rows of the runs, headDim]

  /** @param shape Of the layers to come. */
  constructor(readonly device: Device, readonly shape: SequenceShape) {
    using owned = new DisposableStack();
    this.#scratch = owned.use(new Scratch(device));
    const { qHeads, qLen, headDim } = shape;
    const dtype = activationDtype(device);
    this.#out = owned.use(device.tensor([qHeads, qLen, headDim], { dtype }));
    this.#lse = owned.use(device.tensor([qHeads, qLen]));
    this.#stats = owned.use(device.tensor([statsBytes(qHeads)], { dtype: "u8" }));
    this.#runs = sampledRuns(qLen);
    const sampled = this.#runs.reduce((sum, { count }) => sum + count, 0);
    this.#sampled = owned.use(device.tensor([qHeads, sampled, headDim]));
    owned.move();
  }

  /** Dense output and log-sum-exp, and every candidate against them: [head][candidate]. */
  async measure(
    operands: LayerOperands,
    candidates: readonly HeadPattern[],
    options: CallOptions = {},
  ): Promise<Measurement[][]> {
    const { device, shape } = this;
    const { q, k } = operands;
    const heads = shape.qHeads;
    const stats = this.#stats.ref();
    const dense = await this.#attend(operands, options);
    const sums = estimateBuffers(this.#scratch, shape);
    const started = performance.now();
    enqueueEstimate(device, this.#scratch, shape, q, k, sums);
    await device.sync(options);
    const estimateMs = performance.now() - started;
    const tried: Trial[] = [];
    for (const pattern of candidates) {
      const patterns = Array<HeadPattern>(heads).fill(resolvePattern(pattern, 0));
      const list = (): WorkList =>
        enqueueIndex(device, this.#scratch, shape, q, k, patterns, { stats }, sums);
      const sparse = await this.#attend(operands, options, list);
      const counted = decodeStats(await this.#stats.readBytes());
      const kept = counted.map((_, head) => this.#compare(head, sparse, dense));
      const indexMs = sparse.indexMs + (pattern.kind === "vertical_slash" ? estimateMs : 0);
      tried.push({ pattern, stats: counted, kept, indexMs, attentionMs: sparse.attentionMs });
    }
    // One price for all candidates of a kind: a single short run is too noisy to rank by, and of two that compute the
    // same tiles the one that keeps more is to be had for nothing.
    const alike = (a: HeadPattern, b: HeadPattern): boolean =>
      a.kind === b.kind &&
      (a.kind !== "block_sparse" || b.kind !== "block_sparse" || a.score === b.score);
    const priced = tried.map((trial) => {
      const same = tried.filter(({ pattern }) => alike(pattern, trial.pattern));
      const sum = (of: (t: Trial) => number): number => same.reduce((all, t) => all + of(t), 0);
      return {
        ...trial,
        indexMs: sum((t) => t.indexMs) / same.length,
        tileMs: sum((t) => t.attentionMs) / sum((t) => tilesOf(t.stats)),
      };
    });
    return Array.from({ length: heads }, (_, head) => [
      ...priced.map(({ pattern, stats, kept, indexMs, tileMs }) => ({
        pattern,
        density: stats[head].density,
        columns: stats[head].columns,
        bands: stats[head].bands,
        ms: indexMs / heads + tileMs * stats[head].tiles,
        ...kept[head],
      })),
      {
        ...{ pattern: { kind: "dense" } as const, density: 1, columns: 0, bands: 0 },
        ...{ ms: dense.attentionMs / heads, error: 0, recallMean: 1, recallLow: 1, recallProbe: 1 },
      },
    ]);
  }

  async #attend(
    { q, k, v }: LayerOperands,
    options: CallOptions,
    enqueueList?: () => WorkList,
  ): Promise<Attended> {
    const { device, shape } = this;
    const start = performance.now();
    const list = enqueueList?.();
    await device.sync(options);
    const indexed = performance.now();
    const out = this.#out.view();
    enqueueAttention(device, this.#scratch, shape, {
      ...{ q, k, v, out, list },
      lse: this.#lse.ref(),
    });
    await device.sync(options);
    const attentionMs = performance.now() - indexed;
    return {
      indexMs: indexed - start,
      attentionMs,
      sampled: await this.#sample(),
      lse: await this.#lse.read(),
    };
  }

  /** Output of the sampled rows, [heads, rows of the runs, headDim]. */
  async #sample(): Promise<Float32Array> {
    const { device, shape: { qHeads: heads, headDim: dim } } = this;
    let to = 0;
    for (const { first, count: rows } of this.#runs) {
      const from = this.#out.view({ offset: first * dim });
      convertCopy(device, from, this.#sampled.view({ offset: to * dim }), { rows, heads, dim });
      to += rows;
    }
    return await this.#sampled.read();
  }

  #compare(head: number, sparse: Attended, dense: Attended): Kept {
    const { qHeads, qLen } = this.shape;
    const first = firstMeasuredRow(qLen);
    const rows = qLen - first;
    const recall = new Float64Array(rows);
    let sum = 0;
    for (let r = 0; r < rows; r++) {
      const row = head * qLen + first + r;
      recall[r] = Math.min(1, Math.exp(sparse.lse[row] - dense.lse[row]));
      sum += recall[r];
    }
    const recallProbe = recall.subarray(-64).reduce((a, b) => Math.min(a, b));
    let difference = 0;
    let norm = 0;
    const values = sparse.sampled.length / qHeads;
    for (let i = head * values; i < (head + 1) * values; i++) {
      difference += (sparse.sampled[i] - dense.sampled[i]) ** 2;
      norm += dense.sampled[i] ** 2;
    }
    return {
      recallProbe,
      error: norm > 0 ? Math.sqrt(difference / norm) : 0,
      recallMean: sum / rows,
      recallLow: nthSmallest(recall, Math.floor(rows * 0.05)),
    };
  }

  /** Frees the buffers. */
  [Symbol.dispose](): void {
    this.#scratch[Symbol.dispose]();
    for (const tensor of [this.#out, this.#lse, this.#stats, this.#sampled]) tensor.dispose();
  }
}

type Kept = Pick<Measurement, "error" | "recallMean" | "recallLow" | "recallProbe">;

/** A candidate on all heads. */
interface Trial {
  readonly pattern: HeadPattern;
  readonly stats: readonly HeadStats[];
  readonly kept: readonly Kept[];
  readonly indexMs: number;
  readonly attentionMs: number;
}

function tilesOf(stats: readonly HeadStats[]): number {
  return stats.reduce((sum, head) => sum + head.tiles, 0);
}

interface Attended {
  readonly indexMs: number;
  readonly attentionMs: number;
  /** Output of the sampled rows. */
  readonly sampled: Float32Array;
  readonly lse: Float32Array;
}
