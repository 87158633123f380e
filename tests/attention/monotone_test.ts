// More budget never loses attention: neither on average nor in any row of the probe.
import fc from "fast-check";
import assert from "node:assert/strict";
import { buildIndex } from "../../src/attention/attention.ts";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import type { SequenceShape } from "../../src/attention/sequence.ts";
import type { HeadStats } from "../../src/attention/stats.ts";
import { blockScore, longShapes, makeCase } from "./arbitraries.ts";

/** Sums of f32 in another order. */
const ROUNDING = 1e-5;

const spread = fc.double({ min: 0.2, max: 4, noNaN: true });
const size = fc.oneof(fc.integer({ min: 0, max: 900 }), fc.constantFrom(0, 30, 64, 100, 1000));
const more = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.constantFrom(0, 1, 64, 5000));
const blocks = fc.record({
  forceSink: fc.boolean(),
  forceDiagonal: fc.boolean(),
  score: blockScore,
});

/** A budget and one that is at least as large in every respect. */
const growing: Record<string, fc.Arbitrary<readonly [HeadPattern, HeadPattern]>> = {
  "banded counts": fc.tuple(size, size, more, more).map(([vertical, slash, v, s]) => {
    const pattern = { kind: "vertical_slash", selection: "banded" } as const;
    return [
      { ...pattern, vertical, slash },
      { ...pattern, vertical: vertical + v, slash: slash + s },
    ];
  }),
  "block-sparse top-k": fc.tuple(
    blocks,
    fc.integer({ min: 1, max: 14 }),
    fc.integer({ min: 0, max: 14 }),
  )
    .map(([options, topK, n]) => [
      { kind: "block_sparse", ...options, topK },
      { kind: "block_sparse", ...options, topK: topK + n },
    ]),
  "A-shape window": fc.tuple(size, size, more, more).map(([sink, local, s, l]) => [
    { kind: "a_shape", sink, local: local + 1 },
    { kind: "a_shape", sink: sink + s, local: local + 1 + l },
  ]),
};

async function statistics(
  shape: SequenceShape,
  seed: number,
  spread: number,
  patterns: readonly HeadPattern[],
): Promise<(readonly HeadStats[])[]> {
  using c = await makeCase(shape, seed, spread);
  const all: (readonly HeadStats[])[] = [];
  for (const pattern of patterns) {
    using index = await buildIndex(c.q, c.k, pattern);
    all.push(index.stats[0]);
  }
  return all;
}

for (const [name, pair] of Object.entries(growing)) {
  Deno.test(`more budget keeps no less: ${name}`, async () => {
    await fc.assert(
      fc.asyncProperty(longShapes, fc.nat(), spread, pair, async (shape, seed, spread, pair) => {
        const [small, large] = await statistics(shape, seed, spread, pair);
        small.forEach(({ retainedMean, retainedMin }, head) => {
          const now = large[head];
          assert.ok(now.retainedMean >= retainedMean - ROUNDING, `${now.retainedMean} on average`);
          assert.ok(now.retainedMin >= retainedMin - ROUNDING, `${now.retainedMin} at least`);
        });
      }),
      { numRuns: 200 },
    );
  });
}

// A fraction is met by whichever split between columns and bands is cheap, and the last band may keep more than
// was asked. Only a fraction beyond that asks for more.
Deno.test("a larger fraction of the mass keeps no less, unless both keep more than it asks for", async () => {
  const mass = fc.double({ min: 0.05, max: 1, noNaN: true });
  await fc.assert(
    fc.asyncProperty(
      longShapes,
      fc.nat(),
      spread,
      mass,
      mass,
      async (shape, seed, spread, a, b) => {
        const [less, more] = [Math.min(a, b), Math.max(a, b)];
        const pattern = { kind: "vertical_slash" } as const;
        const [small, large] = await statistics(shape, seed, spread, [
          { ...pattern, mass: less },
          { ...pattern, mass: more },
        ]);
        small.forEach(({ retainedMean }, head) => {
          const now = large[head].retainedMean;
          assert.ok(now >= Math.min(retainedMean, more) - 10 * ROUNDING, `${now}`);
        });
      },
    ),
    { numRuns: 200 },
  );
});
