/**
 * What the GPU benchmark measures of this library.
 *
 * @module
 */
import { decodeStats, type HeadStats, statsBytes } from "../../src/attention/stats.ts";
import { chooseDense, DENSE_ABOVE } from "../../src/attention/cost.ts";
import { type HeadPattern, resolvePattern } from "../../src/attention/patterns.ts";
import {
  enqueueAttention,
  enqueueEstimate,
  enqueueIndex,
  type Estimate,
  estimateBuffers,
  type IndexOptions,
  type SequenceShape,
} from "../../src/attention/sequence.ts";
import type { WorkList } from "../../src/attention/work_list.ts";
import { median } from "../../src/cli/format.ts";
import type { Device } from "../../src/device/device.ts";
import { convertCopy } from "../../src/device/ops.ts";
import { Scratch } from "../../src/device/scratch.ts";
import { indexSet, LAYER_BUDGETS } from "./gpu_inputs.ts";
import { HEAD_DIM, makeOperands, type Operands } from "./gpu_operands.ts";
import { column, describe, readings, readingsInTurns, summary, total } from "./gpu_timing.ts";

const HEADS = 32;
const KV_HEADS = 8;
const TILE_FLOP = 4 * HEAD_DIM * 64 * 64;

function shapeOf(operands: Operands): SequenceShape {
  const [qHeads, qLen, headDim] = operands.q.shape;
  const [kvHeads, kvLen] = operands.k.shape;
  return { qHeads, kvHeads, headDim, qLen, kvLen, scale: 1 / Math.sqrt(headDim) };
}

function attend(device: Device, scratch: Scratch, operands: Operands, list?: WorkList): void {
  const { q, k, v, out } = operands;
  enqueueAttention(device, scratch, shapeOf(operands), {
    q: q.view(),
    k: k.view(),
    v: v.view(),
    out: out.view(),
    list,
  });
}

/** Index and attention of a layer; the index from `estimate` where one is given. */
function attendSparsely(
  device: Device,
  scratch: Scratch,
  operands: Operands,
  patterns: readonly HeadPattern[],
  options: IndexOptions,
  estimate?: Estimate,
): void {
  const [q, k] = [operands.q.view(), operands.k.view()];
  const shape = shapeOf(operands);
  const list = enqueueIndex(device, scratch, shape, q, k, patterns, options, estimate);
  attend(device, scratch, operands, list);
}

/** Dense causal attention; past 512K tokens one head, as the peer. */
export async function dense(device: Device, lengths: readonly number[]): Promise<unknown[]> {
  const rows: unknown[] = [];
  for (const tokens of lengths) {
    const [heads, kvHeads] = tokens <= 1 << 19 ? [HEADS, KV_HEADS] : [1, 1];
    using operands = await makeOperands(device, tokens, heads, kvHeads, "random");
    using scratch = new Scratch(device);
    const all = await readings(device, () => attend(device, scratch, operands));
    const flop = 4 * HEAD_DIM * heads * tokens * (tokens + 1) / 2;
    const row = { tokens, heads, kvHeads, ...summary(column(all, "attention"), flop) };
    rows.push(row);
    console.log(`dense ${tokens}, ${heads} heads: ${describe(row)}`);
  }
  return rows;
}

/** Sums that make the index choose the given sets, a head's budget each. */
async function plant(
  estimate: Estimate,
  device: Device,
  scratch: Scratch,
  tokens: number,
  budgets: readonly { vertical: number; slash: number }[],
): Promise<void> {
  const vertical = scratch.buffer("vertical", 0);
  const slash = scratch.buffer("slash", 0);
  if (estimate.vertical.buffer !== vertical.handle) throw new Error("not the scratch's estimate");
  for (const [head, budget] of budgets.entries()) {
    const { columns, distances } = indexSet(tokens, budget.vertical, budget.slash, head + 1);
    for (const [buffer, keys] of [[vertical, columns], [slash, distances]] as const) {
      const sums = new Float32Array(tokens);
      for (const key of keys) sums[key] = 1;
      await device.writeBytes(buffer.handle, head * tokens * 4, new Uint8Array(sums.buffer));
    }
  }
}

