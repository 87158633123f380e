// Every attention path against the float64 oracle, over the cells that the work list names.
import fc from "fast-check";
import assert from "node:assert/strict";
import {
  attention,
  buildIndex,
  readIndex,
  sparseAttention,
} from "../../src/attention/attention.ts";
import type { SequenceShape } from "../../src/attention/sequence.ts";
import { visits } from "../../src/attention/work_list.ts";
import type { FloatDType } from "../../src/device/dtype.ts";
import { openDevice } from "../../src/device/open.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import { attentionDtypes, device, failure, gaussians, relativeError } from "../support.ts";
import { patterns, shapes, tolerance } from "./arbitraries.ts";
import { attend, causal, full, type Operands, type Visits } from "./oracle.ts";

interface Case extends Disposable {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly values: Operands;
}

async function makeCase(shape: SequenceShape, dtype: FloatDType, seed: number): Promise<Case> {
  const { qHeads, kvHeads, headDim, qLen, kvLen } = shape;
  const make = (heads: number, rows: number, n: number): Tensor =>
    device.tensor([1, heads, rows, headDim], {
      dtype,
      data: gaussians(heads * rows * headDim, seed + n, n === 3 ? 1 : 1.5),
    });
  const [q, k, v] = [make(qHeads, qLen, 1), make(kvHeads, kvLen, 2), make(kvHeads, kvLen, 3)];
  const values = { q: await q.read(), k: await k.read(), v: await v.read() };
  return { q, k, v, values, [Symbol.dispose]: () => [q, k, v].forEach((t) => t.dispose()) };
}

/** NaN everywhere, so that an element nobody writes is seen. */
function poisoned(shape: SequenceShape, dtype: FloatDType): Tensor {
  const { qHeads, qLen, headDim } = shape;
  const data = new Float32Array(qHeads * qLen * headDim).fill(NaN);
  return device.tensor([1, qHeads, qLen, headDim], { dtype, data });
}

async function compare(
  result: { out: Tensor; lse: Tensor },
  shape: SequenceShape,
  values: Operands,
  mask: Visits,
  dtype: FloatDType,
): Promise<void> {
  const expected = attend(shape, values, mask);
  const out = await result.out.read();
  const lse = await result.lse.read();
  const error = relativeError(out, expected.out);
  assert.ok(error <= tolerance(dtype), `output error ${error}`);
  const finite = [...expected.lse.keys()].filter((i) => expected.lse[i] > -Infinity);
  for (let i = 0; i < lse.length; i++) {
    if (expected.lse[i] === -Infinity) assert.equal(lse[i], -Infinity);
  }
  const difference = Math.max(0, ...finite.map((i) => Math.abs(lse[i] - expected.lse[i])));
  assert.ok(difference <= (dtype === "f32" ? 2e-5 : 2e-2), `log-sum-exp differs by ${difference}`);
}

for (const dtype of attentionDtypes) {
  Deno.test(`dense causal attention agrees with the oracle, ${dtype}`, async () => {
    await fc.assert(
      fc.asyncProperty(shapes, fc.nat(), async (shape, seed) => {
        using c = await makeCase(shape, dtype, seed);
        using out = poisoned(shape, dtype);
        using result = await attention(c.q, c.k, c.v, { out });
        await compare(result, shape, c.values, causal(shape), dtype);
      }),
      { numRuns: 25 },
    );
  });

  Deno.test(`dense attention without a mask agrees with the oracle, ${dtype}`, async () => {
    await fc.assert(
      fc.asyncProperty(shapes, fc.nat(), async (shape, seed) => {
        // Without a mask there may be more queries than keys.
        const wide = { ...shape, qLen: shape.kvLen, kvLen: shape.qLen };
        using c = await makeCase(wide, dtype, seed);
        using out = poisoned(wide, dtype);
        using result = await attention(c.q, c.k, c.v, { out, causal: false });
        await compare(result, wide, c.values, full(wide), dtype);
      }),
      { numRuns: 15 },
    );
  });

  Deno.test(`sparse attention agrees with the oracle on the listed cells, ${dtype}`, async () => {
    await fc.assert(
      fc.asyncProperty(
        shapes.filter((shape) => shape.kvLen <= 256 || shape.headDim <= 64),
        fc.array(patterns, { minLength: 16, maxLength: 16 }),
        fc.nat(),
        async (shape, all, seed) => {
          using c = await makeCase(shape, dtype, seed);
          using index = await buildIndex(c.q, c.k, all.slice(0, shape.qHeads));
          const lists = await readIndex(index);
          using out = poisoned(shape, dtype);
          using result = await sparseAttention(c.q, c.k, c.v, index, { out });
          const mask: Visits = (head, row) => visits(lists[head], shape, row);
          await compare(result, shape, c.values, mask, dtype);
        },
      ),
      { numRuns: 40 },
    );
  });
}

