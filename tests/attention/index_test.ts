// The index builder against its semantics: what is selected is covered, once, causally; statistics are true.
import fc from "fast-check";
import assert from "node:assert/strict";
import { buildIndex, estimate, readIndex } from "../../src/attention/attention.ts";
import type {
  BlockSparsePattern,
  HeadPattern,
  VerticalSlashPattern,
} from "../../src/attention/patterns.ts";
import type { SequenceShape } from "../../src/attention/sequence.ts";
import { type HeadList, visits } from "../../src/attention/work_list.ts";
import { attentionDtypes, device, gaussians } from "../support.ts";
import {
  blockScore,
  type Case,
  longShapes as shapes,
  makeCase,
  patterns,
  shapes as headShapes,
  splitShapes,
} from "./arbitraries.ts";
import {
  antidiagonalScores,
  bandsOf,
  budgets,
  estimateHead,
  pooledScores,
  topK,
  upstreamKeys,
} from "./index_oracle.ts";

const dtype = attentionDtypes[0];

const lastQ = fc.oneof(fc.constant(64), fc.integer({ min: 1, max: 64 }));
/** Many lengths, and many heads. */
const anyShape = fc.oneof(shapes, headShapes);
const estimated = fc.oneof(shapes, headShapes, splitShapes);
const count = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.constantFrom(1, 30, 1000, 5000));

/** The native estimate, per head: selection is compared on its own f32 sums, so that ties are the same ties. */
async function sums(
  c: Case,
  shape: SequenceShape,
  lastQ: number,
): Promise<{ vertical: Float32Array; slash: Float32Array }[]> {
  using result = await estimate(c.q, c.k, { lastQ });
  const [vertical, slash] = await Promise.all([result.vertical.read(), result.slash.read()]);
  const n = shape.kvLen;
  return Array.from({ length: shape.qHeads }, (_, h) => ({
    vertical: vertical.subarray(h * n, h * n + n),
    slash: slash.subarray(h * n, h * n + n),
  }));
}

const rowBlocks = (shape: SequenceShape): number => Math.ceil(shape.qLen / 64);
const endOf = (shape: SequenceShape, block: number): number =>
  shape.kvLen - shape.qLen + 64 * (block + 1);

function checkWellFormed(list: HeadList, shape: SequenceShape): void {
  for (let row = 0; row < shape.qLen; row++) {
    const position = shape.kvLen - shape.qLen + row;
    visits(list, shape, row).forEach((n, key) => {
      assert.ok(n <= (key <= position ? 1 : 0), `row ${row} visits key ${key} ${n} times`);
    });
  }
  list.bands.forEach(({ near, far }, b) => {
    assert.ok(far > near && (b === 0 ? near === 0 : near > list.bands[b - 1].far), `band ${b}`);
  });
  list.columns.forEach((key, c) => assert.ok(c === 0 || key > list.columns[c - 1]));
}

Deno.test("the estimate agrees with float64 column sums, diagonal sums and log-sum-exps", async () => {
  const dtype = fc.constantFrom(...attentionDtypes);
  await fc.assert(
    fc.asyncProperty(estimated, dtype, lastQ, fc.nat(), async (shape, dtype, lastQ, seed) => {
      using c = await makeCase(shape, seed, 1.7, dtype);
      using result = await estimate(c.q, c.k, { lastQ });
      const [vertical, slash, lse] = await Promise.all(
        [result.vertical, result.slash, result.lse].map((t) => t.read()),
      );
      // Where the device multiplies in bf16 or f16 the operands are already of that dtype.
      const close = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-5 + 3e-5 * Math.abs(b);
      for (let h = 0; h < shape.qHeads; h++) {
        const expected = estimateHead(shape, c.values.q, c.values.k, h, lastQ);
        for (let j = 0; j < shape.kvLen; j++) {
          const at = h * shape.kvLen + j;
          assert.ok(close(vertical[at], expected.vertical[j]), `head ${h}, column ${j}`);
          assert.ok(close(slash[at], expected.slash[j]), `head ${h}, distance ${j}`);
        }
        expected.lse.forEach((x, i) => assert.ok(close(lse[h * expected.lse.length + i], x)));
      }
    }),
    { numRuns: 25 },
  );
});

