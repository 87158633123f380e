// Samples, objectives and patterns that make no sense: refused before any work, with what is wrong.
import assert from "node:assert/strict";
import { attention } from "../../src/attention/attention.ts";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import { loadModel } from "../../src/model/model.ts";
import type { Objective } from "../../src/search/choose.ts";
import { LEAST_TOKENS, searchPatterns } from "../../src/search/search.ts";
import { attentionDtypes, device, failure, gaussians } from "../support.ts";

const folder = new URL("../../models/needle-27m/", import.meta.url);
const model = await loadModel(folder, { device, patterns: "dense" });
const { layers, heads, maxPositions } = model.config;

Deno.test("a sample shorter than the probe, or too short to be sparse, is refused", async () => {
  const long = new Uint32Array(LEAST_TOKENS);
  for (const tokens of [0, 1, 40, 64, LEAST_TOKENS - 1]) {
    const error = await failure(() => searchPatterns(model, [long, new Uint32Array(tokens)]));
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.deepEqual(error.details, { tokens, needed: LEAST_TOKENS });
  }
  assert.match((await failure(() => searchPatterns(model, []))).message, /no sample/);
  const over = await failure(() => searchPatterns(model, [new Uint32Array(maxPositions + 1)]));
  assert.equal(over.code, "CONTEXT_OVERFLOW");
  assert.deepEqual(over.details, { tokens: maxPositions + 1, maxPositions });
});

Deno.test("an objective that nothing could meet is refused", async () => {
  const thresholds = { recallMean: 0.9, recallLow: 0.5, recallProbe: 0.5 };
  const objectives: [Objective, RegExp][] = [
    [{ kind: "recall", thresholds: { ...thresholds, recallLow: 1.1 } }, /recallLow .* got 1.1/],
    [{ kind: "recall", thresholds: { ...thresholds, recallMean: NaN } }, /recallMean .* got NaN/],
    [{ kind: "error", budget: -1 }, /budget .* got -1/],
    [{ kind: "mass", budget: NaN }, /budget .* got NaN/],
  ];
  for (const [objective, message] of objectives) {
    const sample = new Uint32Array(LEAST_TOKENS);
    const error = await failure(() => searchPatterns(model, [sample], { objective }));
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.match(error.message, message);
  }
});

Deno.test("patterns for another model, or a wrong one, are refused naming layer and head", async () => {
  const good: HeadPattern = { kind: "a_shape", sink: 64, local: 256 };
  const table = (count = layers): HeadPattern[][] =>
    Array.from({ length: count }, () => Array<HeadPattern>(heads).fill(good));
  const short = table();
  short[3].pop();
  const wrong = table();
  wrong[2][5] = { kind: "vertical_slash", mass: 7 };
  const cases: [HeadPattern[][], RegExp][] = [
    [table(layers + 1), /patterns for 9 layers, the model has 8/],
    [short, /layer 3 has 7 patterns, the model has 8 heads/],
    [wrong, /layer 2, head 5: mass must be in \(0, 1\], got 7/],
  ];
  for (const [patterns, message] of cases) {
    const error = await failure(() => model.createSession({ patterns }));
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.match(error.message, message);
  }
  const all = await failure(() => model.createSession({ patterns: { ...good, local: 0 } }));
  assert.match(all.message, /local must be a whole number from 1 to \d+, got 0/);
});

Deno.test("budgets beyond the length keep everything", async () => {
  const most = 2 ** 30;
  const patterns: HeadPattern[] = [
    { kind: "a_shape", sink: most, local: most },
    { kind: "a_shape", sink: 0, local: most },
    { kind: "vertical_slash", vertical: most, slash: most },
    { kind: "vertical_slash", vertical: most, slash: most, selection: "banded" },
    { kind: "vertical_slash", mass: 1, vertical: most, slash: most },
    { kind: "block_sparse", topK: most },
    { kind: "block_sparse", topK: most, forceSink: true, score: "antidiagonal" },
  ];
  const dtype = attentionDtypes[0];
  const [rows, keys] = [150, 200];
  const data = (rows: number, seed: number): Float32Array<ArrayBuffer> =>
    gaussians(patterns.length * rows * 16, seed);
  const shape = (rows: number): number[] => [1, patterns.length, rows, 16];
  using q = device.tensor(shape(rows), { dtype, data: data(rows, 1) });
  using k = device.tensor(shape(keys), { dtype, data: data(keys, 2) });
  using v = device.tensor(shape(keys), { dtype, data: data(keys, 3) });
  using dense = await attention(q, k, v);
  using sparse = await attention(q, k, v, { pattern: patterns, automatic: false });
  const [want, got] = await Promise.all([dense.lse.read(), sparse.lse.read()]);
  const limit = device.kind === "cpu" ? 1e-5 : 1e-3;
  got.forEach((lse, i) => {
    const head = JSON.stringify(patterns[Math.floor(i / rows)]);
    assert.ok(Math.abs(lse - want[i]) <= limit, `${head}, row ${i % rows}: ${lse}, ${want[i]}`);
  });
});
