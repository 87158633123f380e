// Greedy answers equal llama.cpp's on the same GGUF file, and so do the token ids of the prompts.
import assert from "node:assert/strict";
import { findPeer, runPeer } from "../../scripts/bench/peer.ts";
import { loadModel } from "../../src/model/model.ts";
import { TASK_KINDS } from "../../src/tasks/kinds.ts";
import { isCorrect, makeTaskOfTokens } from "../../src/tasks/retrieval.ts";
import { device } from "../support.ts";

const folder = new URL("../../models/needle-27m/", import.meta.url);
const file = new URL("needle-27m-q8_0.gguf", folder).pathname;
const peer = await findPeer();

const PROMPT_TOKENS = 1500;
// deno task bench --install-peer
const name = "greedy answers equal llama.cpp's" + (peer ? "" : " (llama.cpp is not installed)");

Deno.test({ name, ignore: peer === null }, async (t) => {
  const haystack = await Deno.readTextFile(new URL("haystack.txt", folder));
  await using model = await loadModel(file, { device, patterns: "dense" });
  for (const [seed, kind] of TASK_KINDS.entries()) {
    await t.step(kind, async () => {
      const count = (text: string): number => model.tokenizer.encode(text).length;
      const task = await makeTaskOfTokens({ kind, haystack, seed }, PROMPT_TOKENS, count);
      const [question] = task.questions;
      const text = task.context + question.prompt;
      const ids = model.tokenizer.encode(text);
      const answerIds = model.tokenizer.encode(` ${question.answer}`, { addSpecialTokens: false });
      const generate = answerIds.length;

      const idsFile = await Deno.makeTempFile({ suffix: ".json" });
      try {
        await Deno.writeTextFile(idsFile, JSON.stringify([...ids]));
        const report = await runPeer({
          model: file,
          ids: idsFile,
          text,
          threads: navigator.hardwareConcurrency,
          readings: 1,
          generate,
          peer: peer ?? "",
        });
        assert.equal(report.details.tokenizerAgrees, true);

        await using session = await model.createSession();
        await session.prefill(ids);
        const ours: number[] = [];
        for await (
          const { tokens } of session.generate(undefined, { maxTokens: generate, ignoreEos: true })
        ) ours.push(...tokens);
        assert.deepEqual(ours, report.readings[0].output);
        // Two wrong answers could be equal as well.
        assert.ok(isCorrect(question, model.tokenizer.decode(ours)));
      } finally {
        await Deno.remove(idsFile);
      }
    });
  }
});
