// Answers of sparse prefill against dense on generated retrieval prompts, with controls that must fail:
//   deno task accuracy [--tokens 32768] [--contexts 8] [--questions 5] [--json FILE]
// Every context is read once per method; its questions are asked on forks of the session.
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { loadModel, type Model, openDevice, type PatternChoice } from "../mod.ts";
import {
  isCorrect,
  makeTaskOfTokens,
  type RetrievalTask,
  TASK_KINDS,
} from "../src/tasks/retrieval.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/needle-27m" },
    haystack: { type: "string", default: "models/needle-27m/haystack.txt" },
    tokens: { type: "string", default: "32768" },
    contexts: { type: "string", default: "8" },
    questions: { type: "string", default: "5" },
    methods: { type: "string", default: "" },
    json: { type: "string" },
  },
});
const root = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

/** What is compared. The last one must lose: otherwise these prompts could not tell good from bad. */
const METHODS: Record<string, PatternChoice> = {
  dense: "dense",
  searched: "auto",
  "mass 0.9": { kind: "vertical_slash", mass: 0.9 },
  "mass 0.95": { kind: "vertical_slash", mass: 0.95 },
  "upstream (1000, 6096)": { kind: "vertical_slash", vertical: 1000, slash: 6096 },
  "upstream (30, 800)": { kind: "vertical_slash", vertical: 30, slash: 800 },
  "upstream (3500, 100)": { kind: "vertical_slash", vertical: 3500, slash: 100 },
  "A-shape (128, 3968)": { kind: "a_shape", sink: 128, local: 3968 },
};

interface Score {
  correct: number;
  asked: number;
  density: number;
  ms: number;
  contexts: number;
}

async function ask(model: Model, task: RetrievalTask, method: string): Promise<Score> {
  await using session = await model.createSession({ patterns: METHODS[method] });
  // Fixed patterns are compared as they are; the searched file as it is used.
  const guard = method === "searched";
  // The question ends the prompt, as in real use: the estimate reads its tokens. Later questions reuse the context.
  const [first, ...rest] = task.questions;
  const { density, ms } = await session.prefill(task.context + first.prompt, { guard });
  const context = model.tokenizer.encode(task.context).length;
  const maxTokens = (answer: string): number =>
    model.tokenizer.encode(answer, { addSpecialTokens: false }).length + 3;
  const reply = session.generate(undefined, { maxTokens: maxTokens(first.answer) });
  let correct = isCorrect(first, await reply.text) ? 1 : 0;
  for (const question of rest) {
    session.truncate(Math.min(context, session.length));
    const completion = session.generate(question.prompt, {
      guard,
      maxTokens: maxTokens(question.answer),
    });
    if (isCorrect(question, await completion.text)) correct++;
  }
  return { correct, asked: task.questions.length, density, ms, contexts: 1 };
}

await using device = await openDevice();
await using model = await loadModel(root(values.model), { device });
const haystack = await Deno.readTextFile(root(values.haystack));
const wanted = values.methods ? values.methods.split(";") : Object.keys(METHODS);
const scores: Record<string, Record<string, Score>> = {};
const count = (text: string): number => model.tokenizer.encode(text).length;
for (const kind of TASK_KINDS) {
  for (let seed = 0; seed < Number(values.contexts); seed++) {
    const needles = kind === "needle" ? (seed % 2 ? 16 : 1) : undefined;
    const questions = Number(values.questions);
    const options = { kind, haystack, seed, needles, questions };
    const task = makeTaskOfTokens(options, Number(values.tokens), count);
    for (const method of wanted) {
      const score = await ask(model, task, method);
      const sum = (scores[method] ??= {})[kind] ??= {
        ...{ correct: 0, asked: 0, density: 0, ms: 0, contexts: 0 },
      };
      for (const key of Object.keys(sum) as (keyof Score)[]) sum[key] += score[key];
      console.error(`${kind} ${seed} ${method}: ${score.correct}/${score.asked}`);
    }
  }
}

const percent = (part: number, whole: number): string => `${(100 * part / whole).toFixed(1)}%`;
console.log(`| ${values.tokens} tokens | density | prefill | ${TASK_KINDS.join(" | ")} |`);
console.log(`|---|---|---|${TASK_KINDS.map(() => "---|").join("")}`);
for (const [method, byKind] of Object.entries(scores)) {
  const all = Object.values(byKind);
  const contexts = all.reduce((sum, s) => sum + s.contexts, 0);
  const density = percent(all.reduce((sum, s) => sum + s.density, 0), contexts);
  const seconds = (all.reduce((sum, s) => sum + s.ms, 0) / contexts / 1000).toFixed(1);
  const cells = TASK_KINDS.map((kind) => percent(byKind[kind].correct, byKind[kind].asked));
  console.log(`| ${method} | ${density} | ${seconds} s | ${cells.join(" | ")} |`);
}
if (values.json) {
  const machine = device.info();
  await Deno.writeTextFile(
    values.json,
    JSON.stringify({ machine, options: values, scores }, null, 1),
  );
}
