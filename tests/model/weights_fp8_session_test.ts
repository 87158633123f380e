// fp8 weights on the real model: needles found, dense and sparse, and the memory that was planned.
import assert from "node:assert/strict";
import { openDevice } from "../../src/device/open.ts";
import { loadModel } from "../../src/model/model.ts";
import { device } from "../support.ts";
import { needlePrompt } from "./needle.ts";
import { NEEDLE } from "./support.ts";

Deno.test("needles are found, dense and sparse, with an fp8 cache, too", async () => {
  await using model = await loadModel(NEEDLE, { device, weights: "fp8" });
  const cases = [
    [3000, "tall-lantern", "7482913"],
    [6000, "grey-harbour", "5561207"],
    [12_000, "quiet-meadow", "3090418"],
  ] as const;
  for (const [characters, name, value] of cases) {
    for (const options of [{ patterns: "dense" }, {}, { kvDtype: "fp8" }] as const) {
      await using session = await model.createSession(options);
      await session.prefill(needlePrompt(characters, name, value));
      const answer = session.generate(undefined, { maxTokens: 10, stop: ["."] });
      assert.equal((await answer.text).trim(), value);
    }
  }
});

Deno.test("weights take half of 16 bits; loading takes one matrix more; the plan is within 3%", async () => {
  await using fresh = await openDevice({ kind: device.kind });
  await using model = await loadModel(NEEDLE, { device: fresh, weights: "fp8" });
  const loaded = fresh.info();
  const { hiddenSize, intermediateSize, vocabSize } = model.config;
  const matrix = Math.max(hiddenSize * intermediateSize, vocabSize * hiddenSize) * 34 / 32;
  assert.ok(
    loaded.peak - loaded.allocated <= matrix,
    `${loaded.peak} at most, ${loaded.allocated}`,
  );
  const ids = model.tokenizer.encode(needlePrompt(20_000, "tall-lantern", "7482913"));
  const plan = model.planMemory(ids.length);
  assert.equal(plan.weights, loaded.allocated);
  await using session = await model.createSession();
  await session.prefill(ids);
  const taken = fresh.info().peak;
  assert.ok(Math.abs(plan.total / taken - 1) < 0.03, `${taken} taken, ${plan.total} planned`);
});