async function readStats(device: Device, scratch: Scratch, heads: number): Promise<HeadStats[]> {
  await device.sync();
  return decodeStats(await scratch.buffer("stats", 0).readBytes(0, statsBytes(heads)));
}

const tilesOf = (stats: readonly HeadStats[]): number => stats.reduce((n, s) => n + s.tiles, 0);
const densityOf = (stats: readonly HeadStats[]): number =>
  stats.reduce((n, s) => n + s.density, 0) / stats.length;

/** The attention kernel of a layer whose heads have one budget, over the peer's index sets. */
export async function launch(
  device: Device,
  lengths: readonly number[],
  budgets: readonly { vertical: number; slash: number }[],
): Promise<unknown[]> {
  const rows: unknown[] = [];
  for (const tokens of lengths) {
    using operands = await makeOperands(device, tokens, HEADS, KV_HEADS, "random");
    const shape = shapeOf(operands);
    for (const budget of budgets) {
      for (const selection of ["exact", "banded"] as const) {
        using scratch = new Scratch(device);
        const estimate = estimateBuffers(scratch, shape);
        enqueueEstimate(device, scratch, shape, operands.q.view(), operands.k.view(), estimate);
        await plant(estimate, device, scratch, tokens, Array(HEADS).fill(budget));
        const pattern: HeadPattern = { kind: "vertical_slash", ...budget, selection };
        const stats = scratch.ref("stats", statsBytes(HEADS));
        const patterns = Array(HEADS).fill(resolvePattern(pattern, 0));
        const run = (): void =>
          attendSparsely(device, scratch, operands, patterns, { stats }, estimate);
        const all = await readings(device, run);
        const heads = await readStats(device, scratch, HEADS);
        const row = {
          tokens,
          ...budget,
          selection,
          heads: HEADS,
          density: densityOf(heads),
          tiles: tilesOf(heads),
          ...summary(column(all, "attention"), TILE_FLOP * tilesOf(heads)),
          index: summary(column(all, "index")),
        };
        rows.push(row);
        console.log(
          `launch ${tokens} (${budget.vertical}, ${budget.slash}) ${selection}: ${
            describe(row)
          }, ` +
            `density ${row.density.toFixed(4)}, index ${row.index.ms.toFixed(3)} ms`,
        );
      }
    }
  }
  return rows;
}

/** A whole layer with the published mix of budgets: estimate, index, attention. */
export async function layer(device: Device, lengths: readonly number[]): Promise<unknown[]> {
  const rows: unknown[] = [];
  for (const tokens of lengths) {
    using operands = await makeOperands(device, tokens, HEADS, KV_HEADS, "structured");
    const shape = shapeOf(operands);
    const [q, k] = [operands.q.view(), operands.k.view()];
    for (const selection of ["exact", "banded"] as const) {
      const patterns = LAYER_BUDGETS.map(({ vertical, slash }) =>
        resolvePattern({ kind: "vertical_slash", vertical, slash, selection }, 0)
      );
      for (const sets of ["selected", "given"] as const) {
        using scratch = new Scratch(device);
        using planted = new Scratch(device);
        const estimate = estimateBuffers(scratch, shape);
        const chosen = sets === "given" ? estimateBuffers(planted, shape) : estimate;
        enqueueEstimate(device, scratch, shape, q, k, estimate);
        if (sets === "given") {
          enqueueEstimate(device, scratch, shape, q, k, chosen);
          await plant(chosen, device, planted, tokens, LAYER_BUDGETS);
        }
        const run = (): void => {
          enqueueEstimate(device, scratch, shape, q, k, estimate);
          const denseAbove = DENSE_ABOVE[device.kind];
          const stats = scratch.ref("stats", statsBytes(HEADS));
          attendSparsely(device, scratch, operands, patterns, { stats, denseAbove }, chosen);
        };
        const all = await readings(device, run);
        const stats = await readStats(device, scratch, HEADS);
        const parts = ["estimate", "index", "attention"] as const;
        const row = {
          tokens,
          heads: HEADS,
          selection,
          sets,
          density: densityOf(stats),
          workspace: scratch.byteLength,
          ...summary(all.map((one) => parts.reduce((n, part) => n + (one[part] ?? 0), 0))),
          parts: Object.fromEntries(parts.map((part) => [part, summary(column(all, part))])),
          attentionTflops: TILE_FLOP * tilesOf(stats) / median(column(all, "attention")) * 1e-9,
        };
        rows.push(row);
        console.log(
          `layer ${tokens} ${selection}, ${sets} sets: ${describe(row)} (` +
            parts.map((part) => `${part} ${median(column(all, part)).toFixed(3)}`).join(", ") +
            `), density ${row.density.toFixed(4)}, ${row.attentionTflops.toFixed(0)} TFLOP/s, ` +
            `${(row.workspace / 2 ** 20).toFixed(0)} MiB`,
        );
      }
    }
  }
  return rows;
}

