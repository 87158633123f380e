// Bands chosen by their mass against single diagonals, on a real prompt: as much attention for as many tiles.
import assert from "node:assert/strict";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import { engineOf, loadModel } from "../../src/model/model.ts";
import { LayerMeter, type Measurement } from "../../src/search/measure.ts";
import { makeTaskOfTokens } from "../../src/tasks/retrieval.ts";
import { device } from "../support.ts";

const folder = new URL("../../models/needle-27m/", import.meta.url);

/** Diagonals: what `exact` computes lies between the densities of `banded`. */
const EXACT = [100, 400, 800];
const BANDED = [192, 1792, 2304, 3072, 3584];

function slashes(selection: "exact" | "banded", slash: number): HeadPattern {
  return { kind: "vertical_slash", selection, vertical: 100, slash };
}

/** Every head of every layer but the last, [head][candidate]. */
async function measureAll(candidates: readonly HeadPattern[]): Promise<Measurement[][]> {
  await using model = await loadModel(folder, { device, patterns: "dense" });
  const haystack = await Deno.readTextFile(new URL("haystack.txt", folder));
  const task = await makeTaskOfTokens(
    { kind: "variables", haystack, seed: 5 },
    6000,
    (text) => model.tokenizer.encode(text).length,
  );
  const tokens = model.tokenizer.encode(task.context + task.questions[0].prompt);
  const { decoder, createCache } = engineOf(model);
  const heads: Measurement[][] = [];
  await device.exclusive(async () => {
    using owned = new DisposableStack();
    const cache = owned.use(createCache());
    const logits = owned.use(device.tensor([model.config.vocabSize]));
    await cache.reserve(tokens.length, 0);
    let meter: LayerMeter | undefined;
    await decoder.forward(tokens, cache, 0, logits, {
      inspect: async (operands): Promise<void> => {
        meter ??= owned.use(new LayerMeter(device, operands.shape));
        if (operands.layer === model.config.layers - 1) return;
        heads.push(...await meter.measure(operands, candidates));
      },
    });
  });
  return heads;
}

Deno.test("banded keeps the mass of exact less 0.002 at equal density, on needle-27m", async () => {
  const candidates = [
    ...EXACT.map((slash) => slashes("exact", slash)),
    ...BANDED.map((slash) => slashes("banded", slash)),
  ];
  const heads = await measureAll(candidates);
  const points = candidates.map((_, c) => {
    const mean = (of: (m: Measurement) => number): number =>
      heads.reduce((sum, head) => sum + of(head[c]), 0) / heads.length;
    return { density: mean((m) => m.density), mass: mean((m) => m.recallMean) };
  });
  const banded = points.slice(EXACT.length);
  for (const { density, mass } of points.slice(0, EXACT.length)) {
    // The curve of mass over density bends down: between two points it lies above their line.
    const after = banded.findIndex((point) => point.density >= density);
    assert.ok(after > 0, `no banded lists about the density ${density}`);
    const [low, high] = [banded[after - 1], banded[after]];
    const share = (density - low.density) / (high.density - low.density);
    const kept = low.mass + share * (high.mass - low.mass);
    assert.ok(kept >= mass - 0.002, `${kept} against ${mass} at ${density}`);
  }
});
