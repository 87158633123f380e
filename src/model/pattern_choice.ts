/**
 * Which sparse patterns a model's heads get.
 *
 * @module
 */
import { basename } from "node:path";
import { type HeadPattern, resolvePattern } from "../attention/patterns.ts";
import type { CallOptions } from "../device/device.ts";
import { MInferenceError } from "../native/errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { readPatternFile } from "./patterns_file.ts";
import { publishedPatterns } from "./published_patterns.ts";

/**
 * What a model's heads compute:
 *
 *  - `auto`: the file beside the checkpoint, else a safe default; never fetches anything.
 *  - `dense`: no sparsity.
 *  - `upstream`: the file that the authors of MInference publish for this model, known by its name.
 *  - `{ published }`: the file they publish for the model of that id, one of {@linkcode PUBLISHED_MODELS}.
 *  - `{ file }`: a pattern file, by its path or its file:, http: or https: URL.
 *  - one pattern for every head, or patterns as [layer][head].
 */
export type PatternChoice =
  | "auto"
  | "dense"
  | "upstream"
  | HeadPattern
  | { readonly published: string }
  | { readonly file: string | URL }
  | readonly (readonly HeadPattern[])[];

/**
 * Pattern of a model nobody searched: covers nearly all of the estimated attention mass of each head,
 * whatever that takes; a head that is not sparse becomes dense.
 */
const SAFE_PATTERN: HeadPattern = { kind: "vertical_slash", mass: 0.98 };

/**
 * Resolves a choice to patterns [layer][head], null for dense attention.
 *
 * @param choice What was chosen.
 * @param checkpoint The model.
 * @param options `signal` stops a download.
 * @throws {MInferenceError} `INVALID_ARGUMENT` or `CHECKPOINT` if a table or file does not fit the model; `IO`,
 * `PERMISSION` or `NETWORK` where a file cannot be read.
 */
export async function choosePatterns(
  choice: PatternChoice,
  checkpoint: Checkpoint,
  options: CallOptions = {},
): Promise<readonly (readonly HeadPattern[])[] | null> {
  const { modelName, config: { layers, heads } } = checkpoint;
  const target = { layers, heads, modelName };
  const uniform = (pattern: HeadPattern): HeadPattern[][] =>
    Array.from({ length: layers }, () => Array(heads).fill(pattern));
  if (choice === "dense") return null;
  const read = (source: string | URL): Promise<HeadPattern[][]> =>
    readPatternFile(source, target, options);
  if (choice === "auto") {
    const { patternsPath } = checkpoint;
    return patternsPath ? await read(patternsPath) : uniform(SAFE_PATTERN);
  }
  if (choice === "upstream") {
    return await read(publishedPatterns(modelName, basename(checkpoint.path, ".gguf")));
  }
  if (typeof choice !== "object" || choice === null) {
    const message = `patterns are "auto", "dense", "upstream" or an object, got ${choice}`;
    throw new MInferenceError("INVALID_ARGUMENT", message, { details: { patterns: choice } });
  }
  if ("published" in choice) return await read(publishedPatterns(choice.published));
  if ("file" in choice) return await read(choice.file);
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
