// The quality guard: lists that keep too little are given up, all others stay as they are, bit for bit.
import fc from "fast-check";
import assert from "node:assert/strict";
import {
  attention,
  buildIndex,
  readIndex,
  type SparseIndex,
} from "../../src/attention/attention.ts";
import { DEFAULT_GUARD, type GuardOption, resolveGuard } from "../../src/attention/guard.ts";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import type { SequenceShape } from "../../src/attention/sequence.ts";

import type { HeadStats } from "../../src/attention/stats.ts";
import { visits } from "../../src/attention/work_list.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import { attentionDtypes, device, failure, gaussians } from "../support.ts";
import { patterns, shapes } from "./arbitraries.ts";

const dtype = attentionDtypes[0];

interface Operands extends Disposable {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
}

function operands(
  shape: SequenceShape,
  change: (q: Float32Array, k: Float32Array) => void,
): Operands {
  const { qHeads, kvHeads, qLen, kvLen, headDim } = shape;
  const [q, k, v] = [[qHeads, qLen], [kvHeads, kvLen], [kvHeads, kvLen]].map(([heads, rows], n) =>
    gaussians(heads * rows * headDim, n + 1)
  );
  change(q, k);
  const tensor = (heads: number, rows: number, data: Float32Array<ArrayBuffer>): Tensor =>
    device.tensor([1, heads, rows, headDim], { dtype, data });
  const all = [tensor(qHeads, qLen, q), tensor(kvHeads, kvLen, k), tensor(kvHeads, kvLen, v)];
  return {
    ...{ q: all[0], k: all[1], v: all[2] },
    [Symbol.dispose]: () => all.forEach((t) => t.dispose()),
  };
}

const ROWS = 1024;
const NEEDLE = 300; // a key that no A-shape and no forced column reaches
const needleShape = {
  ...{ qHeads: 2, kvHeads: 1, headDim: 32, qLen: ROWS, kvLen: ROWS, scale: 32 ** -0.5 },
};

/** Rows of head 1 from `first` on look at the needle, those of head 0 at what chance gives them. */
function needle(first: number): Operands {
  return operands(needleShape, (q, k) => {
    k.fill(0, NEEDLE * 32, (NEEDLE + 1) * 32);
    k[NEEDLE * 32] = 20;
    for (let row = 0; row < ROWS; row++) {
      q[row * 32] = -3; // head 0 avoids it
      q[(ROWS + row) * 32] = row >= first ? 6 : -3;
    }
  });
}

const A_SHAPE = { kind: "a_shape", sink: 64, local: 256 } as const;

/** Every key that each head's list visits, by row. */
async function visited(index: SparseIndex, shape: SequenceShape): Promise<Uint8Array[][]> {
  return (await readIndex(index)).map((list) =>
    Array.from({ length: shape.qLen }, (_, row) => visits(list, shape, row))
  );
}

Deno.test("a head whose list misses the needle goes dense, and says what it kept", async () => {
  using c = needle(0);
  using loose = await buildIndex(c.q, c.k, A_SHAPE);
  using guarded = await buildIndex(c.q, c.k, A_SHAPE, { guard: { retainedMin: 0.01 } });
  const [before, after] = [loose.stats[0], guarded.stats[0]];
  assert.deepEqual(before.map((s) => s.kind), ["a_shape", "a_shape"]);
  assert.ok(before[1].retainedMean < 0.05, `kept ${before[1].retainedMean}`);
  assert.deepEqual(after[0], before[0]);
  const expected: HeadStats = {
    ...before[1],
    ...{ kind: "dense", density: 1, retainedMean: 1, retainedMin: 1, tiles: before[1].causalTiles },
    guarded: { mean: before[1].retainedMean, min: before[1].retainedMin },
  };
  assert.deepEqual(after[1], expected);
  assert.deepEqual((await readIndex(guarded)).map((list) => list.kind), ["a_shape", "dense"]);
});

