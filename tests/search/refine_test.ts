// Measuring and choosing on attention that nobody trained: it ends, and what is chosen keeps what was asked.
import fc from "fast-check";
import assert from "node:assert/strict";
import { attention, buildIndex, sparseAttention } from "../../src/attention/attention.ts";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import { candidates } from "../../src/search/candidates.ts";
import { choose, type Thresholds } from "../../src/search/choose.ts";
import { LayerMeter } from "../../src/search/measure.ts";
import { attentionDtypes, device, gaussians } from "../support.ts";

const ROWS = 768;
const shape = {
  ...{ qHeads: 2, kvHeads: 1, headDim: 16, qLen: ROWS, kvLen: ROWS, scale: 0.25 },
};

/** Attention that no pattern was made for. */
const KINDS: Record<string, (q: Float32Array, k: Float32Array) => void> = {
  random: () => {},
  uniform: (q) => q.fill(0),
  "one key takes all": (q, k) => {
    for (let i = 0; i < q.length; i += 16) q[i] = 8;
    k[300 * 16] = 30;
  },
  "each row its own far key": (q, k) => {
    k.fill(0);
    for (let key = 0; key < ROWS; key++) k[key * 16 + key % 16] = 12;
    for (let row = 0; row < 2 * ROWS; row++) q[row * 16 + row * 7 % 16] = 12;
  },
  "not a number": (q) => q[(2 * ROWS - 3) * 16] = NaN,
};

const threshold = fc.oneof(
  fc.double({ min: 0, max: 1, noNaN: true }),
  fc.constantFrom(0.5, 0.9, 1),
);
const thresholds = fc.record({
  recallMean: threshold,
  recallLow: threshold,
  recallProbe: threshold,
});

/** What a pattern keeps of one head, recomputed from the log-sum-exps of attention itself. */
function recall(sparse: Float32Array, dense: Float32Array, head: number): Thresholds {
  const first = head * ROWS;
  const rows = Array.from(
    { length: ROWS / 2 },
    (_, r) => Math.min(1, Math.exp(sparse[first + ROWS / 2 + r] - dense[first + ROWS / 2 + r])),
  );
  const sorted = rows.toSorted((a, b) => a - b);
  return {
    recallMean: rows.reduce((a, b) => a + b) / rows.length,
    recallLow: sorted[Math.floor(rows.length * 0.05)],
    recallProbe: Math.min(...rows.slice(-64)),
  };
}

Deno.test("each head gets a pattern that meets the thresholds, or dense", async () => {
  using meter = new LayerMeter(device, shape);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...Object.keys(KINDS)),
      fc.double({ min: 0.3, max: 3, noNaN: true }),
      fc.nat(),
      thresholds,
      async (kind, spread, seed, thresholds) => {
        const dtype = attentionDtypes[attentionDtypes.length - 1];
        const [qs, ks, vs] = [2, 1, 1].map((heads, n) =>
          gaussians(heads * ROWS * 16, seed + n, n === 2 ? 1 : spread)
        );
        KINDS[kind](qs, ks);
        using q = device.tensor([1, 2, ROWS, 16], { dtype, data: qs });
        using k = device.tensor([1, 1, ROWS, 16], { dtype, data: ks });
        using v = device.tensor([1, 1, ROWS, 16], { dtype, data: vs });
        const measured = await device.exclusive(() =>
          meter.measure(
            { layer: 0, shape, q: q.view(), k: k.view(), v: v.view() },
            candidates(ROWS, "full"),
          )
        );
        using dense = await attention(q, k, v);
        const denseLse = await dense.lse.read();
        for (const [head, measurements] of measured.entries()) {
          const [{ pattern }] = choose([[measurements]], { kind: "recall", thresholds });
          if (pattern.kind === "dense") continue;
          const heads: HeadPattern[] = [pattern, pattern];
          using index = await buildIndex(q, k, heads);
          using sparse = await sparseAttention(q, k, v, index);
          const kept = recall(await sparse.lse.read(), denseLse, head);
          for (const name of Object.keys(thresholds) as (keyof Thresholds)[]) {
            assert.ok(kept[name] >= thresholds[name] - 1e-6, `${kind}: ${name} is ${kept[name]}`);
          }
        }
      },
    ),
    { numRuns: 25 },
  );
});

Deno.test("attention that cannot be kept sparsely stays dense at threshold 1", async () => {
  using meter = new LayerMeter(device, shape);
  const dtype = attentionDtypes[attentionDtypes.length - 1];
  const data = (heads: number, n: number): Float32Array<ArrayBuffer> =>
    gaussians(heads * ROWS * 16, n);
  using q = device.tensor([1, 2, ROWS, 16], { dtype, data: data(2, 1).fill(0) });
  using k = device.tensor([1, 1, ROWS, 16], { dtype, data: data(1, 2) });
  using v = device.tensor([1, 1, ROWS, 16], { dtype, data: data(1, 3) });
  const measured = await device.exclusive(() =>
    meter.measure(
      { layer: 0, shape, q: q.view(), k: k.view(), v: v.view() },
      [64, 256].map((local): HeadPattern => ({ kind: "a_shape", sink: 64, local })),
    )
  );
  const thresholds = { recallMean: 1, recallLow: 1, recallProbe: 1 };
  for (const head of measured) {
    assert.equal(choose([[head]], { kind: "recall", thresholds })[0].pattern.kind, "dense");
  }
});
