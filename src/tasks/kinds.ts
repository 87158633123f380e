/**
 * The kinds of retrieval tasks: how the context and the questions of each are made.
 *
 * @module
 */
import { hide } from "./haystack.ts";
import type { Random } from "./random.ts";
import type { Names } from "./words.ts";

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

/** A question and what a right completion begins with. */
export interface Question {
  /** Follows the context; the model continues it. */
  readonly prompt: string;
  /** The right completion, without leading white space. */
  readonly answer: string;
}

/** What the makers share. */
export interface Maker {
  /** UTF-16 units that the context should have, about. */
  readonly length: number;
  /** Needles, or assignments of the chain. */
  readonly needles?: number;
  /** Chooses passage, numbers and places. */
  readonly random: Random;
  /** Chooses names. */
  readonly names: Names;
  /** A passage of the haystack. */
  prose(length: number): string;
  /** A random or the wanted place. */
  place(): number;
}

/** What a maker makes. */
export interface Parts {
  /** The long part, common to all questions. */
  readonly context: string;
  /** All there is to ask about it. */
  readonly questions: readonly Question[];
}

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

/** The makers by kind. */
export const MAKERS: Readonly<Record<TaskKind, (maker: Maker) => Parts>> = {
  needle,
  passkey,
  uuid,
  variables,
  numbers,
};
