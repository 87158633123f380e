// Keys and values as e4m3: round trips, blocks that fill up over several appends, and attention that reads them.
import fc from "fast-check";
import assert from "node:assert/strict";
import { enqueueAttention, type SequenceShape } from "../../src/attention/sequence.ts";
import { dequantise, quantise, type QuantisedRows } from "../../src/device/ops.ts";
import { Scratch } from "../../src/device/scratch.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import { device, failure, gaussians, relativeError } from "../support.ts";

const BLOCK = 128;

/** e4m3 rows with room for `rows` rows, filled with what must not be read. */
function quantisedRows(heads: number, rows: number, dim: number): {
  codes: Tensor;
  scales: Tensor;
  operand: QuantisedRows;
} & Disposable {
  const blocks = Math.ceil(rows / BLOCK);
  const data = new Uint8Array(heads * rows * dim).fill(0x7e);
  const codes = device.tensor([heads, rows, dim], { dtype: "e4m3", data });
  const scales = device.tensor([heads, blocks], {
    data: new Float32Array(heads * blocks).fill(2 ** 100),
  });
  return {
    codes,
    scales,
    operand: { view: codes.view(), scales: scales.ref(), scaleStride: blocks },
    [Symbol.dispose](): void {
      codes.dispose();
      scales.dispose();
    },
  };
}

/** Values whose magnitude differs from block to block and from row to row. */
function values(heads: number, rows: number, dim: number, seed: number): Float32Array<ArrayBuffer> {
  const out = gaussians(heads * rows * dim, seed);
  const size = gaussians(heads * rows, seed + 1, 2);
  return out.map((x, i) => x * 2 ** Math.round(size[Math.floor(i / dim)]));
}

/** Appends rows in pieces that end at `cuts`. */
function append(
  src: Tensor,
  out: QuantisedRows,
  [heads, rows, dim]: readonly number[],
  cuts: readonly number[],
): void {
  let position = 0;
  for (const end of [...cuts, rows]) {
    if (end <= position) continue;
    const view = src.view({ offset: position * dim });
    quantise(device, view, out, { position, rows: end - position, heads, dim });
    position = end;
  }
}

const sizes = fc.record({
  heads: fc.integer({ min: 1, max: 3 }),
  rows: fc.integer({ min: 1, max: 300 }),
  dim: fc.constantFrom(8, 16, 24, 64, 128),
  dtype: fc.constantFrom("f32" as const, "f16" as const, "bf16" as const),
  cuts: fc.array(fc.integer({ min: 1, max: 299 }), { maxLength: 4 }).map((cuts) =>
    cuts.toSorted((a, b) => a - b)
  ),
  seed: fc.integer({ min: 0, max: 1 << 20 }),
});

Deno.test("what is quantised in any pieces comes back within the format's error", async () => {
  await fc.assert(
    fc.asyncProperty(sizes, async ({ heads, rows, dim, dtype, cuts, seed }) => {
      using src = device.tensor([heads, rows, dim], {
        dtype,
        data: values(heads, rows, dim, seed),
      });
      using kept = quantisedRows(heads, rows, dim);
      using back = device.tensor([heads, rows, dim]);
      append(src, kept.operand, src.shape, cuts.filter((cut) => cut < rows));
      dequantise(device, kept.operand, back.view(), { rows, heads, dim });
      const [expected, actual, scales] = await Promise.all(
        [src, back, kept.scales].map((tensor) => tensor.read()),
      );
      const blocks = kept.operand.scaleStride;
      for (let head = 0; head < heads; head++) {
        for (let block = 0; block < blocks; block++) {
          const scale = scales[head * blocks + block];
          const from = (head * rows + block * BLOCK) * dim;
          const to = (head * rows + Math.min(rows, (block + 1) * BLOCK)) * dim;
          const most = expected.subarray(from, to).reduce((m, x) => Math.max(m, Math.abs(x)), 0);
          assert.ok(Number.isInteger(Math.log2(scale)), `scale ${scale}`);
          assert.ok(most <= 448 * scale && most > 224 * scale, `scale ${scale} of ${most}`);
          for (let i = from; i < to; i++) {
            const error = Math.abs(actual[i] - expected[i]);
            // Half a unit of 3 mantissa bits; of the smallest numbers, of the smallest unit, once a piece at most.
            const bound = Math.max(Math.abs(expected[i]) / 16, scale * 2 ** -9);
            assert.ok(error <= bound, `${expected[i]} became ${actual[i]}, scale ${scale}`);
          }
        }
      }
    }),
    { numRuns: 40 },
  );
});

