// What the meter reads off the attention: which rows, and which of their recalls.
import assert from "node:assert/strict";
import fc from "fast-check";
import { attention, buildIndex, sparseAttention } from "../../src/attention/attention.ts";
import {
  firstMeasuredRow,
  LayerMeter,
  nthSmallest,
  sampledRuns,
} from "../../src/search/measure.ts";
import { attentionDtypes, device, randomTensor } from "../support.ts";

Deno.test("meter: the nth smallest is what sorting finds", () => {
  const value = fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.constantFrom(0, 0.5, 1));
  fc.assert(
    fc.property(fc.array(value, { minLength: 1, maxLength: 200 }), fc.nat(), (values, n) => {
      const place = n % values.length;
      const sorted = Float64Array.from(values).sort();
      assert.equal(nthSmallest(Float64Array.from(values), place), sorted[place]);
    }),
    { numRuns: 500 },
  );
  nthSmallest(Float64Array.of(NaN, 1, NaN, 0, NaN), 2); // ends
});

Deno.test("meter: sampled rows are measured ones, none twice, the last among them", () => {
  fc.assert(fc.property(fc.integer({ min: 2, max: 200_000 }), (qLen) => {
    let end = firstMeasuredRow(qLen);
    for (const { first, count } of sampledRuns(qLen)) {
      assert.ok(first >= end && count > 0);
      end = first + count;
    }
    assert.equal(end, qLen);
  }));
});

Deno.test("meter: the error is that of the attention output, where all rows are compared and where not", async () => {
  const dtype = attentionDtypes[attentionDtypes.length - 1];
  for (const rows of [600, 2600]) {
    const shape = {
      ...{ qHeads: 2, kvHeads: 1, headDim: 16, qLen: rows, kvLen: rows, scale: 0.25 },
    };
    using q = (await randomTensor([1, 2, rows, 16], dtype, 1)).tensor;
    using k = (await randomTensor([1, 1, rows, 16], dtype, 2)).tensor;
    using v = (await randomTensor([1, 1, rows, 16], dtype, 3)).tensor;
    const pattern = { kind: "a_shape", sink: 64, local: 128 } as const;
    using meter = new LayerMeter(device, shape);
    const measured = await device.exclusive(() =>
      meter.measure({ layer: 0, shape, q: q.view(), k: k.view(), v: v.view() }, [pattern])
    );
    using index = await buildIndex(q, k, [pattern, pattern]);
    using sparse = await sparseAttention(q, k, v, index);
    using dense = await attention(q, k, v);
    const [ours, exact] = [await sparse.out.read(), await dense.out.read()];
    for (const head of [0, 1]) {
      let difference = 0;
      let norm = 0;
      for (const { first, count } of sampledRuns(rows)) {
        for (let i = 0; i < count * 16; i++) {
          const at = (head * rows + first) * 16 + i;
          difference += (ours[at] - exact[at]) ** 2;
          norm += exact[at] ** 2;
        }
      }
      const wanted = Math.sqrt(difference / norm);
      assert.ok(wanted > 0.1);
      // The meter's output is f32 on the CPU and bf16 on a GPU, the operation's is of the operands' type.
      assert.ok(Math.abs(measured[head][0].error - wanted) < 0.01 * wanted, `${wanted}`);
    }
  }
});
