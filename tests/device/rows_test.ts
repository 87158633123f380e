// Row-wise operations against plain loops: every way that lengths and alignment divide the work.
import fc from "fast-check";
import assert from "node:assert/strict";
import { convertCopy, rmsNorm } from "../../src/device/ops.ts";
import { device, randomTensor } from "../support.ts";

const DTYPES = ["f32", "f16", "bf16"] as const;
const ROUNDING = { f32: 1e-5, f16: 2e-3, bf16: 1.6e-2 };
/** Fewer runs where the GPU is an emulated one: its name says so. */
const numRuns = device.info().name === "emulated GPU" ? 40 : 60;

Deno.test("rms_norm over vectors of every length", async () => {
  const dims = fc.oneof(
    fc.integer({ min: 1, max: 700 }),
    fc.constantFrom(1024, 2048, 4096, 4104, 8192, 8200, 16_400),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...DTYPES),
      fc.constantFrom(...DTYPES),
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 4 }),
      dims,
      fc.integer({ min: 0, max: 9 }),
      async (from, to, heads, rows, dim, pad) => {
        const stride = dim + pad;
        const { tensor: x, values } = await randomTensor([heads, rows, stride], from, dim + pad);
        const { tensor: weight, values: w } = await randomTensor([dim], "f32", dim);
        using out = device.tensor([heads, rows, dim], { dtype: to });
        rmsNorm(device, x.view(), weight.ref(), out.view(), { rows, heads, dim, eps: 1e-5 });
        const actual = await out.read();
        for (let row = 0; row < heads * rows; row++) {
          const source = values.subarray(row * stride, row * stride + dim);
          const mean = source.reduce((sum, v) => sum + v * v, 0) / dim;
          for (let i = 0; i < dim; i++) {
            const expected = source[i] / Math.sqrt(mean + 1e-5) * w[i];
            const error = Math.abs(actual[row * dim + i] - expected);
            assert.ok(error <= ROUNDING[to] * Math.max(1, Math.abs(expected)), `row ${row}, ${i}`);
          }
        }
        x.dispose();
        weight.dispose();
      },
    ),
    { numRuns },
  );
});

Deno.test("copies move every element and none beside them, whatever the strides", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...DTYPES),
      fc.integer({ min: 1, max: 4 }),
      fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(64, 131, 513)),
      fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(1024, 2056)),
      fc.integer({ min: 0, max: 9 }),
      async (dtype, heads, rows, dim, pad) => {
        // As keys and values reach the cache: heads side by side in a row, then apart.
        const row = heads * dim + pad;
        const { tensor: src, values } = await randomTensor([rows, row], dtype, rows + dim);
        const stride = dim + pad;
        const data = new Float32Array(heads * (rows + 1) * stride).fill(7);
        using dst = device.tensor([heads, rows + 1, stride], { dtype, data });
        const from = src.view({ rowStride: row, headStride: dim });
        convertCopy(device, from, dst.view(), { rows, heads, dim });
        const actual = await dst.read();
        for (let h = 0; h < heads; h++) {
          for (let r = 0; r < rows; r++) {
            const at = r * row + h * dim;
            data.set(values.subarray(at, at + dim), (h * (rows + 1) + r) * stride);
          }
        }
        assert.deepEqual(actual, data);
        src.dispose();
      },
    ),
    { numRuns },
  );
});
