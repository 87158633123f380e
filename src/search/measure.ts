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
import type { CallOptions, Device } from "../device/device.ts";
import { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import type { LayerOperands } from "../model/decoder.ts";

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
  /** ‖sparse - dense‖ / ‖dense‖ of the attention output (the paper's objective, algorithm 1). */
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

/** Buffers for measuring layers of one shape. */
export class LayerMeter implements Disposable {
  readonly #scratch: Scratch;
  readonly #out: Tensor;
  readonly #lse: Tensor;
  readonly #stats: Tensor;

  /** @param shape Of the layers to come. */
  constructor(readonly device: Device, readonly shape: SequenceShape) {
    using owned = new DisposableStack();
    this.#scratch = owned.use(new Scratch(device));
    const { qHeads, qLen, headDim } = shape;
    const dtype = device.kind === "cpu" ? "f32" : "bf16";
    this.#out = owned.use(device.tensor([qHeads, qLen, headDim], { dtype }));
    this.#lse = owned.use(device.tensor([qHeads, qLen]));
    this.#stats = owned.use(device.tensor([statsBytes(qHeads)], { dtype: "u8" }));
    owned.move();
  }

  /** Dense output and log-sum-exp, and every candidate against them: [head][candidate]. */
  async measure(
    operands: LayerOperands,
    candidates: readonly HeadPattern[],
    options: CallOptions = {},
  ): Promise<Measurement[][]> {
    const { device, shape } = this;
    const heads = shape.qHeads;
    const dense = await this.#attend(operands, undefined, options);
    const sums = estimateBuffers(this.#scratch, shape);
    const started = performance.now();
    enqueueEstimate(device, this.#scratch, shape, operands.q, operands.k, sums);
    await device.sync(options);
    const estimateMs = performance.now() - started;
    const runs: Run[] = [];
    for (const pattern of candidates) {
      const patterns = Array<HeadPattern>(heads).fill(resolvePattern(pattern, 0));
      const sparse = await this.#attend(operands, patterns, options);
      const stats = decodeStats(await this.#stats.readBytes());
      const kept = stats.map((_, head) => this.#compare(head, sparse, dense));
      const indexMs = sparse.indexMs + (pattern.kind === "vertical_slash" ? estimateMs : 0);
      runs.push({ pattern, stats, kept, indexMs, attentionMs: sparse.attentionMs });
    }
    // One price for all candidates of a kind: a single short run is too noisy to rank by.
    const priceOf = (kind: HeadPattern["kind"]): number => {
      const same = runs.filter((run) => run.pattern.kind === kind);
      const tiles = same.reduce((sum, run) => sum + tilesOf(run.stats), 0);
      return same.reduce((sum, run) => sum + run.attentionMs, 0) / tiles;
    };
    return Array.from({ length: heads }, (_, head) => [
      ...runs.map(({ pattern, stats, kept, indexMs }) => ({
        pattern,
        density: stats[head].density,
        columns: stats[head].columns,
        bands: stats[head].bands,
        ms: indexMs / heads + priceOf(pattern.kind) * stats[head].tiles,
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
    patterns: readonly HeadPattern[] | undefined,
    options: CallOptions,
  ): Promise<Attended> {
    const { device, shape } = this;
    const start = performance.now();
    const list = patterns &&
      enqueueIndex(device, this.#scratch, shape, q, k, patterns, { stats: this.#stats.ref() }, {
        ...estimateBuffers(this.#scratch, shape),
      });
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
      out: await this.#out.read(),
      lse: await this.#lse.read(),
    };
  }

  #compare(head: number, sparse: Attended, dense: Attended): Kept {
    const { qLen, headDim } = this.shape;
    const first = firstMeasuredRow(qLen);
    const rows = qLen - first;
    const recall = new Float64Array(rows);
    let difference = 0;
    let norm = 0;
    for (let r = 0; r < rows; r++) {
      const row = head * qLen + first + r;
      recall[r] = Math.min(1, Math.exp(sparse.lse[row] - dense.lse[row]));
      for (let c = row * headDim; c < (row + 1) * headDim; c++) {
        difference += (sparse.out[c] - dense.out[c]) ** 2;
        norm += dense.out[c] ** 2;
      }
    }
    const recallProbe = recall.subarray(-64).reduce((a, b) => Math.min(a, b));
    recall.sort();
    return {
      recallProbe,
      error: norm > 0 ? Math.sqrt(difference / norm) : 0,
      recallMean: recall.reduce((sum, value) => sum + value, 0) / rows,
      recallLow: recall[Math.floor(rows * 0.05)],
    };
  }

  /** Frees the buffers. */
  [Symbol.dispose](): void {
    this.#scratch[Symbol.dispose]();
    for (const tensor of [this.#out, this.#lse, this.#stats]) tensor.dispose();
  }
}

type Kept = Pick<Measurement, "error" | "recallMean" | "recallLow" | "recallProbe">;

interface Run {
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
  readonly out: Float32Array;
  readonly lse: Float32Array;
}
