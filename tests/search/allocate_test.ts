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

/** The cheapest choice of all that keeps the mean, or keeps most. */
function best(heads: readonly (readonly Offer[])[], mean: number): Total {
  const all = combinations(heads).map(total);
  const most = Math.min(mean, Math.max(...all.map(({ recall }) => recall)));
  return all.filter(({ recall }) => recall >= most - 1e-9)
    .reduce((best, one) => one.cost < best.cost ? one : best);
}

Deno.test("keeps the mean, dearer than the best choice by less than one offer", () => {
  fc.assert(
    fc.property(heads, fc.double({ min: 0, max: 1, noNaN: true }), (heads, mean) => {
      const mine = total(allocate(heads, mean).map((offer, head) => heads[head][offer]));
      const cheapest = best(heads, mean);
      assert.ok(mine.recall >= Math.min(mean, cheapest.recall) - 1e-9);
      const dearest = Math.max(...heads.flat().map(({ cost }) => cost));
      assert.ok(mine.cost <= cheapest.cost + dearest, JSON.stringify({ mine, cheapest }));
    }),
    { numRuns: 500 },
  );
});

Deno.test("no dear offer is bought for a little that a cheap one brings", () => {
  const hopeless = [{ cost: 1, recall: 0.2 }, { cost: 90, recall: 1 }];
  const able = [{ cost: 1, recall: 0.7 }, { cost: 2, recall: 0.71 }, { cost: 80, recall: 0.9 }];
  assert.deepEqual(allocate([hopeless, able], 0.455), [0, 1]);
  assert.deepEqual(allocate([hopeless, able], 0.5), [0, 2]);
  assert.deepEqual(allocate([hopeless, able], 0.6), [1, 1]);
});

Deno.test("mass is bought where it costs least", () => {
  const cheap = [{ cost: 1, recall: 0.5 }, { cost: 2, recall: 0.9 }, { cost: 9, recall: 1 }];
  const dear = [{ cost: 1, recall: 0.6 }, { cost: 20, recall: 1 }];
  assert.deepEqual(allocate([cheap, dear], 0.5), [0, 0]);
  assert.deepEqual(allocate([cheap, dear], 0.7), [1, 0]);
  assert.deepEqual(allocate([cheap, dear], 0.8), [2, 0]);
  assert.deepEqual(allocate([cheap, dear], 0.9), [1, 1]);
  assert.deepEqual(allocate([cheap, dear], 1), [2, 1]);
});

Deno.test("heads that do not count pay what those that count come to pay", () => {
  const cheap = [{ cost: 1, recall: 0.5 }, { cost: 2, recall: 0.9 }, { cost: 9, recall: 1 }];
  const dear = [{ cost: 1, recall: 0.6 }, { cost: 20, recall: 1 }];
  assert.deepEqual(allocate([cheap, dear], 0.9, 1), [1, 0]);
  assert.deepEqual(allocate([cheap, dear], 0.95, 1), [2, 1]);
  assert.deepEqual(allocate([cheap, cheap], 0.95, 1), [2, 1]);
  assert.deepEqual(allocate([dear, cheap], 0.5, 1), [0, 0]);
});