Deno.test("one row that asks is enough for the worst-row threshold, not for the mean", async () => {
  using c = needle(ROWS - 1);
  const pattern = { ...A_SHAPE, local: 700 };
  using open = await buildIndex(c.q, c.k, pattern);
  assert.ok(open.stats[0][1].retainedMean > 0.6 && open.stats[0][1].retainedMin < 0.05);
  const kinds = async (guard: GuardOption): Promise<string[]> => {
    using index = await buildIndex(c.q, c.k, pattern, { guard });
    return index.stats[0].map((s) => s.kind);
  };
  assert.deepEqual(await kinds({ retainedMin: 0.05 }), ["a_shape", "dense"]);
  assert.deepEqual(await kinds(0.6), ["a_shape", "a_shape"]);
  assert.deepEqual(await kinds(0), ["a_shape", "a_shape"]);
});

Deno.test("with the guard the output of a needle's head is that of dense attention", async () => {
  const pattern = A_SHAPE;
  using c = needle(0);
  using dense = await attention(c.q, c.k, c.v);
  using loose = await attention(c.q, c.k, c.v, { pattern, automatic: false });
  using guarded = await attention(c.q, c.k, c.v, {
    ...{ pattern, automatic: false },
    guard: { retainedMin: 0.01 },
  });
  const [want, without, got] = await Promise.all([dense, loose, guarded].map((r) => r.out.read()));
  const head = want.length / 2;
  assert.deepEqual(got.subarray(head), want.subarray(head)); // head 1 as if it had no list
  assert.deepEqual(got.subarray(0, head), without.subarray(0, head)); // head 0 as if there were no guard
  assert.notDeepEqual(without.subarray(head), want.subarray(head));
});

Deno.test("heads that pass are untouched, heads that fail are dense, whatever the patterns", async () => {
  const threshold = fc.double({ min: 0.001, max: 1, noNaN: true });
  await fc.assert(
    fc.asyncProperty(
      shapes,
      fc.array(patterns, { minLength: 16, maxLength: 16 }),
      threshold,
      threshold,
      async (shape, all, retained, retainedMin) => {
        using c = operands(shape, () => {});
        const heads = all.slice(0, shape.qHeads);
        using loose = await buildIndex(c.q, c.k, heads);
        using index = await buildIndex(c.q, c.k, heads, {
          guard: { retained, retainedMin },
          measureMass: false, // a guard measures by itself
        });
        const [before, after] = [await visited(loose, shape), await visited(index, shape)];
        // Thresholds reach the library as f32.
        const [mean, min] = [Math.fround(retained), Math.fround(retainedMin)];
        loose.stats[0].forEach((open, h) => {
          const now = index.stats[0][h];
          if (open.retainedMean >= mean && open.retainedMin >= min) {
            assert.deepEqual(now, open);
            assert.deepEqual(after[h], before[h]);
          } else {
            assert.equal(now.kind, "dense");
            assert.equal(now.retainedMin, 1);
            assert.equal(now.tiles, open.causalTiles);
            assert.deepEqual(now.guarded, { mean: open.retainedMean, min: open.retainedMin });
          }
        });
      },
    ),
    { numRuns: 60 },
  );
});

Deno.test("a head whose scores are not numbers is given up, too", async () => {
  const shape = { ...needleShape, qLen: 400, kvLen: 400 };
  using c = operands(shape, (q) => q[400 * 32 - 1] = NaN); // last query of head 0
  const heads: HeadPattern = { kind: "vertical_slash", vertical: 40, slash: 100 };
  using loose = await buildIndex(c.q, c.k, heads);
  assert.equal(loose.stats[0][0].kind, "vertical_slash");
  using index = await buildIndex(c.q, c.k, heads, { guard: { retainedMin: 1e-6 } });
  assert.deepEqual(index.stats[0].map((s) => s.kind), ["dense", "vertical_slash"]);
});

Deno.test("guard options: a number is the mean, false and 0 are none, others are refused", async () => {
  assert.deepEqual(resolveGuard(0.8), { retained: 0.8, retainedMin: 0 });
  assert.deepEqual(resolveGuard({ retainedMin: 0.1 }), { retained: 0, retainedMin: 0.1 });
  assert.deepEqual(resolveGuard(false), resolveGuard(0));
  assert.deepEqual(resolveGuard(true), DEFAULT_GUARD);
  for (const bad of [-0.1, 1.5, NaN, { retained: 2 }, { retainedMin: "x" as never }]) {
    const error = await failure(() => resolveGuard(bad));
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.match(error.message, /guard.retained(Min)? must be a number from 0 to 1, got/);
  }
});