Deno.test("the same estimate each time, bit for bit", async () => {
  await fc.assert(
    fc.asyncProperty(splitShapes, lastQ, fc.nat(), async (shape, lastQ, seed) => {
      using c = await makeCase(shape, seed);
      const read = async (): Promise<Float32Array[]> => {
        using result = await estimate(c.q, c.k, { lastQ });
        return await Promise.all([result.vertical, result.slash, result.lse].map((t) => t.read()));
      };
      assert.deepEqual(await read(), await read());
    }),
    { numRuns: 5 },
  );
});

Deno.test("exact selection: upstream's columns and distances, each causal cell covered", async () => {
  await fc.assert(
    fc.asyncProperty(shapes, count, count, fc.nat(), async (shape, vertical, slash, seed) => {
      using c = await makeCase(shape, seed);
      using index = await buildIndex(c.q, c.k, { kind: "vertical_slash", vertical, slash });
      const lists = await readIndex(index);
      const estimates = await sums(c, shape, 64);
      const budget = budgets(vertical, slash, shape.kvLen);
      lists.forEach((list, h) => {
        checkWellFormed(list, shape);
        const columns = topK(estimates[h].vertical, budget.columns, 30);
        const distances = topK(estimates[h].slash, budget.distances, 100);
        assert.deepEqual(list.columns, columns);
        assert.deepEqual(list.bands, bandsOf(distances));
        for (let row = 0; row < shape.qLen; row++) {
          const position = shape.kvLen - shape.qLen + row;
          const seen = visits(list, shape, row);
          for (const key of columns) assert.ok(key > position || seen[key], `column ${key}`);
          for (const d of distances) assert.ok(d > position || seen[position - d], `distance ${d}`);
        }
        // Keys of each row block are upstream's, except in the chain of ranges that begins at key 0.
        for (let m = 0; m < rowBlocks(shape); m++) {
          const end = endOf(shape, m);
          const upstream = upstreamKeys(columns, distances, end);
          const ours = new Set(list.columnsOf(m));
          for (const { near, far } of list.bands) {
            for (let key = Math.max(0, end - far); key < end - near; key++) ours.add(key);
          }
          let chain = 0;
          while (chain < end && (ours.has(chain) || upstream.has(chain))) chain++;
          for (let key = chain; key < end; key++) {
            assert.equal(ours.has(key), upstream.has(key), `block ${m}, key ${key}`);
          }
        }
      });
    }),
    { numRuns: 40 },
  );
});

Deno.test("banded selection takes the tiles of most mass, the nearest three always", async () => {
  await fc.assert(
    fc.asyncProperty(shapes, count, fc.nat(), async (shape, slash, seed) => {
      using c = await makeCase(shape, seed);
      const pattern = { kind: "vertical_slash", selection: "banded", vertical: 30, slash } as const;
      using index = await buildIndex(c.q, c.k, pattern);
      const lists = await readIndex(index);
      const estimates = await sums(c, shape, 64);
      const tiles = Math.ceil(endOf(shape, rowBlocks(shape) - 1) / 64);
      const { distances } = budgets(30, slash, shape.kvLen);
      const wanted = distances === shape.kvLen
        ? tiles
        : Math.min(tiles, Math.max(3, Math.ceil(distances / 64)));
      lists.forEach((list, h) => {
        checkWellFormed(list, shape);
        const mass = (t: number): number =>
          estimates[h].slash.reduce(
            (sum, p, d) => sum + p * Math.max(0, 1 - Math.abs(d - 64 * t) / 64),
            0,
          );
        const inside = (t: number): boolean =>
          list.bands.some(({ near, far }) => near <= 64 * t && 64 * t + 64 <= far);
        const all = Array.from({ length: tiles }, (_, t) => t);
        assert.equal(all.filter(inside).length, wanted);
        assert.ok(all.slice(0, 3).every(inside));
        const least = Math.min(...all.slice(3).filter(inside).map(mass));
        const most = Math.max(0, ...all.slice(3).filter((t) => !inside(t)).map(mass));
        assert.ok(least >= most * (1 - 1e-5) - 1e-6, `kept ${least}, left ${most}`);
      });
    }),
    { numRuns: 25 },
  );
});

