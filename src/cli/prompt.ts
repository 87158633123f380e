/**
 * The prompt: a file or standard input, then text from the command line.
 *
 * @module
 */
import { fileError } from "../model/file.ts";
import { MInferenceError } from "../native/errors.ts";
import { type Options, UsageError, type Values } from "./args.ts";

/** Options that make a prompt. */
export const PROMPT_OPTIONS = {
  file: {
    type: "string",
    short: "f",
    value: "FILE",
    help: "read the prompt from it; - is standard input",
  },
  prompt: {
    type: "string",
    short: "p",
    value: "TEXT",
    help: "the prompt; with -f what follows the file",
  },
} as const satisfies Options;

/** What a file is called in messages. */
export function inputName(path: string): string {
  return path === "-" ? "standard input" : path;
}

/** All of standard input. Whoever waits for more of it may be interrupted. */
async function readStdin(signal?: AbortSignal): Promise<Uint8Array> {
  const input = Deno.stdin.readable.pipeThrough(new TransformStream(), { signal });
  return await new Response(input).bytes();
}

async function readInput(path: string, signal?: AbortSignal): Promise<string> {
  const name = inputName(path);
  let data: Uint8Array;
  try {
    data = await (path === "-" ? readStdin(signal) : Deno.readFile(path, { signal }));
  } catch (cause) {
    throw fileError(name, cause);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(data); // without a byte order mark
  } catch (cause) {
    const message = `${name} is not UTF-8 text; iconv -f ENCODING -t UTF-8 converts it`;
    throw new MInferenceError("IO", message, { cause, details: { path } });
  }
}

/**
 * Reads the prompt. A line break separates the file from the text.
 *
 * @param values What {@linkcode PROMPT_OPTIONS} say.
 * @param signal Stops the reading.
 * @throws {UsageError} Where neither is given, or nothing is in them.
 * @throws {MInferenceError} `IO` or `PERMISSION` for a file that cannot be read as text.
 */
export async function readPrompt(
  values: Values<typeof PROMPT_OPTIONS>,
  signal?: AbortSignal,
): Promise<string> {
  const { file, prompt } = values;
  if (file === undefined && prompt === undefined) {
    throw new UsageError("no prompt: give -f FILE, -f - for standard input, or -p TEXT");
  }
  const text = file === undefined ? "" : await readInput(file, signal);
  const gap = text === "" || text.endsWith("\n") || prompt === undefined ? "" : "\n";
  const whole = text + gap + (prompt ?? "");
  if (whole === "") {
    const what = file !== undefined && !prompt ? inputName(file) : "the prompt";
    throw new UsageError(`${what} is empty`);
  }
  return whole;
}