/** Block-sparse: the top 100 of 64-blocks. */
export async function blocks(device: Device, lengths: readonly number[]): Promise<unknown[]> {
  const rows: unknown[] = [];
  const pattern = resolvePattern({ kind: "block_sparse", topK: 100 }, 0);
  for (const tokens of lengths) {
    using operands = await makeOperands(device, tokens, HEADS, KV_HEADS, "structured");
    using scratch = new Scratch(device);
    const patterns = Array(HEADS).fill(pattern);
    const stats = scratch.ref("stats", statsBytes(HEADS));
    const run = (): void => attendSparsely(device, scratch, operands, patterns, { stats });
    const all = await readings(device, run);
    const tiles = tilesOf(await readStats(device, scratch, HEADS));
    const row = {
      tokens,
      heads: HEADS,
      top: 100,
      ...summary(column(all, "attention"), TILE_FLOP * tiles),
      index: summary(column(all, "index")),
    };
    rows.push(row);
    console.log(`block-sparse ${tokens}: ${describe(row)}, index ${row.index.ms.toFixed(3)} ms`);
  }
  return rows;
}

/** The automatic choice beside dense attention, published budgets, structured operands. */
export async function automatic(device: Device, lengths: readonly number[]): Promise<unknown[]> {
  const patterns = LAYER_BUDGETS.map(({ vertical, slash }) =>
    resolvePattern({ kind: "vertical_slash", vertical, slash, selection: "banded" }, 0)
  );
  const rows: unknown[] = [];
  for (const tokens of lengths) {
    using operands = await makeOperands(device, tokens, HEADS, KV_HEADS, "structured");
    using scratch = new Scratch(device);
    const shape = shapeOf(operands);
    const sparse = (): void => {
      if (chooseDense(device.kind, shape, patterns)) return attend(device, scratch, operands);
      const denseAbove = DENSE_ABOVE[device.kind];
      attendSparsely(device, scratch, operands, patterns, { denseAbove });
    };
    const both = [() => attend(device, scratch, operands), sparse];
    const [denseMs, sparseMs] = (await readingsInTurns(device, both))
      .map((times) => summary(times.map(total)));
    rows.push({ tokens, dense: denseMs, automatic: sparseMs });
    console.log(
      `automatic ${tokens}: ${sparseMs.ms.toFixed(3)} ms, dense ${denseMs.ms.toFixed(3)} ms`,
    );
  }
  return rows;
}

/** What one launch costs the calling thread, microseconds. */
export async function launchCost(device: Device): Promise<{ submitUs: number; readings: number }> {
  using a = device.tensor([64, HEAD_DIM], { dtype: "bf16" });
  using b = device.tensor([64, HEAD_DIM], { dtype: "bf16" });
  const size = { rows: 64, heads: 1, dim: HEAD_DIM };
  const count = 200;
  const times: number[] = [];
  for (let round = 0; round < 50; round++) {
    const start = performance.now();
    for (let i = 0; i < count; i++) convertCopy(device, a.view(), b.view(), size);
    times.push((performance.now() - start) * 1000 / count);
    await device.sync();
  }
  const submitUs = median(times);
  console.log(`a launch from TypeScript: ${submitUs.toFixed(2)} us`);
  return { submitUs, readings: times.length };
}
