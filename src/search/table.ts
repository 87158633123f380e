/**
 * Search results as a pattern file: upstream's best-pattern JSON, `list[layer]{"head": [pattern, v, s, score]}`,
 * readable by the original code, with one more key per layer for what that format cannot say.
 *
 * @module
 */
import type { HeadPattern } from "../attention/patterns.ts";
import { PATTERNS_KEY } from "../model/patterns_file.ts";
import type { Measurement } from "./measure.ts";

/** Upstream's entry for a head. */
type Entry = [pattern: string, vertical: number, slash: number, score: number];

/** What the search measured of a head, beside its pattern. */
interface Extension {
  readonly pattern: HeadPattern;
  readonly density: number;
  readonly recall: number;
  readonly recallLow: number;
  readonly error: number;
}

/** One layer of the file. */
export type LayerTable = Record<string, Entry | Record<string, Extension>>;

const round = (value: number): number => Number(value.toPrecision(4));

/** The nearest thing that upstream's format can say; counts of a mass budget are those the sample took. */
function entry({ pattern, columns, bands, recallMean }: Measurement): Entry {
  const score = round(recallMean);
  switch (pattern.kind) {
    case "a_shape":
      return ["stream_llm", pattern.sink, pattern.local, score];
    case "block_sparse":
      return ["block_sparse", 1000, 6096, score];
    case "vertical_slash":
      return pattern.mass
        ? ["vertical_and_slash", Math.max(30, columns), Math.max(100, bands * 64), score]
        : ["vertical_and_slash", pattern.vertical ?? 0, pattern.slash ?? 0, score];
    case "dense": // upstream has no dense head: its widest pattern
      return ["vertical_and_slash", 1000, 6096, score];
  }
}

/**
 * Makes the file's contents.
 *
 * @param choices [layer][head], from {@linkcode searchPatterns}.
 */
export function patternTable(choices: readonly (readonly Measurement[])[]): LayerTable[] {
  return choices.map((layer) => {
    const heads: Record<string, Entry> = {};
    const extension: Record<string, Extension> = {};
    layer.forEach((choice, head) => {
      heads[head] = entry(choice);
      extension[head] = {
        pattern: choice.pattern,
        density: round(choice.density),
        recall: round(choice.recallMean),
        recallLow: round(choice.recallLow),
        error: round(choice.error),
      };
    });
    return { ...heads, [PATTERNS_KEY]: extension };
  });
}
