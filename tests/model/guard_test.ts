// The guard on the real model: it makes up for patterns that cannot see the answer, and leaves good ones alone.
import assert from "node:assert/strict";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import type { PatternChoice } from "../../src/model/pattern_choice.ts";
import { loadModel } from "../../src/model/model.ts";
import type { GenerateOptions } from "../../src/model/generation.ts";
import { makeTaskOfTokens } from "../../src/tasks/retrieval.ts";
import { device, failure } from "../support.ts";

const folder = new URL("../../models/needle-27m/", import.meta.url);
const model = await loadModel(folder, { device });
const haystack = await Deno.readTextFile(new URL("haystack.txt", folder));
const task = await makeTaskOfTokens(
  { kind: "variables", haystack, seed: 202 },
  8000,
  (text) => model.tokenizer.encode(text).length,
);
const prompt = task.context + task.questions[0].prompt;
const blind: HeadPattern = { kind: "a_shape", sink: 128, local: 512 };

async function read(
  patterns: PatternChoice,
  guard: GenerateOptions["guard"],
): Promise<{ guarded: number; density: number; right: boolean }> {
  await using session = await model.createSession({ patterns });
  const { guarded, density, heads } = await session.prefill(prompt, { guard });
  assert.equal(heads.flat().filter((head) => head.guarded).length, guarded);
  const text = await session.generate(undefined, { maxTokens: 24 }).text;
  return { guarded, density, right: text.trim().startsWith(task.questions[0].answer) };
}

Deno.test("a model blind to its distant past answers with the guard alone", async () => {
  const [without, guarded] = [await read(blind, false), await read(blind, undefined)];
  assert.deepEqual([without.guarded, without.right], [0, false]);
  assert.ok(guarded.right && guarded.guarded > 0, `${guarded.guarded} heads`);
  assert.ok(guarded.density < 0.5 && guarded.density > without.density, `${guarded.density}`);
});

Deno.test("searched patterns pass the guard of sessions", async () => {
  const [without, guarded] = [await read("auto", 0), await read("auto", true)];
  assert.deepEqual(guarded, without);
  assert.ok(guarded.right);
});

Deno.test("generation takes the guard to its prefill; a wrong one leaves the session as it was", async () => {
  await using session = await model.createSession({ patterns: blind });
  const options = { maxTokens: 1, guard: 2 };
  assert.equal(
    (await failure(() => session.generate("x", options).text)).code,
    "INVALID_ARGUMENT",
  );
  assert.equal(session.length, 0);
});
