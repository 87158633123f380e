// What is asked: the same number of questions of five kinds.
import {
  makeTaskOfTokens,
  type RetrievalTask,
  type TaskOptions,
} from "../../src/tasks/retrieval.ts";

/** What makes a kind. */
interface Kind extends Pick<TaskOptions, "kind" | "needles"> {
  /** Whether a context can be asked about once only. */
  readonly once?: boolean;
}

/** The kinds by the names of the table. */
const KINDS: Readonly<Record<string, Kind>> = {
  "single needle": { kind: "needle", needles: 1, once: true },
  "multi-key": { kind: "needle", needles: 16 },
  "key-value": { kind: "uuid" },
  "variable tracking": { kind: "variables", once: true },
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

/** A context to be made. */
export interface TaskSpec {
  /** One of {@linkcode KIND_NAMES}. */
  readonly kind: string;
  /** Most tokens of context and question. */
  readonly tokens: number;
  readonly seed: number;
  /** Questions about it. */
  readonly questions: number;
}

/**
 * Contexts of every kind, until each kind has `contexts * questions` questions. Kinds take turns, so that a run cut
 * short has asked about as much of each.
 */
export function listTasks({ tokens, contexts, questions }: Amount): TaskSpec[] {
  const wanted = contexts * questions;
  const tasks = KIND_NAMES.flatMap((kind) => {
    const each = KINDS[kind].once ? 1 : questions;
    return Array.from({ length: wanted / each }, (_, i) => {
      return { kind, tokens, seed: FIRST_SEED + i, questions: each };
    });
  });
  const askedBefore = ({ seed, questions }: TaskSpec): number => (seed - FIRST_SEED) * questions;
  return tasks.sort((a, b) => askedBefore(a) - askedBefore(b)); // stable: kinds keep their order
}

/** Makes a context with its questions. */
export function makeTask(
  { kind, tokens, seed, questions }: TaskSpec,
  haystack: string,
  count: (text: string) => number,
): Promise<RetrievalTask> {
  const { once: _, ...options } = KINDS[kind];
  return makeTaskOfTokens({ ...options, haystack, seed, questions }, tokens, count);
}