Deno.test("a block with a value that is not finite is NaN, the others are what they were", async () => {
  const [rows, dim] = [300, 16];
  const data = gaussians(rows * dim, 3);
  data[130 * dim] = Infinity;
  using src = device.tensor([1, rows, dim], { data });
  using kept = quantisedRows(1, rows, dim);
  using back = device.tensor([1, rows, dim]);
  append(src, kept.operand, src.shape, []);
  dequantise(device, kept.operand, back.view(), { rows, heads: 1, dim });
  const read = await back.read();
  read.forEach((x, i) => {
    const poisoned = Math.floor(i / dim / BLOCK) === 1;
    assert.equal(Number.isNaN(x), poisoned, `element ${i}: ${x}`);
  });
});

/** Output and log-sum-exps over [2 kvHeads, kvLen, headDim] keys, then values; `scales`: of e4m3 ones. */
async function attend(
  shape: SequenceShape,
  q: Tensor,
  kv: Tensor,
  scales?: Tensor,
): Promise<Float32Array[]> {
  const { qHeads, kvHeads, headDim, qLen, kvLen } = shape;
  using scratch = new Scratch(device);
  using out = device.tensor(q.shape, { dtype: q.dtype });
  using lse = device.tensor([qHeads, qLen]);
  const stride = scales?.shape[1] ?? 0;
  enqueueAttention(device, scratch, shape, {
    q: q.view(),
    k: kv.view(),
    v: kv.view({ offset: kvHeads * kvLen * headDim }),
    kvScales: scales && { k: scales.ref(), v: scales.ref(kvHeads * stride), stride },
    out: out.view(),
    lse: lse.ref(),
  });
  return [await out.read(), await lse.read()];
}

Deno.test("attention over e4m3 is attention over what it stands for", async () => {
  const cpu = device.kind === "cpu";
  const dtype = cpu ? "f32" : "bf16";
  const shapes = fc.record({
    kvHeads: fc.integer({ min: 1, max: 2 }),
    group: fc.integer({ min: 1, max: 8 }),
    headDim: fc.constantFrom(16, 48, 64, 96, 128, 192, 256),
    qLen: fc.integer({ min: 1, max: 5 }),
    kvLen: fc.integer({ min: 5, max: 700 }),
    scale: fc.constantFrom(0.1, -0.1),
    seed: fc.integer({ min: 0, max: 1 << 20 }),
  });
  await fc.assert(
    fc.asyncProperty(shapes, async ({ kvHeads, group, headDim, qLen, kvLen, scale, seed }) => {
      const qHeads = kvHeads * group;
      const random = (heads: number, rows: number, n: number): Tensor =>
        device.tensor([heads, rows, headDim], { dtype, data: values(heads, rows, headDim, n) });
      using q = random(qHeads, qLen, seed);
      using src = random(2 * kvHeads, kvLen, seed + 2);
      using kept = quantisedRows(2 * kvHeads, kvLen, headDim);
      using floats = device.tensor(src.shape, { dtype });
      append(src, kept.operand, src.shape, []);
      const size = { rows: kvLen, heads: 2 * kvHeads, dim: headDim };
      dequantise(device, kept.operand, floats.view(), size);
      const shape = { qHeads, kvHeads, headDim, qLen, kvLen, scale };
      const [expected, lse] = await attend(shape, q, floats);
      const [actual, actualLse] = await attend(shape, q, kept.codes, kept.scales);
      const [error, lseError] = [relativeError(actual, expected), relativeError(actualLse, lse)];
      assert.ok(error < (cpu ? 1e-5 : 1e-2), `output: ${error}`);
      assert.ok(lseError < 1e-4, `lse: ${lseError}`);
    }),
    { numRuns: 30 },
  );
});

