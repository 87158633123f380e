/**
 * Long-context retrieval tasks with known answers, in the forms of needle-in-a-haystack, RULER (arXiv 2404.06654) and
 * InfiniteBench (arXiv 2402.13718). Deterministic: the same options give the same prompt.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";
import { passage } from "./haystack.ts";
import { MAKERS, type Question, type TaskKind } from "./kinds.ts";
import { Random } from "./random.ts";
import { Names } from "./words.ts";

/** Options of {@linkcode makeTask}. */
export interface TaskOptions {
  /** What is asked. */
  kind: TaskKind;
  /** UTF-16 units that the context should have, about. */
  length: number;
  /** Prose to hide things in; `uuid` and `numbers` need none. */
  haystack?: string;
  /** Chooses passage, names, numbers and places. Default 0. */
  seed?: number;
  /** Needles (`needle`), or assignments of the chain (`variables`). Default 1, or 3. */
  needles?: number;
  /** Questions. Default 1; at most as many as there are things to ask for. */
  questions?: number;
  /** Where a single needle or the pass key lies, in [0, 1]. Default random. */
  depth?: number;
}

/** A context and questions about it, each to be asked on its own. */
export interface RetrievalTask {
  /** What is asked. */
  readonly kind: TaskKind;
  /** The long part, common to all questions. */
  readonly context: string;
  /** At least one. */
  readonly questions: readonly Question[];
}

/**
 * Makes a task.
 *
 * @param options See {@linkcode TaskOptions}.
 * @returns Context and questions.
 * @throws {MInferenceError} `INVALID_ARGUMENT` where prose is needed and none is given, or is too short.
 *
 * @example
 * ```ts
 * import { makeTask } from "./retrieval.ts";
 *
 * const task = makeTask({ kind: "uuid", length: 4000, seed: 7 });
 * const [{ prompt, answer }] = task.questions;
 * console.log((task.context + prompt).length, answer);
 * ```
 */
export function makeTask(options: TaskOptions): RetrievalTask {
  const { kind, haystack = "", seed = 0, questions: wanted = 1, depth } = options;
  const random = new Random(seed);
  const parts = MAKERS[kind]({
    ...options,
    random,
    names: new Names(random),
    prose(length: number): string {
      if (haystack.length < 1000) {
        throw new MInferenceError(
          "INVALID_ARGUMENT",
          `a ${kind} task needs a haystack of at least 1000 characters, got ${haystack.length}`,
          { details: { kind, length: haystack.length } },
        );
      }
      return passage(haystack, Math.max(0, length), random);
    },
    place: () => depth ?? random.unit(),
  });
  const left = [...parts.questions];
  const questions: Question[] = [];
  while (questions.length < wanted && left.length > 0) {
    questions.push(...left.splice(random.below(left.length), 1));
  }
  return { kind, context: parts.context, questions };
}

/**
 * Makes a task whose context and longest question fit into a number of tokens, and nearly fill it.
 *
 * @param options As for {@linkcode makeTask}, without `length`.
 * @param tokens Most tokens of `context + prompt`.
 * @param count Counts the tokens of a text as it will be encoded.
 * @returns The longest task found; within 1% of `tokens` where the kind allows.
 * @throws {MInferenceError} `INVALID_ARGUMENT` where not even the shortest task fits.
 */
export async function makeTaskOfTokens(
  options: Omit<TaskOptions, "length">,
  tokens: number,
  count: (text: string) => number | Promise<number>,
): Promise<RetrievalTask> {
  const typicalUnitsPerToken = options.kind === "uuid" ? 1.5 : 3.5;
  let length = tokens * typicalUnitsPerToken;
  let best: RetrievalTask | undefined;
  for (let round = 0; round < 8; round++) {
    const task = makeTask({ ...options, length: Math.floor(length) });
    const prompts = task.questions.map(async ({ prompt }) => ({
      prompt,
      tokens: await count(prompt),
    }));
    const [longest] = (await Promise.all(prompts)).sort((a, b) => b.tokens - a.tokens);
    const used = await count(task.context + longest.prompt); // the long text is counted once
    if (used <= tokens) {
      if (best === undefined || task.context.length > best.context.length) best = task;
      if (used >= 0.99 * tokens) break;
    }
    length *= 0.997 * tokens / used;
  }
  if (best === undefined) {
    throw new MInferenceError("INVALID_ARGUMENT", `no ${options.kind} task fits ${tokens} tokens`, {
      details: { kind: options.kind, tokens },
    });
  }
  return best;
}

/**
 * Whether a completion gives the answer: it begins with it, and nothing continues its last word or number.
 *
 * @param question The question.
 * @param completion What the model wrote.
 */
export function isCorrect(question: Question, completion: string): boolean {
  const text = completion.trimStart();
  return text.startsWith(question.answer) &&
    !/^[\p{L}\p{N}]/u.test(text.slice(question.answer.length));
}
