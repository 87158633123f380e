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
import { readPrompt } from "./prompt.ts";

/** A text to measure on. */
export interface Sample {
  /** What it is. */
  readonly name: string;
  /** Its token ids. */
  readonly ids: Uint32Array;
}

/**
 * The user's text, or a list of keys and values with a question, as the pattern search has it.
 *
 * @param model Whose tokens it is measured in.
 * @param tokens Most tokens.
 * @param file The text; `-` is standard input.
 * @throws {UsageError} For a text that is too short.
 */
export async function makeSample(model: Model, tokens: number, file?: string): Promise<Sample> {
  const { tokenizer } = model;
  if (file === undefined) {
    const encode = (text: string): Uint32Array => tokenizer.encode(text);
    const task = makeTaskOfTokens({ kind: "uuid", seed: 1 }, tokens, (t) => encode(t).length);
    const ids = encode(task.context + task.questions[0].prompt);
    return { name: "a generated list of keys and values", ids };
  }
  const text = await readPrompt({ file });
  const ids = await tokenizer.encodeAsync(text);
  if (ids.length < LEAST_TOKENS) {
    throw new UsageError(`${file} has ${ids.length} tokens, a sample needs ${LEAST_TOKENS}`);
  }
  const name = file === "-" ? "standard input" : basename(file);
  if (ids.length <= tokens) return { name, ids };
  return { name: `the beginning of ${name}`, ids: ids.subarray(0, tokens) };
}
