/**
 * The prompts of the benchmark: a novel with one needle, the question at the end.
 *
 * @module
 */
import { loadModel } from "../../mod.ts";
import { makeTaskOfTokens } from "../../src/tasks/retrieval.ts";
import type { PromptInfo } from "./results.ts";

/** A prompt on disk, for the workers. */
export interface PromptFiles {
  /** JSON array of token ids. */
  readonly ids: string;
  /** Its text. */
  readonly text: string;
}

/** A prompt and what is known of it. */
export interface Prompt extends PromptFiles, PromptInfo {}

/**
 * Makes a prompt of nearly (within 1%) and at most each length.
 *
 * @param model GGUF file, for its tokenizer.
 * @param haystack A long text.
 * @param lengths Tokens.
 * @param folder Where the token ids go.
 */
export async function makePrompts(
  model: string,
  haystack: string,
  lengths: readonly number[],
  folder: string,
): Promise<Map<string, Prompt>> {
  await using loaded = await loadModel(model, { patterns: "dense" });
  const { tokenizer } = loaded;
  const prompts = new Map<string, Prompt>();
  for (const length of lengths) {
    const options = { kind: "needle", haystack, seed: length, depth: 0.4 } as const;
    const count = (text: string): number => tokenizer.encode(text).length;
    const task = await makeTaskOfTokens(options, length, count);
    const [question] = task.questions;
    const text = task.context + question.prompt;
    const ids = [...tokenizer.encode(text)];
    const file = `${folder}/${length}.json`;
    await Deno.writeTextFile(file, JSON.stringify(ids));
    const answer = ` ${question.answer}`;
    const answerIds = [...tokenizer.encode(answer, { addSpecialTokens: false })];
    prompts.set(String(length), { ids: file, text, tokens: ids.length, answer, answerIds });
  }
  return prompts;
}
