// Block masses against softmax written out, and what is derived from them.
import assert from "node:assert/strict";
import fc from "fast-check";
import { BLOCK, blockMass, gridOf } from "../../src/inspect/block_mass.ts";
import { oracle } from "../../src/inspect/oracle.ts";
import { attentionDtypes, device, gaussians } from "../support.ts";

Deno.test("block masses are those of softmax, over several passes", async () => {
  const shape = { qHeads: 4, kvHeads: 2, headDim: 8, qLen: 700, kvLen: 700, scale: 0.5 };
  const { qHeads, kvHeads, headDim, qLen, scale } = shape;
  const dtype = attentionDtypes[0];
  const tensors = [qHeads, kvHeads].map((heads, seed) => {
    const data = gaussians(heads * qLen * headDim, seed + 1);
    return device.tensor([heads, qLen, headDim], { dtype, data });
  });
  using q = tensors[0];
  using k = tensors[1];
  const operands = { layer: 0, shape, q: q.view(), k: k.view(), v: k.view() };
  const { mass, lse } = await blockMass(device, operands);
  const again = await blockMass(device, operands, { dense: lse.map((value) => value + 1) });
  const grid = gridOf(shape);
  assert.deepEqual(grid, { rows: 11, keys: 11 });
  const [qs, ks] = [await q.read(), await k.read()];
  const tolerance = device.kind === "cpu" ? 1e-5 : 5e-3;
  for (let head = 0; head < qHeads; head++) {
    const expected = new Float64Array(grid.rows * grid.keys);
    for (let row = 0; row < qLen; row++) {
      const weights = Float64Array.from({ length: row + 1 }, (_, key) => {
        let dot = 0;
        const kv = head * kvHeads / qHeads | 0;
        for (let d = 0; d < headDim; d++) {
          dot += qs[(head * qLen + row) * headDim + d] * ks[(kv * qLen + key) * headDim + d];
        }
        return Math.exp(scale * dot);
      });
      const total = weights.reduce((a, b) => a + b);
      const block = Math.floor(row / BLOCK);
      const rows = Math.min(BLOCK, qLen - block * BLOCK);
      weights.forEach((weight, key) => {
        expected[block * grid.keys + Math.floor(key / BLOCK)] += weight / total / rows;
      });
    }
    expected.forEach((value, i) => {
      const at = head * expected.length + i;
      assert.ok(Math.abs(mass[at] - value) < tolerance, `head ${head}, block ${i}`);
      assert.ok(
        Math.abs(again.mass[at] - value / Math.E) < tolerance,
        "as a fraction of more mass",
      );
    });
  }
});

/** Row-stochastic causal block masses. */
const masses = fc.integer({ min: 2, max: 12 }).chain((size) =>
  fc.array(fc.double({ min: 0.001, max: 1, noNaN: true }), {
    minLength: size * size,
    maxLength: size * size,
  }).map((raw) => {
    const mass = new Float32Array(size * size);
    for (let row = 0; row < size; row++) {
      const total = raw.slice(row * size, row * size + row + 1).reduce((a, b) => a + b);
      for (let key = 0; key <= row; key++) mass[row * size + key] = raw[row * size + key] / total;
    }
    return { mass, grid: { rows: size, keys: size } };
  })
);

Deno.test("the oracle keeps the share it is asked for, and more of both for a larger one", () => {
  const share = fc.double({ min: 0.05, max: 1, noNaN: true });
  fc.assert(fc.property(masses, share, share, ({ mass, grid }, a, b) => {
    const less = oracle(mass, grid, Math.min(a, b), 0);
    const more = oracle(mass, grid, Math.max(a, b), 0);
    assert.ok(less.recall >= Math.min(a, b) - 1e-5);
    assert.ok(less.density > 0 && more.density <= 1);
    assert.ok(less.recall <= more.recall + 1e-6 && less.density <= more.density);
  }));
});

Deno.test("the oracle takes the largest blocks", () => {
  const mass = new Float32Array([1, 0, 0, 0.3, 0.7, 0, 0.1, 0.6, 0.3]);
  const { density, recall } = oracle(mass, { rows: 3, keys: 3 }, 0.6, 1);
  assert.equal(density, 3 / 6);
  assert.ok(Math.abs(recall - (0.7 + 0.6) / 2) < 1e-6);
});