Deno.test("neighbouring row blocks that want different keys over long lists", async () => {
  const dtype = attentionDtypes[attentionDtypes.length - 1];
  const shape = { qHeads: 2, kvHeads: 1, headDim: 64, qLen: 3000, kvLen: 3300, scale: 0.125 };
  using c = await makeCase(shape, dtype, 5);
  using index = await buildIndex(c.q, c.k, [
    { kind: "block_sparse", topK: 5 },
    { kind: "vertical_slash", vertical: 200, slash: 100, selection: "exact" },
  ]);
  const lists = await readIndex(index);
  using out = poisoned(shape, dtype);
  using result = await sparseAttention(c.q, c.k, c.v, index, { out });
  await compare(result, shape, c.values, (h, row) => visits(lists[h], shape, row), dtype);
});

Deno.test("output may overwrite the queries", async () => {
  const dtype = attentionDtypes[attentionDtypes.length - 1];
  const shape = { qHeads: 4, kvHeads: 2, headDim: 64, qLen: 200, kvLen: 230, scale: 0.125 };
  using c = await makeCase(shape, dtype, 11);
  using result = await attention(c.q, c.k, c.v, { out: c.q });
  await compare(result, shape, c.values, causal(shape), dtype);
});

Deno.test("a batch of sequences of different lengths is computed one by one", async () => {
  const dtype = attentionDtypes[attentionDtypes.length - 1];
  const [heads, rows, headDim] = [2, 150, 32];
  const data = (n: number): Float32Array<ArrayBuffer> => gaussians(3 * heads * rows * headDim, n);
  const tensor = (n: number): Tensor =>
    device.tensor([3, heads, rows, headDim], { dtype, data: data(n) });
  using q = tensor(1);
  using k = tensor(2);
  using v = tensor(3);
  const lengths = [{ q: 150, kv: 150 }, { q: 1, kv: 77 }, { q: 60, kv: 130 }];
  const pattern = { kind: "a_shape", sink: 10, local: 40 } as const;
  using result = await attention(q, k, v, { pattern, lengths, automatic: false });
  const all = await Promise.all([q, k, v, result.out].map((t) => t.read()));
  const lse = await result.lse.read();
  lengths.forEach(({ q: qLen, kv: kvLen }, b) => {
    const shape = { qHeads: heads, kvHeads: heads, headDim, qLen, kvLen, scale: headDim ** -0.5 };
    const part = (values: Float32Array, count: number): number[] =>
      [0, 1].flatMap((h) => {
        const at = (b * heads + h) * rows * headDim;
        return [...values.subarray(at, at + count * headDim)];
      });
    const expected = attend(
      shape,
      { q: part(all[0], qLen), k: part(all[1], kvLen), v: part(all[2], kvLen) },
      (_, row) => {
        const p = kvLen - qLen + row;
        const seen = (key: number): boolean => p - key < 40 || key < 10;
        return Array.from({ length: kvLen }, (_, key) => key <= p && seen(key) ? 1 : 0);
      },
    );
    assert.ok(relativeError(part(all[3], qLen), expected.out) < tolerance(dtype), `batch ${b}`);
    const first = lse.subarray(b * heads * rows, b * heads * rows + qLen);
    assert.ok(relativeError(first, expected.lse.subarray(0, qLen)) < 1e-2);
  });
});

Deno.test("NaN spreads to its own rows only; infinities behave as in dense arithmetic", async () => {
  const dtype = attentionDtypes[0];
  const shape = { qHeads: 1, kvHeads: 1, headDim: 16, qLen: 130, kvLen: 130, scale: 0.25 };
  using c = await makeCase(shape, dtype, 5);
  const q = c.values.q as Float32Array<ArrayBuffer>;
  q[70 * 16 + 3] = NaN;
  using poisonedQ = device.tensor([1, 1, 130, 16], { dtype, data: q });
  using result = await attention(poisonedQ, c.k, c.v);
  const out = await result.out.read();
  const rows = Array.from({ length: 130 }, (_, r) => out.subarray(r * 16, r * 16 + 16).some(isNaN));
  assert.deepEqual(rows.flatMap((nan, r) => nan ? [r] : []), [70]);
});

