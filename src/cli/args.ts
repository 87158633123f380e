/**
 * Command lines: what a command accepts, its help, and values as numbers.
 *
 * @module
 */
import { parseArgs } from "node:util";

/** An option of a command. */
export interface Option {
  /** A switch, or one that takes a value. */
  readonly type: "boolean" | "string";
  /** One letter. */
  readonly short?: string;
  /** What the help calls the value. */
  readonly value?: string;
  /** One line. */
  readonly help: string;
}

/** Options by their long names. */
export type Options = Readonly<Record<string, Option>>;

/** What was given for each option. */
export type Values<O extends Options> = {
  readonly [K in keyof O]?: O[K]["type"] extends "boolean" ? boolean : string;
};

/** A command line that makes no sense: exit code 2. */
export class UsageError extends Error {
  /** Always `"UsageError"`. */
  override readonly name: string = "UsageError";
}

/** Options that every command has. */
export const COMMON = {
  json: { type: "boolean", help: "print the result as JSON" },
  help: { type: "boolean", short: "h", help: "show this help" },
} as const satisfies Options;

/**
 * Parses a command line.
 *
 * @param args Arguments after the command's name.
 * @param options What the command accepts beside {@linkcode COMMON}.
 * @throws {UsageError} For unknown options, and values where none or one is wanted.
 */
export function parse<O extends Options>(
  args: readonly string[],
  options: O,
): { values: Values<O & typeof COMMON>; positionals: string[] } {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      options: { ...options, ...COMMON },
      allowPositionals: true,
    });
    return { values: values as Values<O & typeof COMMON>, positionals };
  } catch (error) {
    const { code = "", message } = error as Error & { code?: string };
    if (!code.startsWith("ERR_PARSE_ARGS")) throw error;
    const [, example] = /use '(--[\w-]+=)-XYZ'/.exec(message) ?? [];
    const text = example
      ? `a value that begins with a dash is given as ${example}VALUE`
      : message.split("\n")[0].split(". To specify")[0];
    throw new UsageError(text, { cause: error });
  }
}

/** Columns of a help text. */
const HELP_WIDTH = 100;

/** Breaks a text between words into lines of at most `width` characters. */
function wrap(text: string, width: number): string[] {
  const [first, ...words] = text.split(" ");
  const lines = [first];
  for (const word of words) {
    const longer = `${lines.at(-1)} ${word}`;
    if (longer.length <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

/**
 * Lists options for a help text, aligned.
 *
 * @param options The options.
 */
export function optionHelp(options: Options): string {
  const rows = Object.entries(options).map(([name, { short, value, help }]) => {
    const flag = `${short ? `-${short}, ` : "    "}--${name}${value ? ` ${value}` : ""}`;
    return [flag, help];
  });
  const width = Math.max(...rows.map(([flag]) => flag.length));
  return rows.flatMap(([flag, help]) =>
    wrap(help, HELP_WIDTH - width - 4).map((line, i) =>
      `  ${(i === 0 ? flag : "").padEnd(width)}  ${line}`
    )
  ).join("\n");
}

/** Limits of a number on the command line. */
export interface NumberRange {
  /** Smallest value. */
  readonly least: number;
  /** Largest value. Default none. */
  readonly most?: number;
  /** Whole numbers alone. Default true. */
  readonly whole?: boolean;
}

/** A share of a whole that is not nothing. */
export const SHARE: NumberRange = { least: 1e-6, most: 1, whole: false };

/**
 * Reads a number; `k` and `m` multiply by 1024 and 1024².
 *
 * @param name The option, for the error.
 * @param text What was given; undefined stays so.
 * @param range Limits.
 * @throws {UsageError} With the text and the limits.
 */
export function toNumber(name: string, text: string, range: NumberRange): number;
export function toNumber(
  name: string,
  text: string | undefined,
  range: NumberRange,
): number | undefined;
export function toNumber(
  name: string,
  text: string | undefined,
  range: NumberRange,
): number | undefined {
  if (text === undefined) return undefined;
  const { least, most = Infinity, whole = true } = range;
  const [, digits, unit] = /^([-+]?[\d.]+(?:e[-+]?\d+)?)([km]?)$/i.exec(text.trim()) ?? [];
  const value = Number(digits) * (unit ? 1024 ** " km".indexOf(unit.toLowerCase()) : 1);
  if (!(value >= least && value <= most) || (whole && !Number.isSafeInteger(value))) {
    const kind = whole ? "a whole number" : "a number";
    const limits = most === Infinity ? `from ${least}` : `from ${least} to ${most}`;
    throw new UsageError(`--${name} needs ${kind} ${limits}, got "${text}"`);
  }
  return value;
}

/**
 * Reads numbers with commas between them.
 *
 * @param name The option, for the error.
 * @param text What was given.
 * @param range Limits of each.
 * @throws {UsageError} With the text and the limits.
 */
export function toNumbers(name: string, text: string, range: NumberRange): number[] {
  return text.split(",").map((number) => toNumber(name, number, range));
}

/**
 * Reads one of several words.
 *
 * @param name The option, for the error.
 * @param text What was given; undefined stays so.
 * @param choices The words.
 * @throws {UsageError} Listing them.
 */
export function toChoice<T extends string>(
  name: string,
  text: string | undefined,
  choices: readonly T[],
): T | undefined {
  if (text === undefined) return undefined;
  const choice = choices.find((c) => c === text);
  if (choice === undefined) {
    throw new UsageError(`--${name} is one of ${choices.join(", ")}; got "${text}"`);
  }
  return choice;
}
