// The demo, on a short prompt.
import assert from "node:assert/strict";
import { ask, encodeTask, makeDemoTask } from "../../scripts/demo/ask.ts";
import { allCorrect, resultText } from "../../scripts/demo/report.ts";
import { loadModel } from "../../src/model/model.ts";
import { device } from "../support.ts";
import { MODEL, runScript } from "./support.ts";

Deno.test("numbers hidden in the novel are found, and a wrong one is noticed", async () => {
  await using model = await loadModel(MODEL, { device });
  const novel = await Deno.readTextFile(`${MODEL}/haystack.txt`);
  const task = await makeDemoTask(model, novel, { tokens: 2000, needles: 4, seed: 3 });
  assert.equal(task.questions.length, 2);
  const prompt = await encodeTask(model, task);
  const length = prompt.context.length + prompt.questions[0].ids.length;
  assert.ok(length <= 2001 && length > 1900, `${length} tokens`);
  const seen: number[] = [];
  const dense = await ask(model, prompt, "dense", { onProgress: ({ done }) => seen.push(done) });
  const sparse = await ask(model, prompt, "auto");
  assert.equal(seen[0], 0);
  assert.equal(seen.at(-1), length);
  const comparison = { tokenizeMs: 1, dense, sparse };
  assert.ok(allCorrect(comparison));
  assert.match(resultText(comparison, model.config, 1e8), /All answers are right/);
  const wrong = { ...sparse, answers: [{ ...sparse.answers[0], text: "0", correct: false }] };
  assert.ok(!allCorrect({ tokenizeMs: 1, dense, sparse: wrong }));
});

Deno.test("the demo runs and ends with 0 where all answers are right", async () => {
  const { code, stdout, stderr } = await runScript("scripts/demo.ts", ["--tokens", "2500"]);
  assert.equal(code, 0, stdout + stderr);
  for (const part of [/^machine /m, /time to first token/, /group 1/, /All answers are right/]) {
    assert.match(stdout, part);
  }
});
