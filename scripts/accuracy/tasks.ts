// What is asked: the same number of questions of five kinds.
import {
  makeTaskOfTokens,
  type RetrievalTask,
  type TaskOptions,
} from "../../src/tasks/retrieval.ts";

/** The kinds by the names of the table. */
const KINDS: Readonly<Record<string, Pick<TaskOptions, "kind" | "needles">>> = {
  "single needle": { kind: "needle", needles: 1 },
  "multi-key": { kind: "needle", needles: 16 },
  "key-value": { kind: "uuid" },
  "variable tracking": { kind: "variables" },
  "name: number": { kind: "numbers" },
};

export const KIND_NAMES: readonly string[] = Object.keys(KINDS);

/** The pattern search draws its samples from small seeds; what it has seen is not asked. */
const FIRST_SEED = 1000;

/** How much is asked. */
export interface Amount {
  /** Most tokens of a prompt, nearly reached. */
  readonly tokens: number;
  /** Contexts of each kind, if each has all the questions. */
  readonly contexts: number;
  /** Questions about a context. */
  readonly questions: number;
}

/** A context with its questions. */
export interface NamedTask extends RetrievalTask {
  readonly name: string;
  readonly seed: number;
}

/**
 * Contexts of every kind, until each kind has `contexts * questions` questions: a context with a single needle or
 * a single chain of assignments has one question alone, so there are more of those.
 */
export function* makeTasks(
  haystack: string,
  { tokens, contexts, questions }: Amount,
  count: (text: string) => number,
): Generator<NamedTask> {
  for (const [name, kind] of Object.entries(KINDS)) {
    let missing = contexts * questions;
    for (let seed = FIRST_SEED; missing > 0; seed++) {
      const options = { ...kind, haystack, seed, questions: Math.min(questions, missing) };
      const task = makeTaskOfTokens(options, tokens, count);
      missing -= task.questions.length;
      yield { ...task, name, seed };
    }
  }
}
