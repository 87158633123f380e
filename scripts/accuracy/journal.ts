// Answers on disk, one JSON line each, as they come: what a run has when it is cut off is kept.
import type { Machine } from "../bench/machine.ts";
import type { Outcome } from "./methods.ts";
import type { TaskSpec } from "./tasks.ts";

/** First line: what the answers belong to. */
export interface Header {
  /** The model's path in the checkout. */
  readonly model: string;
  /** What computed. */
  readonly device: string;
  readonly machine?: Machine;
}

/** One prompt read and answered. */
export interface Answer extends Outcome {
  /** Most tokens of the prompt. */
  readonly tokens: number;
  /** The question's kind, as in the table. */
  readonly kind: string;
  /** Of the context. */
  readonly seed: number;
  /** Which of the context's questions. */
  readonly question: number;
  readonly method: string;
}

/** Everything of a journal. */
export interface Journal {
  readonly header: Header;
  readonly answers: readonly Answer[];
}

/** Reads a journal; a last line cut short is left out. */
export async function readJournal(path: string): Promise<Journal> {
  const lines = (await Deno.readTextFile(path)).split("\n").slice(0, -1);
  if (lines.length === 0) throw new Error(`${path} has no header`);
  const [header, ...answers] = lines.map((line) => JSON.parse(line));
  return { header, answers };
}

/** Writes a journal anew. */
export async function writeJournal(path: string, { header, answers }: Journal): Promise<void> {
  const lines = [header, ...answers].map((entry) => `${JSON.stringify(entry)}\n`);
  await Deno.writeTextFile(path, lines.join(""));
}

/** Puts answers into an order of their own, whichever job came first. */
export function inOrder(
  answers: readonly Answer[],
  kinds: readonly string[],
  methods: readonly string[],
): Answer[] {
  const key = (a: Answer): number[] => [
    a.tokens,
    kinds.indexOf(a.kind),
    a.seed,
    a.question,
    methods.indexOf(a.method),
  ];
  return answers.toSorted((a, b) => {
    const [left, right] = [key(a), key(b)];
    const at = left.findIndex((value, i) => value !== right[i]);
    return at < 0 ? 0 : left[at] - right[at];
  });
}

/** Which methods each question of a task still wants. */
export function missingMethods(
  task: TaskSpec,
  methods: readonly string[],
  held: readonly Answer[],
): string[][] {
  const ofTask = held.filter((a) =>
    a.tokens === task.tokens && a.kind === task.kind && a.seed === task.seed
  );
  return Array.from(
    { length: task.questions },
    (_, question) =>
      methods.filter((method) =>
        !ofTask.some((a) => a.question === question && a.method === method)
      ),
  );
}
