// What other methods compute where they keep as much.
import assert from "node:assert/strict";
import { atEqualRecall, densityAt } from "../../src/inspect/equal_recall.ts";
import type { Curve, SampleReport } from "../../src/inspect/page_data.ts";

// Two heads; their means are (0.1, 0.5), (0.3, 0.8), (1, 1).
const curve: Curve = {
  method: "counts",
  budgets: ["a", "b", "c"],
  density: [[0.05, 0.15], [0.2, 0.4], [1, 1]],
  recall: [[0.4, 0.6], [0.7, 0.9], [1, 1]],
};

Deno.test("densities lie on the line between two budgets, and nowhere else", () => {
  const close = (a: number | undefined, b: number): void => assert.ok(Math.abs(a! - b) < 1e-12);
  close(densityAt(curve, 0.5), 0.1);
  close(densityAt(curve, 0.65), 0.2);
  close(densityAt(curve, 0.9), 0.65);
  close(densityAt(curve, 1), 1);
  assert.equal(densityAt(curve, 0.49), undefined);
  assert.equal(densityAt({ ...curve, density: [[0.1]], recall: [[0.9]] }, 0.95), undefined);
});

Deno.test("the recall of the patterns is their mean over all heads", () => {
  const sample: SampleReport = {
    ...{ name: "", tokens: 1, thumbnails: [], curves: [curve] },
    layers: [[{ density: 0, recall: 0.7 }], [{ density: 0, recall: 0.9 }]],
  };
  assert.deepEqual(atEqualRecall(sample), [{ method: "counts", density: densityAt(curve, 0.8) }]);
});