Deno.test("a mass budget keeps its fraction of the probe rows' attention", async () => {
  const budget = fc.record({
    kind: fc.constant("vertical_slash" as const),
    mass: fc.double({ min: 0.05, max: 1, noNaN: true }),
    selection: fc.constantFrom("exact" as const, "banded" as const),
  });
  await fc.assert(
    fc.asyncProperty(shapes, budget, fc.nat(), async (shape, pattern, seed) => {
      using c = await makeCase(shape, seed);
      using index = await buildIndex(c.q, c.k, pattern);
      for (const stats of index.stats[0]) {
        assert.ok(stats.retainedMean >= pattern.mass - 1e-4, `kept ${stats.retainedMean}`);
      }
    }),
    { numRuns: 40 },
  );
});

Deno.test("a mass budget stays within the counts beside it", async () => {
  await fc.assert(
    fc.asyncProperty(shapes, count, count, fc.nat(), async (shape, vertical, slash, seed) => {
      using c = await makeCase(shape, seed);
      const pattern: VerticalSlashPattern = {
        kind: "vertical_slash",
        mass: 0.99,
        vertical: vertical + 1,
        slash: slash + 1,
      };
      using index = await buildIndex(c.q, c.k, pattern);
      const { columns, distances } = budgets(vertical + 1, slash + 1, shape.kvLen);
      for (const list of await readIndex(index)) {
        checkWellFormed(list, shape);
        assert.ok(list.columns.length <= columns);
        const tiles = list.bands.reduce((sum, { near, far }) => sum + (far - near) / 64, 0);
        assert.ok(distances === shape.kvLen || tiles <= Math.max(3, Math.ceil(distances / 64)));
      }
    }),
    { numRuns: 25 },
  );
});

/** The chosen blocks are the best ones, but for those of scores that rounding makes equal; forced ones come on top. */
async function checkBlocks(
  c: Case,
  shape: SequenceShape,
  pattern: BlockSparsePattern,
): Promise<void> {
  using index = await buildIndex(c.q, c.k, pattern);
  const blockScores = pattern.score === "pooled" ? pooledScores : antidiagonalScores;
  (await readIndex(index)).forEach((list, h) => {
    checkWellFormed(list, shape);
    for (let m = 0; m < rowBlocks(shape); m++) {
      const end = endOf(shape, m);
      const causal = Math.ceil(Math.min(end, shape.kvLen) / 64);
      const own = Math.floor((end - 64) / 64);
      const scores = blockScores(shape, c.values.q, c.values.k, h, m).slice(0, causal);
      const chosen = new Set(list.blocksOf(m));
      const kth = [...scores].sort((a, b) => b - a)[Math.min(pattern.topK, causal) - 1];
      // A GPU rounds the means to f16.
      const rounded = pattern.score === "pooled" && device.kind === "cuda";
      const slack = rounded ? 2e-3 : 1e-5 * (1 + Math.abs(kth));
      const best = scores.map((_, b) => b).filter((b) => scores[b] > kth + slack);
      assert.ok(best.every((b) => chosen.has(b)), `block ${m} misses one of ${best}`);
      const forced = scores.map((_, b) => b).filter((b) =>
        pattern.forceSink && b === 0 || pattern.forceDiagonal && b >= own
      );
      assert.ok(forced.every((b) => chosen.has(b)));
      const rest = [...chosen].filter((b) => !forced.includes(b));
      assert.ok(rest.every((b) => scores[b] >= kth - slack));
      assert.ok(chosen.size >= Math.min(pattern.topK, causal));
      assert.ok(rest.length <= pattern.topK);
    }
  });
}

