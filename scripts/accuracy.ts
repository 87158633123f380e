// Answers of sparse prefill against dense on generated retrieval prompts, with controls that must fail;
// `deno task accuracy --help` says how. The tables tell whether the answer is written, as in use, and whether it is
// followed when sparse attention reads it, too (accuracy/follow.ts says why).
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { openDevice } from "../mod.ts";
import { runJobs } from "./accuracy/jobs.ts";
import {
  type Answer,
  inOrder,
  type Journal,
  missingMethods,
  readJournal,
  writeJournal,
} from "./accuracy/journal.ts";
import { CONTROLS, METHODS, SEARCHED } from "./accuracy/methods.ts";
import { publish } from "./accuracy/publish.ts";
import { claims, tables } from "./accuracy/report.ts";
import { KIND_NAMES, listTasks } from "./accuracy/tasks.ts";
import { describeMachine } from "./bench/machine.ts";

const HELP = `deno task accuracy [options]

Asks a model for what is hidden in generated prompts, by each method, and compares the answers with dense attention's.
By default 200 prompts of either length: of each of five kinds 8 contexts with 5 questions, or 40 contexts with one.

  --model PATH       checkpoint                       (default: models/needle-27m)
  --haystack FILE    prose around what is hidden      (default: the model's haystack.txt)
  --tokens N,...     lengths of the prompts           (default: 32768,131072)
  --contexts N       contexts of each kind            (default: 8)
  --questions N      questions of a context           (default: 5)
  --methods LIST     separated by ";": ${METHODS.join("; ")}
  --jobs N           prompts at once                  (default: 4 on a GPU, 1 on a CPU)
  --journal FILE     answers, as they come            (default: build/accuracy.jsonl)
  --resume           goes on where the journal ends
  --report           only shows what the journal holds
  --write            puts answers and tables into docs/bench and the README`;

const { values } = parseArgs({
  options: {
    help: { type: "boolean", default: false },
    model: { type: "string", default: "models/needle-27m" },
    haystack: { type: "string", default: "models/needle-27m/haystack.txt" },
    tokens: { type: "string", default: "32768,131072" },
    contexts: { type: "string", default: "8" },
    questions: { type: "string", default: "5" },
    methods: { type: "string", default: ["dense", SEARCHED, ...CONTROLS].join(";") },
    jobs: { type: "string" },
    journal: { type: "string", default: "build/accuracy.jsonl" },
    resume: { type: "boolean", default: false },
    report: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});

if (values.help) {
  console.log(HELP);
  Deno.exit();
}

function usage(problem: string): never {
  console.error(problem);
  Deno.exit(2);
}

function positive(name: "tokens" | "contexts" | "questions" | "jobs", text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number > 0) return number;
  usage(`--${name} must be a positive integer, got "${text}"`);
}

const wanted = values.methods.split(";").map((name) => name.trim());
const unknown = wanted.find((name) => !METHODS.includes(name));
if (unknown !== undefined) {
  usage(`unknown method "${unknown}"; known, separated by ";": ${METHODS.join("; ")}`);
}
const methods = METHODS.filter((name) => wanted.includes(name));
const lengths = values.tokens.split(",").map((text) => positive("tokens", text));
const contexts = positive("contexts", values.contexts);
const questions = positive("questions", values.questions);
const root = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

async function exists(path: string): Promise<boolean> {
  const info = await Deno.stat(path).catch(() => undefined);
  return info !== undefined;
}

/** Asks what the journal lacks; every answer is on disk before the next is waited for. */
async function run(): Promise<void> {
  const { kind, cores, name } = await inspectDevice();
  const jobs = positive("jobs", values.jobs ?? (kind === "cuda" ? "4" : "1"));
  let journal: Journal = {
    header: { model: values.model, device: name, machine: await describeMachine() },
    answers: [],
  };
  if (values.resume && await exists(values.journal)) journal = await readJournal(values.journal);
  if (journal.header.model !== values.model) {
    usage(`${values.journal} has answers of ${journal.header.model}, not of ${values.model}`);
  }
  await Deno.mkdir(dirname(values.journal), { recursive: true });
  await writeJournal(values.journal, journal);
  const work = lengths.flatMap((tokens) => listTasks({ tokens, contexts, questions }))
    .map((task) => ({ task, methods: missingMethods(task, methods, journal.answers) }))
    .filter((piece) => piece.methods.flat().length > 0);
  const total = work.flatMap((piece) => piece.methods.flat()).length;
  const started = performance.now();
  let done = 0;
  const setup = {
    model: root(values.model),
    haystack: root(values.haystack),
    ...(kind === "cpu" && { threads: Math.max(1, Math.floor(cores / jobs)) }),
  };
  await runJobs(setup, jobs, work, (answer) => {
    Deno.writeTextFileSync(values.journal, `${JSON.stringify(answer)}\n`, { append: true });
    const elapsed = ((performance.now() - started) / 1000).toFixed(1);
    console.error(`${++done}/${total} ${elapsed} s ${describe(answer)}`);
  });
}

async function inspectDevice(): Promise<{ kind: "cpu" | "cuda"; cores: number; name: string }> {
  await using device = await openDevice();
  const { kind, units, name } = device.info();
  return { kind, cores: units, name };
}

function describe(answer: Answer): string {
  const { tokens, kind, seed, question, method, correct, follows, density } = answer;
  return `${tokens} tokens, ${kind}, context ${seed}, question ${question}, ${method}: ` +
    `${correct ? "right" : "WRONG"}, ${follows ? "followed" : "NOT followed"}, ` +
    `density ${(100 * density).toFixed(1)}%`;
}

if (!values.report) {
  await run().catch(({ message }: Error) => {
    console.error(`${message}\n${values.journal} keeps the answers so far: --resume goes on`);
    Deno.exit(1);
  });
} else if (!await exists(values.journal)) usage(`no journal ${values.journal}`);
const { header, answers: held } = await readJournal(values.journal);
const answers = inOrder(held, KIND_NAMES, METHODS);
console.log(`Right · followed\n\n${tables(answers)}\n`);
for (const { text, holds } of claims(answers)) console.log(`${holds ? "holds" : "FAILS"}  ${text}`);
if (values.write) await publish({ header, answers });
