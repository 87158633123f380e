// Sharing a budget among heads, against every combination.
import fc from "fast-check";
import assert from "node:assert/strict";
import { allocate, type Offer } from "../../src/search/allocate.ts";

const offer = fc.record({
  cost: fc.integer({ min: 0, max: 50 }),
  recall: fc.integer({ min: 0, max: 20 }).map((n) => n / 20),
});
const heads = fc.array(fc.array(offer, { minLength: 1, maxLength: 5 }), {
  minLength: 1,
  maxLength: 4,
});

interface Total {
  readonly cost: number;
  readonly recall: number;
}

function total(chosen: readonly Offer[]): Total {
  return {
    cost: chosen.reduce((sum, { cost }) => sum + cost, 0),
    recall: chosen.reduce((sum, { recall }) => sum + recall, 0) / chosen.length,
  };
}

function combinations(heads: readonly (readonly Offer[])[]): Offer[][] {
  return heads.reduce<Offer[][]>(
    (sofar, offers) => sofar.flatMap((chosen) => offers.map((offer) => [...chosen, offer])),
    [[]],
  );
}

Deno.test("no other choice is cheaper and keeps as much", () => {
  fc.assert(
    fc.property(heads, fc.double({ min: 0, max: 1, noNaN: true }), (heads, mean) => {
      const mine = total(allocate(heads, mean).map((offer, head) => heads[head][offer]));
      const all = combinations(heads).map(total);
      assert.ok(mine.recall >= Math.min(mean, Math.max(...all.map((t) => t.recall))) - 1e-9);
      const better = all.find((t) => t.cost < mine.cost && t.recall >= mine.recall - 1e-9);
      assert.equal(better, undefined, JSON.stringify({ mine, better }));
    }),
    { numRuns: 500 },
  );
});

Deno.test("mass is bought where it costs least", () => {
  const cheap = [{ cost: 1, recall: 0.5 }, { cost: 2, recall: 0.9 }, { cost: 9, recall: 1 }];
  const dear = [{ cost: 1, recall: 0.6 }, { cost: 20, recall: 1 }];
  assert.deepEqual(allocate([cheap, dear], 0.5), [0, 0]);
  assert.deepEqual(allocate([cheap, dear], 0.7), [1, 0]);
  assert.deepEqual(allocate([cheap, dear], 0.8), [1, 1]);
  assert.deepEqual(allocate([cheap, dear], 1), [2, 1]);
});
