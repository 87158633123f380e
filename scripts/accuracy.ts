// Answers of sparse prefill against dense on generated retrieval prompts, with controls that must fail:
//   deno task accuracy [--tokens 32768] [--contexts 8] [--questions 5] [--methods "dense;searched;random"] [--json FILE]
// By default 200 prompts: of each of five kinds 8 contexts with 5 questions, or 40 contexts with one.
// Two tables: whether the answer is written, as in use, and whether it is followed when sparse attention reads it, too
// (accuracy/follow.ts says why).
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { loadModel, openDevice } from "../mod.ts";
import { type Answer, ask, METHODS } from "./accuracy/methods.ts";
import { table } from "./accuracy/report.ts";
import { KIND_NAMES, makeTasks } from "./accuracy/tasks.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/needle-27m" },
    haystack: { type: "string", default: "models/needle-27m/haystack.txt" },
    tokens: { type: "string", default: "32768" },
    contexts: { type: "string", default: "8" },
    questions: { type: "string", default: "5" },
    methods: { type: "string", default: METHODS.join(";") },
    json: { type: "string" },
  },
});

function count(name: "tokens" | "contexts" | "questions"): number {
  const number = Number(values[name]);
  if (Number.isInteger(number) && number > 0) return number;
  console.error(`--${name} must be a positive integer, got "${values[name]}"`);
  Deno.exit(2);
}

const wanted = values.methods.split(";").map((name) => name.trim());
const unknown = wanted.find((name) => !METHODS.includes(name));
if (unknown !== undefined) {
  console.error(`unknown method "${unknown}"; known, separated by ";": ${METHODS.join("; ")}`);
  Deno.exit(2);
}
const methods = METHODS.filter((name) => wanted.includes(name));
const amount = {
  tokens: count("tokens"),
  contexts: count("contexts"),
  questions: count("questions"),
};
const root = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

await using device = await openDevice();
await using model = await loadModel(root(values.model), { device });
const haystack = await Deno.readTextFile(root(values.haystack));
const total = KIND_NAMES.length * amount.contexts * amount.questions * methods.length;
const answers: Answer[] = [];
for (const task of makeTasks(haystack, amount, (text) => model.tokenizer.encode(text).length)) {
  for await (const answer of ask(model, task, methods)) {
    answers.push(answer);
    const { kind, seed, question, method, correct, follows, density } = answer;
    console.error(
      `${answers.length}/${total} ${kind}, context ${seed}, question ${question}, ${method}: ` +
        `${correct ? "right" : "WRONG"}, ${follows ? "followed" : "NOT followed"}, ` +
        `density ${(100 * density).toFixed(1)}%`,
    );
  }
}
const { tokens } = amount;
console.log(`Answers written\n\n${table(answers, "correct", methods, KIND_NAMES, tokens)}\n`);
console.log(`Answers followed\n\n${table(answers, "follows", methods, KIND_NAMES, tokens)}`);
if (values.json) {
  const machine = device.info();
  const content = { machine, model: values.model, ...amount, methods, answers };
  await Deno.writeTextFile(values.json, `${JSON.stringify(content, null, 1)}\n`);
}