Deno.test("wrong operands are refused with the numbers", async () => {
  const shape = { qHeads: 2, kvHeads: 1, headDim: 16, qLen: 8, kvLen: 8, scale: 0.25 };
  const dtype = attentionDtypes[0];
  using c = await makeCase(shape, dtype, 1);
  using other = device.tensor([1, 1, 9, 16], { dtype });
  using threeHeads = device.tensor([1, 3, 8, 16], { dtype });
  using flat = device.tensor([8, 16], { dtype });
  using odd = device.tensor([1, 1, 8, 12], { dtype });
  const code = async (body: () => Promise<unknown>): Promise<string> => (await failure(body)).code;
  assert.equal(await code(() => attention(flat, c.k, c.v)), "SHAPE");
  assert.equal(await code(() => attention(c.q, c.k, other)), "SHAPE");
  assert.equal(await code(() => attention(c.q, threeHeads, threeHeads)), "SHAPE");
  assert.equal(await code(() => attention(odd, odd, odd)), "SHAPE");
  assert.equal(await code(() => attention(other, c.k, c.v)), "SHAPE"); // more queries than keys
  const patterns = [{ kind: "dense" } as const];
  assert.equal(await code(() => attention(c.q, c.k, c.v, { pattern: patterns })), "SHAPE");
  const bad = { kind: "vertical_slash", mass: 2 } as const;
  assert.match(
    (await failure(() => attention(c.q, c.k, c.v, { pattern: bad }))).message,
    /head 0.*2/,
  );
  const sparse = { pattern: { kind: "a_shape", sink: 1, local: 1 }, causal: false } as const;
  assert.equal(await code(() => attention(c.q, c.k, c.v, sparse)), "INVALID_ARGUMENT");
});

Deno.test("attention in one call computes what its three steps do, for every pattern", async () => {
  const dtype = attentionDtypes[0];
  const shape = { qHeads: 2, kvHeads: 1, headDim: 16, qLen: 300, kvLen: 300, scale: 0.25 };
  using c = await makeCase(shape, dtype, 2);
  await fc.assert(
    fc.asyncProperty(fc.tuple(patterns, patterns), async (pattern) => {
      using once = await attention(c.q, c.k, c.v, { pattern, automatic: false });
      using index = await buildIndex(c.q, c.k, pattern);
      using steps = await sparseAttention(c.q, c.k, c.v, index);
      assert.deepEqual(await once.out.read(), await steps.out.read());
    }),
    { numRuns: 30 },
  );
});

Deno.test("statistics are there whatever the automatic choice is", async () => {
  const shape = { qHeads: 2, kvHeads: 1, headDim: 64, qLen: 300, kvLen: 400, scale: 0.125 };
  using c = await makeCase(shape, attentionDtypes[0], 1);
  using index = await buildIndex(c.q, c.k, { kind: "dense" });
  const pattern = { kind: "vertical_slash", vertical: 1000, slash: 6096 } as const;
  using chosen = await attention(c.q, c.k, c.v, { pattern });
  assert.deepEqual(chosen.stats, index.stats);
  using dense = await attention(c.q, c.k, c.v);
  assert.deepEqual(dense.stats, index.stats);
  using open = await attention(c.q, c.k, c.v, { causal: false });
  assert.deepEqual(open.stats, []);
});

Deno.test("an index serves only the shapes it was built for, until it is disposed", async () => {
  const shape = { qHeads: 2, kvHeads: 1, headDim: 64, qLen: 64, kvLen: 128, scale: 0.125 };
  using c = await makeCase(shape, attentionDtypes[0], 1);
  const index = await buildIndex(c.q, c.k, { kind: "a_shape", sink: 64, local: 64 });
  const others = [{ kvLen: 192 }, { qLen: 65 }, { headDim: 96 }, { kvHeads: 2 }, { qHeads: 4 }];
  for (const change of others) {
    using other = await makeCase({ ...shape, ...change }, attentionDtypes[0], 1);
    const error = await failure(() => sparseAttention(other.q, other.k, other.v, index));
    assert.equal(error.code, "SHAPE");
    const [[name, value]] = Object.entries(change);
    assert.match(error.message, new RegExp(`built for .*, not .*${name} ${value}`));
  }
  const two = [2, 2, 64, 64];
  using q = device.tensor(two, { dtype: c.q.dtype });
  using k = device.tensor([2, 1, 128, 64], { dtype: c.q.dtype });
  const batch = await failure(() => sparseAttention(q, k, k, index));
  assert.match(batch.message, /built for 1 sequences, not 2/);
  assert.equal((await failure(() => readIndex(index, 1))).code, "INVALID_ARGUMENT");
  index[Symbol.dispose]();
  index[Symbol.dispose]();
  assert.equal((await failure(() => readIndex(index))).code, "DISPOSED");
  assert.equal((await failure(() => sparseAttention(c.q, c.k, c.v, index))).code, "DISPOSED");
});

Deno.test("operands of another device are refused", async () => {
  const shape = { qHeads: 1, kvHeads: 1, headDim: 64, qLen: 64, kvLen: 64, scale: 0.125 };
  using c = await makeCase(shape, attentionDtypes[0], 1);
  await using other = await openDevice({ kind: device.kind });
  using foreign = other.tensor(c.v.shape, { dtype: c.v.dtype });
  for (
    const [name, call] of [
      ["v", () => attention(c.q, c.k, foreign)],
      ["out", () => attention(c.q, c.k, c.v, { out: foreign })],
    ] as const
  ) {
    const error = await failure(call);
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.equal(error.message, `${name} is on another device than q`);
  }
});
