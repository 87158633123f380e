/**
 * Sample texts that a model is measured on.
 *
 * @module
 */
import { basename } from "node:path";
import type { Model } from "../model/model.ts";
import { LEAST_TOKENS } from "../search/search.ts";
import { makeTaskOfTokens } from "../tasks/retrieval.ts";
import { UsageError } from "./args.ts";
import { inputName, readPrompt } from "./prompt.ts";

/** A text to measure on. */
export interface Sample {
  /** What it is. */
  readonly name: string;
  /** Its token ids. */
  readonly ids: Uint32Array;
}

/**
 * A list of keys and values with a question.
 *
 * @param model Whose tokens it is measured in.
 * @param tokens Most tokens.
 * @param seed Of the list.
 * @param signal Stops the making.
 */
export async function generatedSample(
  { tokenizer }: Model,
  tokens: number,
  seed: number,
  signal?: AbortSignal,
): Promise<Uint32Array> {
  const encode = (text: string): Promise<Uint32Array> => tokenizer.encodeAsync(text, { signal });
  const length = async (text: string): Promise<number> => (await encode(text)).length;
  const task = await makeTaskOfTokens({ kind: "uuid", seed }, tokens, length);
  return await encode(task.context + task.questions[0].prompt);
}

/**
 * The user's text, or a list of keys and values with a question, as the pattern search has it.
 *
 * @param model Whose tokens it is measured in.
 * @param tokens Most tokens.
 * @param options The text's file, `-` for standard input; a signal.
 * @throws {UsageError} For a text that is too short.
 */
export async function makeSample(
  model: Model,
  tokens: number,
  { file, signal }: { file?: string; signal?: AbortSignal } = {},
): Promise<Sample> {
  if (file === undefined) {
    const ids = await generatedSample(model, tokens, 1, signal);
    return { name: "a generated list of keys and values", ids };
  }
  const text = await readPrompt({ file }, signal);
  const ids = await model.tokenizer.encodeAsync(text, { signal });
  const name = inputName(basename(file));
  if (ids.length < LEAST_TOKENS) {
    throw new UsageError(`${name} has ${ids.length} tokens, a sample needs ${LEAST_TOKENS}`);
  }
  if (ids.length <= tokens) return { name, ids };
  return { name: `the beginning of ${name}`, ids: ids.subarray(0, tokens) };
}
