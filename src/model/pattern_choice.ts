/**
 * Which sparse patterns a model's heads get.
 *
 * @module
 */
import { type HeadPattern, resolvePattern } from "../attention/patterns.ts";
import { MInferenceError } from "../native/errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { readPatternFile } from "./patterns_file.ts";

/** `auto`, `dense`, one pattern for every head, a path of a pattern file, or patterns as [layer][head]. */
export type PatternChoice =
  | "auto"
  | "dense"
  | HeadPattern
  | { readonly file: string }
  | readonly (readonly HeadPattern[])[];

/**
 * Pattern of a model nobody searched: covers nearly all of the estimated attention mass of each head,
 * whatever that takes; a head that is not sparse becomes dense.
 */
export const SAFE_PATTERN: HeadPattern = { kind: "vertical_slash", mass: 0.98 };

/**
 * Resolves a choice to patterns [layer][head], null for dense attention.
 *
 * @throws {MInferenceError} `INVALID_ARGUMENT` or `CHECKPOINT` if a table or file does not fit the model.
 */
export async function choosePatterns(
  choice: PatternChoice,
  checkpoint: Checkpoint,
): Promise<readonly (readonly HeadPattern[])[] | null> {
  const { layers, heads } = checkpoint.config;
  const uniform = (pattern: HeadPattern): HeadPattern[][] =>
    Array.from({ length: layers }, () => Array(heads).fill(pattern));
  if (choice === "dense") return null;
  if (choice === "auto") {
    const { patternsPath } = checkpoint;
    return patternsPath
      ? await readPatternFile(patternsPath, checkpoint.config)
      : uniform(SAFE_PATTERN);
  }
  if ("file" in choice) return await readPatternFile(choice.file, checkpoint.config);
  if ("kind" in choice) return uniform(resolvePattern(choice, 0));
  const bad = choice.findIndex((layer) => layer.length !== heads);
  if (choice.length !== layers || bad >= 0) {
    throw new MInferenceError(
      "INVALID_ARGUMENT",
      bad >= 0
        ? `layer ${bad} has ${choice[bad].length} patterns, the model has ${heads} heads`
        : `patterns for ${choice.length} layers, the model has ${layers}`,
      { details: { layers, heads, given: choice.length } },
    );
  }
  choice.forEach((patterns, layer) => patterns.forEach((p, head) => check(p, layer, head)));
  return choice;
}

/** Refuses a wrong pattern before a prompt is read, naming its layer. */
function check(pattern: HeadPattern, layer: number, head: number): void {
  try {
    resolvePattern(pattern, head);
  } catch (cause) {
    if (!(cause instanceof MInferenceError)) throw cause;
    const { code, message, details } = cause;
    throw new MInferenceError(code, `layer ${layer}, ${message}`, {
      details: { ...details, layer },
      cause,
    });
  }
}
