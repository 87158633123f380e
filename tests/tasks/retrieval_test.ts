import assert from "node:assert/strict";
import fc from "fast-check";
import { TASK_KINDS } from "../../src/tasks/kinds.ts";
import { isCorrect, makeTask, makeTaskOfTokens } from "../../src/tasks/retrieval.ts";
import { failure } from "../model/support.ts";

const haystack = Deno.readTextFileSync(
  new URL("../../models/needle-27m/haystack.txt", import.meta.url),
);
const kinds = fc.constantFrom(...TASK_KINDS);

Deno.test("tasks: the same seed gives the same task, another seed another one", () => {
  fc.assert(fc.property(kinds, fc.nat(1000), (kind, seed) => {
    const make = (seed: number): unknown => makeTask({ kind, length: 3000, haystack, seed });
    assert.deepEqual(make(seed), make(seed));
    assert.notDeepEqual(make(seed), make(seed + 1));
  }));
});

Deno.test("tasks: the context has about the wanted length and holds every answer once", () => {
  fc.assert(
    fc.property(
      kinds,
      fc.integer({ min: 2000, max: 60_000 }),
      fc.nat(),
      fc.integer({ min: 1, max: 8 }),
      (kind, length, seed, needles) => {
        const task = makeTask({ kind, length, haystack, seed, needles, questions: 3 });
        assert(Math.abs(task.context.length - length) < 120, `${task.context.length}`);
        assert(task.questions.length >= 1 && task.questions.length <= 3);
        for (const { prompt, answer } of task.questions) {
          // Short numbers may occur twice; with the name before them they do not.
          const [first] = kind === "numbers" ? [`${prompt} ${answer}`] : answer.split(" ");
          const times = task.context.split(first).length - 1;
          assert(kind === "passkey" || kind === "variables" ? times >= 1 : times === 1, answer);
        }
      },
    ),
    { numRuns: 60 },
  );
});

Deno.test("tasks: a text longer than the haystack repeats it", () => {
  const task = makeTask({ kind: "passkey", length: 1_500_000, haystack });
  assert(Math.abs(task.context.length - 1_500_000) < 120);
});

Deno.test("tasks: a chain stands in its order", () => {
  const { context, questions } = makeTask({
    kind: "variables",
    length: 20_000,
    haystack,
    needles: 5,
  });
  const places = questions[0].answer.split(" ").map((name) => context.indexOf(`VAR ${name} = `));
  assert.equal(places.length, 5);
  assert(places.every((place, i) => place >= 0 && (i === 0 || place > places[i - 1])));
});

Deno.test("tasks: depth places a single needle", () => {
  const at = (depth: number): number => {
    const { context, questions } = makeTask({ kind: "needle", length: 40_000, haystack, depth });
    return context.indexOf(questions[0].answer) / context.length;
  };
  assert(at(0) < 0.05 && Math.abs(at(0.5) - 0.5) < 0.05 && at(1) > 0.95);
});

Deno.test("tasks: a budget of tokens is nearly filled and never exceeded", async () => {
  const count = (text: string): number => Math.ceil(text.length / 4.2) + 1;
  for (const kind of TASK_KINDS) {
    for (const tokens of [1000, 30_000]) {
      const task = await makeTaskOfTokens({ kind, haystack, seed: 5 }, tokens, count);
      const used = count(task.context + task.questions[0].prompt);
      assert(used <= tokens && used > 0.95 * tokens, `${kind}: ${used} of ${tokens}`);
    }
  }
});

Deno.test("tasks: what counts as correct", () => {
  const question = { prompt: "", answer: "123" };
  assert(isCorrect(question, " 123."));
  assert(isCorrect(question, "123"));
  assert(!isCorrect(question, "1234"));
  assert(!isCorrect(question, "The number is 123"));
});

Deno.test("tasks: bad input", async () => {
  await failure("INVALID_ARGUMENT", () => makeTask({ kind: "needle", length: 100 }));
  await failure(
    "INVALID_ARGUMENT",
    () => makeTaskOfTokens({ kind: "passkey", haystack }, 10, (text) => text.length),
  );
});
