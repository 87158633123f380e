// Weights of e4m3 with a scale per output feature: how close they come, and products with them.
import fc from "fast-check";
import assert from "node:assert/strict";
import { linear, quantiseRows, type Weight } from "../../src/device/ops.ts";
import { Scratch } from "../../src/device/scratch.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import type { Ref } from "../../src/native/structs.ts";
import { device, failure, gaussians, randomTensor, relativeError } from "../support.ts";

/** More rows than this are rounded to e4m3 themselves on a GPU. */
const FEW_ROWS = 4;

/** What a code of e4m3 stands for. */
function fromE4m3(code: number): number {
  const exponent = code >> 3 & 15, mantissa = code & 7;
  if ((code & 0x7f) === 0x7f) return NaN;
  const magnitude = exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

/** A matrix as e4m3, and what it stands for. */
class Quantised implements Disposable {
  readonly #codes: Tensor;
  readonly #scales: Tensor;
  readonly weight: Weight & { scales: Ref };

  constructor(readonly source: Tensor) {
    const [rows, columns] = source.shape;
    this.#codes = device.tensor([rows, columns], { dtype: "e4m3" });
    this.#scales = device.tensor([rows]);
    const scales = this.#scales.ref();
    this.weight = { view: this.#codes.view(), rows, columns, scales };
    quantiseRows(device, source.view(), this.weight);
  }

  async values(): Promise<{ scales: Float32Array; values: Float32Array }> {
    const { columns } = this.weight;
    const scales = await this.#scales.read();
    const codes = await this.#codes.readBytes();
    const values = Float32Array.from(codes, (code, i) => {
      return fromE4m3(code) * scales[Math.floor(i / columns)];
    });
    return { scales, values };
  }

  [Symbol.dispose](): void {
    this.#codes.dispose();
    this.#scales.dispose();
  }
}

/** x [rows, k] w[n, k]ᵀ in doubles. */
function product(
  x: Float32Array,
  w: Float32Array,
  n: number,
  k: number,
): Float32Array<ArrayBuffer> {
  const rows = x.length / k;
  const y = new Float32Array(rows * n);
  for (let r = 0; r < rows; r++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += x[r * k + i] * w[j * k + i];
      y[r * n + j] = sum;
    }
  }
  return y;
}

/** What a GPU multiplies instead of x. */
async function rounded(x: Tensor): Promise<Float32Array> {
  if (device.kind === "cpu" || x.shape[0] <= FEW_ROWS) return await x.read();
  using codes = new Quantised(x);
  return (await codes.values()).values;
}

const sizes = fc.record({
  rows: fc.integer({ min: 1, max: 40 }),
  columns: fc.integer({ min: 1, max: 40 }).map((n) => 16 * n),
  dtype: fc.constantFrom("f32" as const, "f16" as const, "bf16" as const),
  exponent: fc.integer({ min: -12, max: 12 }),
  seed: fc.integer({ min: 0, max: 1 << 20 }),
});

Deno.test("a row's largest becomes 448, and every value comes back within the format's error", async () => {
  await fc.assert(
    fc.asyncProperty(sizes, async ({ rows, columns, dtype, exponent, seed }) => {
      const { tensor, values } = await randomTensor([rows, columns], dtype, seed, 2 ** exponent);
      using source = tensor;
      using quantised = new Quantised(source);
      const { scales, values: actual } = await quantised.values();
      for (let row = 0; row < rows; row++) {
        const own = values.subarray(row * columns, (row + 1) * columns);
        const most = own.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
        assert.ok(Math.abs(scales[row] * 448 / most - 1) < 1e-6, `${scales[row]} of ${most}`);
        own.forEach((x, i) => {
          // Half a unit of 3 mantissa bits; of the smallest numbers, of the smallest unit.
          const bound = Math.max(Math.abs(x) / 16, scales[row] * 2 ** -10) * (1 + 1e-6);
          const back = actual[row * columns + i];
          assert.ok(Math.abs(back - x) <= bound, `${x} became ${back}, scale ${scales[row]}`);
        });
      }
    }),
    { numRuns: 40 },
  );
});

Deno.test("rows of zeros, huge, tiny and infinite values", async () => {
  const columns = 32;
  const data = gaussians(6 * columns, 5);
  data.fill(0, 0, columns);
  const scaled = (row: number, factor: number): void => {
    for (let i = row * columns; i < (row + 1) * columns; i++) data[i] *= factor;
  };
  scaled(1, 1e37);
  scaled(2, 1e-40);
  data[3 * columns + 7] = Infinity;
  data[4 * columns + 7] = NaN;
  using source = device.tensor([6, columns], { data });
  using quantised = new Quantised(source);
  const { scales, values } = await quantised.values();
  const row = (r: number): Float32Array => values.subarray(r * columns, (r + 1) * columns);
  const expected = (r: number): Float32Array => data.subarray(r * columns, (r + 1) * columns);
  assert.ok(scales[0] > 0 && row(0).every((x) => x === 0));
  assert.ok(relativeError(row(1), expected(1)) < 0.04);
  assert.ok(row(2).every((x) => Math.abs(x) < 1e-38));
  assert.ok(Number.isNaN(scales[3]) && Number.isNaN(scales[4]));
  assert.ok(relativeError(row(5), expected(5)) < 0.04);
});

Deno.test("blocks of GGUF are quantised as what they stand for", async () => {
  const blocks = 24;
  const bytes = new Uint8Array(blocks * 34);
  const view = new DataView(bytes.buffer);
  const values = new Float32Array(blocks * 32);
  const random = gaussians(values.length, 9, 40);
  for (let b = 0; b < blocks; b++) {
    const d = 2 ** -(b % 5);
    view.setFloat16(b * 34, d, true);
    for (let i = 0; i < 32; i++) {
      const q = Math.max(-127, Math.min(127, Math.round(random[b * 32 + i])));
      view.setInt8(b * 34 + 2 + i, q);
      values[b * 32 + i] = d * q + 0; // no -0: a block has none
    }
  }
  using stored = device.tensor([8, 96], { dtype: "q8_0", data: bytes });
  using floats = device.tensor([8, 96], { data: values });
  using a = new Quantised(stored);
  using b = new Quantised(floats);
  assert.deepEqual(await a.values(), await b.values());
});

Deno.test("products with e4m3 weights are those with what they stand for", async () => {
  const cases = fc.record({
    rows: fc.constantFrom(1, 2, 4, 5, 17, 80, 600),
    out: fc.constantFrom(16, 48, 80),
    columns: fc.constantFrom(16, 48, 144, 1040),
    xDtype: fc.constantFrom("f32" as const, "f16" as const, "bf16" as const),
    yDtype: fc.constantFrom("f32" as const, "f16" as const, "bf16" as const),
    precision: fc.constantFrom("f32" as const, "bf16" as const),
    bias: fc.boolean(),
    accumulate: fc.boolean(),
    seed: fc.integer({ min: 0, max: 1 << 20 }),
  });
  await fc.assert(
    fc.asyncProperty(cases, async (c) => {
      using scratch = new Scratch(device);
      const draw = (n: number, dtype: typeof c.xDtype, shape: number[], scale = 1): Tensor =>
        device.tensor(shape, {
          dtype,
          data: gaussians(shape.reduce((a, b) => a * b), c.seed + n, scale),
        });
      using x = draw(0, c.xDtype, [c.rows, c.columns]);
      using w = draw(1, "bf16", [c.out, c.columns], 1 / Math.sqrt(c.columns));
      using bias = draw(2, "f32", [c.out]);
      using y = draw(3, c.yDtype, [c.rows, c.out]);
      using quantised = new Quantised(w);
      const { values } = await quantised.values();
      const expected = product(await rounded(x), values, c.out, c.columns);
      const [before, added] = [await y.read(), await bias.read()];
      expected.forEach((_, i) => {
        if (c.bias) expected[i] += added[i % c.out];
        if (c.accumulate) expected[i] += before[i];
      });
      linear(device, scratch, x.view(), quantised.weight, y.view(), c.rows, {
        bias: c.bias ? bias.ref() : undefined,
        accumulate: c.accumulate,
        precision: c.precision,
      });
      const error = relativeError(await y.read(), expected);
      const exact = c.yDtype === "f32" && (c.precision === "f32" || device.kind === "cuda");
      // Tensor cores add products of fp8 with fewer bits than f32 has.
      const rounding = device.kind === "cuda" && c.rows > 4 ? 1e-3 : 1e-5;
      assert.ok(error < (exact && !c.bias ? rounding : 6e-3), `${error}`);
    }),
    { numRuns: 60 },
  );
});

Deno.test("a channel of zeros gives zeros, and a bias alone", async () => {
  using scratch = new Scratch(device);
  const data = gaussians(16 * 64, 3);
  data.fill(0, 5 * 64, 6 * 64);
  using w = device.tensor([16, 64], { data });
  using quantised = new Quantised(w);
  using bias = device.tensor([16], { data: new Float32Array(16).fill(0.5) });
  for (const rows of [1, 20]) {
    using x = device.tensor([rows, 64], { data: gaussians(rows * 64, 4) });
    using y = device.tensor([rows, 16]);
    for (const [given, value] of [[undefined, 0], [bias.ref(), 0.5]] as const) {
      linear(device, scratch, x.view(), quantised.weight, y.view(), rows, {
        bias: given,
        precision: "f32",
      });
      const read = await y.read();
      for (let r = 0; r < rows; r++) assert.equal(read[r * 16 + 5], value);
      assert.ok(read.every(Number.isFinite));
    }
  }
});

Deno.test("a row that is not finite spoils no other", async () => {
  using scratch = new Scratch(device);
  using w = device.tensor([16, 32], { data: gaussians(16 * 32, 3) });
  using quantised = new Quantised(w);
  const data = gaussians(8 * 32, 4);
  data[2 * 32 + 3] = NaN;
  using x = device.tensor([8, 32], { data });
  using y = device.tensor([8, 16]);
  linear(device, scratch, x.view(), quantised.weight, y.view(), 8, { precision: "f32" });
  (await y.read()).forEach((value, i) => {
    assert.equal(Number.isNaN(value), Math.floor(i / 16) === 2, `element ${i}: ${value}`);
  });
});

Deno.test("what does not fit is refused with the numbers", async () => {
  using scratch = new Scratch(device);
  using w = device.tensor([16, 32], { data: gaussians(16 * 32, 3) });
  using quantised = new Quantised(w);
  using x = device.tensor([1, 32]);
  using y = device.tensor([1, 16]);
  const run = (weight: Weight): void =>
    linear(device, scratch, x.view(), weight, y.view(), 1, { precision: "f32" });
  const { scales, ...bare } = quantised.weight;
  assert.match((await failure(() => run(bare))).message, /w_scales/);
  const stray = { view: w.view(), rows: 16, columns: 32, scales };
  assert.match((await failure(() => run(stray))).message, /w is not e4m3/);
  const odd = await failure(() => run({ ...quantised.weight, columns: 24 }));
  assert.equal(odd.code, "SHAPE");
  assert.match(odd.message, /multiples of 16, got 24/);
  const view = { ...quantised.weight.view, offset: 8 };
  const moved = await failure(() => run({ ...quantised.weight, view, rows: 15 }));
  assert.match(moved.message, /offset 8 is not a multiple of 16/);
});
