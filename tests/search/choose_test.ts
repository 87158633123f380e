// The choice among measured candidates: whatever was measured, it passes or it is dense.
import fc from "fast-check";
import assert from "node:assert/strict";
import { choose, type Objective } from "../../src/search/choose.ts";
import type { Measurement } from "../../src/search/measure.ts";

/** Measured fractions, with the worst that arithmetic can make of them. */
const fraction = fc.oneof(
  fc.double({ min: 0, max: 1, noNaN: true }),
  fc.constantFrom(0, 1, NaN),
);
const ms = fc.double({ min: 0, max: 1000, noNaN: true });
const threshold = fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.constantFrom(0, 1));

/** [length][candidate], dense last, as the search measures them. */
const lengths = fc.tuple(fc.integer({ min: 0, max: 12 }), fc.integer({ min: 1, max: 4 })).chain(
  ([candidates, lengths]) => {
    const sparse = Array.from(
      { length: candidates },
      (_, c) =>
        fc.record({
          ms,
          error: fraction,
          recallMean: fraction,
          recallLow: fraction,
          recallProbe: fraction,
        })
          .map((m): Measurement => ({
            pattern: { kind: "block_sparse", topK: c + 1 },
            ...{ density: 0.1, columns: 0, bands: 0 },
            ...m,
          })),
    );
    const dense = ms.map((ms): Measurement => ({
      pattern: { kind: "dense" },
      ...{ ms, density: 1, columns: 0, bands: 0, error: 0 },
      ...{ recallMean: 1, recallLow: 1, recallProbe: 1 },
    }));
    return fc.array(fc.tuple(...sparse, dense), { minLength: lengths, maxLength: lengths });
  },
);

Deno.test("recall: the cheapest candidate that passes at every length; dense always does", () => {
  const thresholds = fc.record({
    recallMean: threshold,
    recallLow: threshold,
    recallProbe: threshold,
  });
  fc.assert(
    fc.property(lengths, thresholds, (lengths, thresholds) => {
      const [chosen] = choose([lengths], { kind: "recall", thresholds });
      const longest = lengths[lengths.length - 1];
      const passing = longest.filter((_, c) =>
        lengths.every((at) =>
          (Object.keys(thresholds) as (keyof typeof thresholds)[])
            .every((name) => at[c][name] >= thresholds[name])
        )
      );
      assert.ok(passing.includes(chosen));
      assert.equal(chosen.ms, Math.min(...passing.map((m) => m.ms)));
    }),
    { numRuns: 500 },
  );
});

Deno.test("recall: higher thresholds never choose a cheaper pattern", () => {
  fc.assert(
    fc.property(lengths, threshold, threshold, (lengths, a, b) => {
      const at = (recallMean: number): number => {
        const thresholds = { recallMean, recallLow: 0, recallProbe: 0 };
        return choose([lengths], { kind: "recall", thresholds })[0].ms;
      };
      assert.ok(at(Math.max(a, b)) >= at(Math.min(a, b)));
    }),
    { numRuns: 300 },
  );
});

Deno.test("error and mass: within the budget where anything is, else the cheapest", () => {
  const kind = fc.constantFrom("error" as const, "mass" as const);
  fc.assert(
    fc.property(
      lengths,
      kind,
      fc.double({ min: 0.01, max: 2, noNaN: true }),
      (lengths, kind, budget) => {
        const objective: Objective = { kind, budget };
        const [chosen] = choose([lengths], objective);
        const longest = lengths[lengths.length - 1];
        const limit = budget * longest[longest.length - 1].ms;
        const cheapest = Math.min(...longest.map((m) => m.ms));
        assert.ok(chosen.ms <= limit || chosen.ms === cheapest);
      },
    ),
    { numRuns: 300 },
  );
});

Deno.test("recall: a mean over all heads is kept where the candidates can, at every length", () => {
  const heads = lengths.chain((first) =>
    fc.array(fc.shuffledSubarray([...first.keys()], { minLength: 1 }), {
      minLength: 1,
      maxLength: 6,
    })
      .map((rows) => rows.map((order) => order.map((length) => first[length])))
  );
  const none = { recallMean: 0, recallLow: 0, recallProbe: 0 };
  fc.assert(
    fc.property(heads, threshold, threshold, (heads, a, b) => {
      const at = (mean: number): Measurement[] =>
        choose(heads, { kind: "recall", thresholds: none, mean });
      const [low, high] = [at(Math.min(a, b)), at(Math.max(a, b))];
      const recall = (chosen: Measurement[]): number =>
        chosen.reduce((sum, { recallMean }) => sum + recallMean, 0) / heads.length;
      assert.ok(recall(high) >= Math.max(a, b) - 1e-9); // dense attention keeps all
      const cost = (chosen: Measurement[]): number => chosen.reduce((sum, { ms }) => sum + ms, 0);
      assert.ok(cost(high) >= cost(low));
    }),
    { numRuns: 300 },
  );
});