Deno.test("block-sparse: the best blocks by either score, forced ones on top, early rows dense", async () => {
  const pattern = fc.record({
    kind: fc.constant("block_sparse" as const),
    score: blockScore,
    topK: fc.integer({ min: 1, max: 8 }),
    forceSink: fc.boolean(),
    forceDiagonal: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(anyShape, pattern, fc.nat(), async (shape, pattern, seed) => {
      using c = await makeCase(shape, seed);
      await checkBlocks(c, shape, pattern);
    }),
    { numRuns: 40 },
  );
});

Deno.test("block-sparse: the best of many blocks", async () => {
  const shape = { qHeads: 1, kvHeads: 1, headDim: 128, qLen: 70, kvLen: 60_000, scale: 0.1 };
  for (const topK of [100, 157, 300]) {
    using c = await makeCase(shape, topK);
    await checkBlocks(c, shape, { kind: "block_sparse", topK, score: "pooled" });
  }
});

Deno.test("long lists: the same choice, ties to the lowest index", async () => {
  const shape = { qHeads: 2, kvHeads: 1, headDim: 16, qLen: 70, kvLen: 40_000, scale: 0.25 };
  // Few distinct values, so that many sums are equal; most of attention vanishes, so that many are 0.
  const few = (heads: number, rows: number, seed: number): Float32Array<ArrayBuffer> =>
    gaussians(heads * rows * 16, seed, 2).map(Math.round);
  using q = device.tensor([1, 2, shape.qLen, 16], { dtype, data: few(2, shape.qLen, 5) });
  using k = device.tensor([1, 1, shape.kvLen, 16], { dtype, data: few(1, shape.kvLen, 6) });
  const values = { q: await q.read(), k: await k.read() };
  const estimates = await sums({ q, k, values, [Symbol.dispose]: () => {} }, shape, 64);
  for (const [vertical, slash] of [[100, 130], [31, 700], [1200, 101]]) {
    using index = await buildIndex(q, k, { kind: "vertical_slash", vertical, slash });
    (await readIndex(index)).forEach((list, h) => {
      assert.deepEqual(list.columns, topK(estimates[h].vertical, vertical, 30));
      assert.deepEqual(list.bands, bandsOf(topK(estimates[h].slash, slash, 100)));
    });
  }
  using blocks = await buildIndex(q, k, { kind: "block_sparse", topK: 5, forceSink: true });
  (await readIndex(blocks)).forEach((list, h) => {
    for (let m = 0; m < rowBlocks(shape); m++) {
      const scores = pooledScores(shape, values.q, values.k, h, m);
      const chosen = list.blocksOf(m);
      const kth = [...scores].sort((a, b) => b - a)[4];
      assert.deepEqual(chosen, [...chosen].sort((a, b) => a - b));
      assert.ok(chosen.every((b) => b === 0 || scores[b] > kth - 1e-3));
      assert.ok(scores.every((x, b) => x < kth + 1e-3 || chosen.includes(b)));
    }
  });
  using zeros = device.tensor([1, 1, shape.kvLen, 16], { dtype, data: new Float32Array(640_000) });
  using ties = await buildIndex(q, zeros, { kind: "block_sparse", topK: 7 });
  for (const list of await readIndex(ties)) {
    assert.deepEqual(list.blocksOf(0), [0, 1, 2, 3, 4, 5, 6]);
  }
});

Deno.test("statistics: retained mass and density of every pattern are those of the listed cells", async () => {
  await fc.assert(
    fc.asyncProperty(
      shapes,
      fc.array(patterns, { minLength: 4, maxLength: 4 }),
      fc.nat(),
      async (shape, all, seed) => {
        using c = await makeCase(shape, seed);
        using index = await buildIndex(c.q, c.k, all.slice(0, shape.qHeads));
        const lists = await readIndex(index);
        lists.forEach((list, h) => {
          const stats = index.stats[0][h];
          assert.equal(stats.kind, list.kind);
          assert.equal(stats.bands, list.bands.length);
          assert.equal(stats.columns, list.columns.length);
          assert.ok(Math.abs(stats.density - stats.tiles / stats.causalTiles) < 1e-6);
          const { rows } = estimateHead(shape, c.values.q, c.values.k, h, 64);
          const kept = rows.map((p, i) => {
            const seen = visits(list, shape, shape.qLen - rows.length + i);
            return p.reduce((sum, x, key) => sum + x * seen[key], 0);
          });
          const mean = kept.reduce((a, b) => a + b) / kept.length;
          assert.ok(
            Math.abs(stats.retainedMean - mean) < 1e-4,
            `mean ${stats.retainedMean}, ${mean}`,
          );
          assert.ok(Math.abs(stats.retainedMin - Math.min(...kept)) < 1e-4);
        });
      },
    ),
    { numRuns: 40 },
  );
});

Deno.test("a head denser than the limit becomes dense, and says so", async () => {
  const shape = { qHeads: 2, kvHeads: 1, headDim: 16, qLen: 640, kvLen: 640, scale: 0.25 };
  using c = await makeCase(shape, 3);
  const heads: HeadPattern[] = [
    { kind: "vertical_slash", vertical: 640, slash: 640 },
    { kind: "a_shape", sink: 1, local: 64 },
  ];
  using index = await buildIndex(c.q, c.k, heads, { automatic: true });
  assert.deepEqual(index.stats[0].map((s) => s.kind), ["dense", "a_shape"]);
  assert.equal(index.stats[0][0].density, 1);
  assert.equal(index.stats[0][0].retainedMin, 1);
});

Deno.test("NaN ranks lowest; a mass budget without a finite estimate leaves nothing out", async () => {
  const shape = { qHeads: 2, kvHeads: 1, headDim: 16, qLen: 400, kvLen: 400, scale: 0.25 };
  using c = await makeCase(shape, 4);
  const values = c.values.q as Float32Array<ArrayBuffer>;
  values[399 * 16] = NaN; // last query of head 0
  using q = device.tensor([1, 2, 400, 16], { dtype, data: values });
  using counts = await buildIndex(q, c.k, { kind: "vertical_slash", vertical: 40, slash: 100 });
  const [list] = await readIndex(counts);
  assert.deepEqual(list.columns, Array.from({ length: 40 }, (_, i) => i));
  using mass = await buildIndex(q, c.k, { kind: "vertical_slash", mass: 0.5 });
  assert.deepEqual(mass.stats[0].map((s) => s.kind), ["dense", "vertical_slash"]);
});

Deno.test("a block with a NaN key is not among the best", async () => {
  const shape = { qHeads: 1, kvHeads: 1, headDim: 16, qLen: 1024, kvLen: 1024, scale: 0.25 };
  using c = await makeCase(shape, 4);
  const values = c.values.k as Float32Array<ArrayBuffer>;
  values[200 * 16] = NaN; // in block 3
  using k = device.tensor([1, 1, 1024, 16], { dtype, data: values });
  for (const score of ["pooled", "antidiagonal"] as const) {
    using index = await buildIndex(c.q, k, { kind: "block_sparse", topK: 3, score });
    const [list] = await readIndex(index);
    for (let m = 4; m < 16; m++) {
      // The probabilities of a row with a NaN are all NaN: every block of it scores the same.
      if (score === "pooled") assert.ok(!list.blocksOf(m).includes(3), `row block ${m}`);
      assert.equal(list.blocksOf(m).length, 3);
    }
  }
});

Deno.test("a mass budget with few exact distances takes no more than these", async () => {
  const shape = { qHeads: 2, kvHeads: 1, headDim: 16, qLen: 512, kvLen: 512, scale: 0.25 };
  using c = await makeCase(shape, 7);
  const pattern = {
    kind: "vertical_slash",
    mass: 0.9,
    vertical: 64,
    slash: 20,
    selection: "exact",
  } as const;
  using index = await buildIndex(c.q, c.k, pattern);
  const { distances } = budgets(64, 20, 512);
  for (const { bands } of await readIndex(index)) {
    assert.ok(bands.reduce((sum, { near, far }) => sum + far - near - 63, 0) <= distances);
  }
});
