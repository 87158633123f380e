// The estimate revised from outside: the heads select by what the caller leaves in it.
import assert from "node:assert/strict";
import type { LayerEstimate, ReviseEstimate } from "../../src/attention/revise.ts";
import { loadModel } from "../../src/model/model.ts";
import type { PrefillResult } from "../../src/model/prefill.ts";
import { device } from "../support.ts";

const folder = new URL("../../models/needle-27m/", import.meta.url);
const TOKENS = device.kind === "cuda" ? 8192 : 2000; // where sparse attention pays

Deno.test("heads select by the revised estimate", async (t) => {
  await using model = await loadModel(folder, { device });
  const { layers, heads, vocabSize } = model.config;
  const prompt = Uint32Array.from({ length: TOKENS }, (_, i) => 2 + i * 7919 % (vocabSize - 2));
  const patterns = { kind: "vertical_slash", vertical: 33, slash: 102 } as const;
  const read = async (reviseEstimate?: ReviseEstimate): Promise<PrefillResult> => {
    await using session = await model.createSession({ patterns });
    return await session.prefill(prompt, { guard: false, measureMass: true, reviseEstimate });
  };
  const plain = await read();
  assert.ok(plain.heads[0].some((head) => head.kind === "vertical_slash"), "runs sparsely");

  await t.step("left as it is, it changes nothing", async () => {
    const seen: LayerEstimate[] = [];
    const revised = await read((estimate) => void seen.push(estimate));
    assert.deepEqual(revised.heads, plain.heads);
    // The last layer computes one row, densely.
    assert.deepEqual(
      seen.map(({ layer }) => layer),
      Array.from({ length: layers - 1 }, (_, i) => i),
    );
    assert.deepEqual(seen[0].vertical.shape, [heads, TOKENS]);
    assert.deepEqual(seen[0].slash.shape, [heads, TOKENS]);
  });

  await t.step("two far diagonals", async () => {
    const revised = await read(async ({ slash }) => {
      const sums = new Float32Array(slash.length);
      for (let head = 0; head < heads; head++) sums[head * TOKENS + 500] = 2;
      for (let head = 0; head < heads; head++) sums[head * TOKENS + 900] = 1;
      await slash.write(sums);
    });
    // Those, and the nearest that every head keeps.
    assert.deepEqual(revised.heads[0].map((head) => head.bands), Array(heads).fill(3));
  });

  await t.step("what it throws ends the prefill, and the session goes on", async () => {
    await using session = await model.createSession({ patterns });
    const reviseEstimate = (): never => {
      throw new RangeError("no idea");
    };
    await assert.rejects(session.prefill(prompt, { reviseEstimate }), RangeError);
    assert.equal(session.length, 0);
    assert.deepEqual(
      (await session.prefill(prompt, { guard: false, measureMass: true })).heads,
      plain.heads,
    );
  });
});
