// The accuracy command without a run: what is asked, in which order, what is kept, what is told of it.
import assert from "node:assert/strict";
import fc from "fast-check";
import { encodeTask } from "../../scripts/accuracy/encode.ts";
import {
  type Answer,
  inOrder,
  missingMethods,
  readJournal,
  writeJournal,
} from "../../scripts/accuracy/journal.ts";
import { CONTROLS, METHODS, SEARCHED } from "../../scripts/accuracy/methods.ts";
import { replaceBetween } from "../../scripts/accuracy/publish.ts";
import { claims, tables } from "../../scripts/accuracy/report.ts";
import { KIND_NAMES, listTasks, makeTask } from "../../scripts/accuracy/tasks.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";

const folder = new URL("../../models/needle-27m/", import.meta.url);
const haystack = Deno.readTextFileSync(new URL("haystack.txt", folder));
const methods = ["dense", SEARCHED, ...CONTROLS];

/** Answers of every method to every question of some tasks; `right` decides. */
function answersTo(
  tokens: number,
  right: (method: string, kind: string) => boolean,
  density = (_: string): number => 0.04,
): Answer[] {
  return listTasks({ tokens, contexts: 2, questions: 2 }).flatMap(({ kind, seed, questions }) =>
    Array.from({ length: questions }, (_, question) => question).flatMap((question) =>
      methods.map((method) => {
        const correct = right(method, kind);
        const outcome = { correct, follows: correct, completion: "", guarded: 0 };
        return { tokens, kind, seed, question, method, density: density(method), ...outcome };
      })
    )
  );
}

Deno.test("accuracy: each kind gets the same number of questions, in turns", () => {
  fc.assert(fc.property(
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 1, max: 6 }),
    (contexts, questions) => {
      const tasks = listTasks({ tokens: 4096, contexts, questions });
      const asked = new Map(KIND_NAMES.map((kind) => [kind, 0]));
      for (const task of tasks) {
        asked.set(task.kind, asked.get(task.kind)! + task.questions);
        const counts = [...asked.values()];
        assert(Math.max(...counts) - Math.min(...counts) <= questions, `${counts}`);
      }
      assert.deepEqual([...asked.values()], KIND_NAMES.map(() => contexts * questions));
      const names = tasks.map(({ kind, seed }) => `${kind} ${seed}`);
      assert.equal(new Set(names).size, tasks.length);
    },
  ));
});

Deno.test("accuracy: a context encoded once gives the ids of each prompt encoded whole", async () => {
  const tokenizer = await (await openCheckpoint(folder)).loadTokenizer();
  const count = (text: string): number => tokenizer.encode(text).length;
  for (const spec of listTasks({ tokens: 3000, contexts: 1, questions: 4 })) {
    const task = await makeTask(spec, haystack, count);
    assert.equal(task.questions.length, spec.questions, spec.kind);
    for (const { question, ids, answer } of encodeTask(tokenizer, task)) {
      const whole = task.context + question.prompt;
      assert.deepEqual(ids, tokenizer.encode(whole));
      const answered = tokenizer.encode(`${whole} ${question.answer}`);
      assert.deepEqual(answer, answered.subarray(ids.length));
      assert(ids.length <= 3000 && answer.length > 0);
    }
  }
});

Deno.test("accuracy: a run goes on where it was cut off", async () => {
  const path = await Deno.makeTempFile();
  try {
    const answers = answersTo(4096, () => true);
    const header = { model: "models/needle-27m", device: "CPU" };
    fc.assert(fc.property(fc.nat(answers.length), (held) => {
      const missing = listTasks({ tokens: 4096, contexts: 2, questions: 2 })
        .flatMap((task) => missingMethods(task, methods, answers.slice(0, held)).flat());
      assert.equal(missing.length, answers.length - held);
    }));
    await writeJournal(path, { header, answers });
    await Deno.writeTextFile(path, '{"tokens":4096,"kin', { append: true }); // killed while writing
    assert.deepEqual(await readJournal(path), { header, answers });
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("accuracy: the order of answers does not depend on who came first", () => {
  const answers = [8192, 4096].flatMap((tokens) => answersTo(tokens, () => true));
  const ordered = inOrder(answers, KIND_NAMES, METHODS);
  assert.deepEqual(inOrder(answers.toReversed(), KIND_NAMES, METHODS), ordered);
  assert.equal(ordered[0].tokens, 4096);
  assert.deepEqual(ordered.slice(0, 4).map(({ method }) => method), methods);
});

Deno.test("accuracy: claims fail for a method that loses answers, and for controls that lose none", () => {
  const failing = (answers: readonly Answer[]): string[] =>
    claims(answers).filter(({ holds }) => !holds).map(({ text }) => text);
  const good = (method: string): boolean => !CONTROLS.includes(method);
  assert.deepEqual(failing(answersTo(131_072, good)), []);
  assert.equal(claims(answersTo(131_072, good)).length, 7);
  const loses = failing(
    answersTo(131_072, (m, kind) => good(m) && !(m === SEARCHED && kind === "key-value")),
  );
  assert.equal(loses.length, 2);
  assert(loses.every((text) => text.includes("points of any kind") && text.includes("100.0")));
  assert.equal(failing(answersTo(131_072, () => true)).length, 4);
  assert.deepEqual(failing(answersTo(131_072, good, () => 0.06)).length, 1);
  assert.deepEqual(failing(answersTo(32_768, good, () => 0.06)), []);
});

Deno.test("accuracy: the table counts questions that every method has answered", () => {
  const answers = answersTo(4096, () => true);
  const cut = inOrder(answers.slice(0, -1), KIND_NAMES, METHODS);
  const [head, , dense] = tables(cut).split("\n");
  assert(head.includes("all (19)"), head);
  assert(dense.endsWith("| 19 · 19 |"), dense);
});

Deno.test("accuracy: what stands between two marks is replaced, and nothing else", () => {
  const marks = ["<!-- a -->", "<!-- b -->"] as const;
  const text = "before\n<!-- a -->\nold\n<!-- b -->\nafter";
  const once = replaceBetween(text, marks, "new");
  assert.equal(once, "before\n<!-- a -->\n\nnew\n\n<!-- b -->\nafter");
  assert.equal(replaceBetween(once, marks, "new"), once);
  assert.throws(() => replaceBetween("nothing", marks, "new"), /no "<!-- a -->"/);
});
