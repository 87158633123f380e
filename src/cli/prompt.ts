/**
 * The prompt: a file or standard input, then text from the command line.
 *
 * @module
 */
import { fileError } from "../model/file.ts";
import { type Options, UsageError, type Values } from "./args.ts";

/** Options that make a prompt. */
export const PROMPT_OPTIONS = {
  file: { type: "string", short: "f", value: "FILE", help: "read the prompt; - is standard input" },
  prompt: { type: "string", short: "p", value: "TEXT", help: "text that follows the file" },
} as const satisfies Options;

async function readInput(path: string): Promise<string> {
  if (path === "-") return await new Response(Deno.stdin.readable).text();
  try {
    return await Deno.readTextFile(path);
  } catch (cause) {
    throw fileError(path, cause);
  }
}

/**
 * Reads the prompt. A line break separates the file from the text.
 *
 * @throws {UsageError} Where neither is given.
 */
export async function readPrompt(values: Values<typeof PROMPT_OPTIONS>): Promise<string> {
  const { file, prompt } = values;
  if (file === undefined && prompt === undefined) {
    throw new UsageError("no prompt: give -f FILE, -f - for standard input, or -p TEXT");
  }
  if (file === undefined) return prompt!;
  const text = await readInput(file);
  if (prompt === undefined) return text;
  return text === "" || text.endsWith("\n") ? text + prompt : `${text}\n${prompt}`;
}