Deno.test("blocks and queries of any magnitude keep their precision", async () => {
  const cpu = device.kind === "cpu";
  const dtype = cpu ? "f32" : "bf16";
  const [blocks, heads, headDim] = [4, 5, 64];
  const kvLen = blocks * BLOCK;
  const magnitudes = fc.array(fc.integer({ min: -12, max: 8 }), {
    minLength: blocks,
    maxLength: blocks,
  });
  await fc.assert(
    fc.asyncProperty(magnitudes, fc.nat({ max: 1 << 20 }), async (magnitude, seed) => {
      // Head i sees block i alone, through one large element among small ones; the last one has no query to speak of,
      // and sees all keys alike.
      const marker = 16;
      const q = gaussians(heads * headDim, seed, 0.01);
      for (let i = 0; i < heads; i++) {
        if (i < blocks) q[i * headDim + i] = 2 ** (8 * i);
        else q.fill(2 ** -100, i * headDim, (i + 1) * headDim);
      }
      const k = gaussians(kvLen * headDim, seed + 1).map((x, i) =>
        Math.floor(i / (BLOCK * headDim)) === i % headDim ? marker + x / 16 : x / 16
      );
      const v = gaussians(kvLen * headDim, seed + 2).map((x, i) =>
        x * 2 ** magnitude[Math.floor(i / (BLOCK * headDim))]
      );
      using queries = device.tensor([heads, 1, headDim], { dtype, data: q });
      using src = device.tensor([2, kvLen, headDim], { dtype, data: Float32Array.of(...k, ...v) });
      using kept = quantisedRows(2, kvLen, headDim);
      using floats = device.tensor(src.shape, { dtype });
      append(src, kept.operand, src.shape, []);
      dequantise(device, kept.operand, floats.view(), { rows: kvLen, heads: 2, dim: headDim });
      const shape = { qHeads: heads, kvHeads: 1, headDim, qLen: 1, kvLen, scale: 4 };
      const [expected] = await attend(shape, queries, floats);
      const [actual] = await attend(shape, queries, kept.codes, kept.scales);
      for (let i = 0; i < heads; i++) {
        const [from, to] = [i * headDim, (i + 1) * headDim];
        const error = relativeError(actual.subarray(from, to), expected.subarray(from, to));
        assert.ok(error < (cpu ? 1e-5 : 1e-2), `head ${i}: ${error}`);
      }
    }),
    { numRuns: 20 },
  );
});

Deno.test("scales that do not belong to the keys are refused", async () => {
  using scratch = new Scratch(device);
  using q = device.tensor([1, 1, 16], { dtype: "bf16" });
  using kept = quantisedRows(2, 200, 16);
  const shape = { qHeads: 1, kvHeads: 1, headDim: 16, qLen: 1, kvLen: 200, scale: 1 };
  const [k, scales] = [kept.codes.view(), kept.scales.ref()];
  const attend = (operands: object): void =>
    enqueueAttention(device, scratch, shape, {
      ...{ q: q.view(), out: q.view(), k, v: k },
      ...operands,
    });
  assert.equal((await failure(() => attend({}))).code, "SHAPE");
  const short = await failure(() => attend({ kvScales: { k: scales, v: scales, stride: 1 } }));
  assert.match(short.message, /scale_stride must be at least 2, got 1/);
  using floats = device.tensor([1, 200, 16], { dtype: "bf16" });
  const [f, kvScales] = [floats.view(), { k: scales, v: scales, stride: 2 }];
  const stray = await failure(() => attend({ k: f, v: f, kvScales }));
  assert.match(stray.message, /not e4m3/);
});
