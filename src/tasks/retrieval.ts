/**
 * Long-context retrieval tasks with known answers, in the forms of needle-in-a-haystack, RULER (arXiv 2404.06654) and
 * InfiniteBench (arXiv 2402.13718). Deterministic: the same options give the same prompt.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";
import { hide, passage } from "./haystack.ts";
import { Random } from "./random.ts";
import { Names } from "./words.ts";

/**
 * What is asked:
 *
 *  - `needle`: numbers of named things, hidden in prose; one or many needles.
 *  - `passkey`: one number, hidden in prose.
 *  - `uuid`: a value of a JSON object of random identifiers.
 *  - `variables`: the names that a chain of assignments gives one value, hidden in prose.
 *  - `numbers`: an entry of a list of `name: number` lines.
 */
export type TaskKind = "needle" | "passkey" | "uuid" | "variables" | "numbers";

/** All kinds. */
export const TASK_KINDS: readonly TaskKind[] = [
  "needle",
  "passkey",
  "uuid",
  "variables",
  "numbers",
];

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

/** A question and what a right completion begins with. */
export interface Question {
  /** Follows the context; the model continues it. */
  readonly prompt: string;
  /** The right completion, without leading white space. */
  readonly answer: string;
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

/** What the makers share. */
interface Maker extends TaskOptions {
  readonly random: Random;
  readonly names: Names;
  /** A passage of the haystack. */
  prose(length: number): string;
  /** A random or the wanted place. */
  place(): number;
}

type Parts = Omit<RetrievalTask, "kind">;

const DIGITS = "0123456789";
const CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

function needle(maker: Maker): Parts {
  const { random, names, needles = 1 } = maker;
  const single = needles === 1;
  const hidden = Array.from({ length: needles }, () => {
    const name = names.draw();
    const value = random.text(DIGITS, 7);
    return {
      name,
      value,
      text: `One of the special magic numbers for ${name} is: ${value}.`,
      depth: single ? maker.place() : random.unit(),
    };
  });
  const intro = single
    ? "A special magic value is hidden within the following text. Make sure to memorize it.\n"
    : "Some special magic numbers are hidden within the following text. Make sure to memorize them. " +
      "I will quiz you about them afterwards.\n";
  const total = hidden.reduce((sum, { text }) => sum + text.length + 1, intro.length + 1);
  return {
    context: `${intro}${hide(maker.prose(maker.length - total), hidden)}\n`,
    questions: hidden.map(({ name, value }) => ({
      prompt: `What is the special magic number for ${name} mentioned in the provided text? ` +
        `The special magic number for ${name} mentioned in the provided text is`,
      answer: value,
    })),
  };
}

function passkey(maker: Maker): Parts {
  const key = maker.random.text(DIGITS, 5);
  const text = `The pass key is ${key}. Remember it. ${key} is the pass key.`;
  const intro =
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. " +
    "I will quiz you about the important information.\n";
  const prose = maker.prose(maker.length - intro.length - text.length - 2);
  return {
    context: `${intro}${hide(prose, [{ text, depth: maker.place() }])}\n`,
    questions: [{ prompt: "What is the pass key? The pass key is", answer: key }],
  };
}

function uuidText(random: Random): string {
  const hex = random.text("0123456789abcdef", 32);
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)]
    .join("-");
}

function uuid({ random, length }: Maker): Parts {
  const intro =
    "Extract the value corresponding to the specified key in the JSON object below.\n\n";
  const pairBytes = 80; // "key": "value", with its separator
  const count = Math.max(2, Math.floor((length - intro.length) / pairBytes));
  const pairs = Array.from({ length: count }, () => [uuidText(random), uuidText(random)]);
  const body = pairs.map(([key, value]) => `"${key}": "${value}"`).join(", ");
  return {
    context: `${intro}{${body}}\n\n`,
    questions: pairs.map(([key, value]) => ({
      prompt: `Key: "${key}"\nThe value associated with the specified key is:`,
      answer: `"${value}"`,
    })),
  };
}

function variables(maker: Maker): Parts {
  const { random, needles = 3 } = maker;
  const value = random.text(DIGITS, 5);
  const names = new Set<string>();
  while (names.size < needles) names.add(random.text(CAPITALS, 5));
  const chain = [...names];
  // Each assignment stands before those that build on it.
  const depths = chain.map(() => random.unit()).sort((a, b) => a - b);
  const items = chain.map((name, i) => ({
    text: `VAR ${name} = ${i === 0 ? value : `VAR ${chain[i - 1]}`}.`,
    depth: depths[i],
  }));
  const intro =
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";
  const total = items.reduce((sum, { text }) => sum + text.length + 1, intro.length + 1);
  return {
    context: `${intro}${hide(maker.prose(maker.length - total), items)}\n`,
    questions: [{
      prompt:
        `Question: Find all variables that are assigned the value ${value} in the text above. ` +
        "Answer: According to the chain(s) of variable assignment in the text above, " +
        `${chain.length} variables are assigned the value ${value}, they are:`,
      answer: chain.join(" "),
    }],
  };
}

function numbers({ random, names, length }: Maker): Parts {
  const lines: string[] = [];
  const questions: Question[] = [];
  for (let units = 1; units < length || lines.length < 2;) {
    const name = names.draw();
    const value = random.text(DIGITS, 4);
    lines.push(`${name}: ${value}`);
    questions.push({ prompt: `${name}:`, answer: value });
    units += name.length + 7;
  }
  return { context: `${lines.join("\n")}\n\n`, questions };
}

const MAKERS: Readonly<Record<TaskKind, (maker: Maker) => Parts>> = {
  needle,
  passkey,
  uuid,
  variables,
  numbers,
};

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
