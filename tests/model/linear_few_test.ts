// Linear layers of a few rows, as in decoding, whatever lengths, strides and dtypes.
import fc from "fast-check";
import assert from "node:assert/strict";
import { linear } from "../../src/device/ops.ts";
import { Scratch } from "../../src/device/scratch.ts";
import { device, randomTensor } from "../support.ts";

const DTYPES = ["f32", "f16", "bf16"] as const;
/** Of a stored result, and of the bias that cuBLASLt takes in the same type; sums themselves are f32. */
const ROUNDING = { f32: 1e-4, f16: 1e-3, bf16: 1e-2 };

const layers = fc.record({
  rows: fc.integer({ min: 1, max: 6 }),
  inputs: fc.oneof(
    fc.integer({ min: 1, max: 80 }),
    fc.integer({ min: 1, max: 80 }).map((n) => 8 * n),
    fc.constantFrom(1024, 1032, 2048, 4096, 4104),
  ),
  outputs: fc.integer({ min: 1, max: 70 }),
  x: fc.constantFrom(...DTYPES),
  w: fc.constantFrom(...DTYPES),
  y: fc.constantFrom(...DTYPES),
  pad: fc.constantFrom(0, 0, 8, 3),
  bias: fc.boolean(),
  accumulate: fc.boolean(),
});

Deno.test("a few rows: products, bias and sum, and nothing beside them", async () => {
  using scratch = new Scratch(device);
  await fc.assert(
    fc.asyncProperty(layers, async ({ rows, inputs, outputs, pad, ...layer }) => {
      const stride = inputs + pad;
      const [x, w] = [
        await randomTensor([rows, stride], layer.x, 1 + inputs),
        await randomTensor([outputs, stride], layer.w, 2 + outputs, 1 / Math.sqrt(inputs)),
      ];
      const [b, y] = [
        await randomTensor([outputs], "f32", 3),
        await randomTensor([rows, outputs + 1], layer.y, 4),
      ];
      const weight = { view: w.tensor.view(), rows: outputs, columns: inputs };
      linear(device, scratch, x.tensor.view(), weight, y.tensor.view(), rows, {
        bias: layer.bias ? b.tensor.ref() : undefined,
        accumulate: layer.accumulate,
        precision: "f32",
      });
      const actual = await y.tensor.read();
      for (const { tensor } of [x, w, b, y]) tensor.dispose();
      for (let row = 0; row < rows; row++) {
        for (let j = 0; j < outputs; j++) {
          const at = row * (outputs + 1) + j;
          const [bias, before] = [
            layer.bias ? b.values[j] : 0,
            layer.accumulate ? y.values[at] : 0,
          ];
          let sum = bias + before;
          for (let i = 0; i < inputs; i++) {
            sum += x.values[row * stride + i] * w.values[j * stride + i];
          }
          const error = Math.abs(actual[at] - sum);
          const size = 1 + Math.abs(sum) + Math.abs(bias) + Math.abs(before);
          assert.ok(error <= ROUNDING[layer.y] * size, `[${row}, ${j}] is off by ${error}`);
        }
        const beside = row * (outputs + 1) + outputs;
        assert.equal(actual[beside], y.values[beside], `beside row ${row}`);
      }
    }),
    { numRuns: 120 },
  );
});

Deno.test("a few rows: one that is not finite spoils no other", async () => {
  using scratch = new Scratch(device);
  const [rows, inputs, outputs] = [4, 256, 24];
  const x = await randomTensor([rows, inputs], "bf16", 1);
  const w = await randomTensor([outputs, inputs], "bf16", 2);
  using y = device.tensor([rows, outputs]);
  const weight = { view: w.tensor.view(), rows: outputs, columns: inputs };
  await x.tensor.write(new Float32Array([Infinity, NaN]), inputs + 3);
  linear(device, scratch, x.tensor.view(), weight, y.view(), rows, { precision: "f32" });
  const values = await y.read();
  x.tensor.dispose();
  w.tensor.dispose();
  for (let row = 0; row < rows; row++) {
    const finite = values.subarray(row * outputs, (row + 1) * outputs).every(Number.isFinite);
    assert.equal(finite, row !== 1, `row ${row}`);
  }
});
