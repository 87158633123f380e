/**
 * A model's patterns with what the search measured of them.
 *
 * @module
 */
import type { HeadPattern } from "../attention/patterns.ts";
import type { Checkpoint } from "../model/checkpoint.ts";
import { checkpointError, isObject } from "../model/file.ts";
import { choosePatterns } from "../model/pattern_choice.ts";
import { parsePatterns, PATTERNS_KEY, readPatternText } from "../model/patterns_file.ts";

/** What was measured of a head's pattern; fractions. */
export interface HeadFigures {
  /** Attention tiles computed over those of dense causal attention. */
  readonly density: number;
  /** Attention mass retained, mean over the query rows. */
  readonly recall: number;
}

/** One head: its pattern, and the figures that the file gives. */
export interface HeadReport extends Partial<HeadFigures> {
  /** What the head computes. */
  readonly pattern: HeadPattern;
}

/** The patterns of a model. */
export interface PatternReport {
  /** Where they were read; null for the safe default of a model without a file. */
  readonly file: string | null;
  /** [layer][query head]. */
  readonly layers: readonly (readonly HeadReport[])[];
}

/** Density and recall of one head in the file's own block; upstream's files have none. */
function figures(
  where: string,
  layer: number,
  head: number,
  extension: unknown,
): Partial<HeadFigures> {
  if (!isObject(extension)) return {};
  const fraction = (name: string): Record<string, number> => {
    const value = extension[name];
    if (value === undefined) return {};
    if (typeof value === "number" && value >= 0 && value <= 1) return { [name]: value };
    const message = `layer ${layer}, head ${head}: ${name} is ${JSON.stringify(value)}, ` +
      "a number from 0 to 1 is needed";
    throw checkpointError(where, message, { layer, head });
  };
  return { ...fraction("density"), ...fraction("recall") };
}

/**
 * Reads the patterns a model would run with.
 *
 * @param checkpoint The model.
 * @param file A pattern file. Default the one beside the checkpoint, else the safe default.
 * @throws {MInferenceError} `IO` where there is no such file, `CHECKPOINT` where it is damaged or belongs to
 * another model.
 */
export async function readPatternReport(
  checkpoint: Checkpoint,
  file: string | undefined = checkpoint.patternsPath,
): Promise<PatternReport> {
  if (file === undefined) {
    const layers = (await choosePatterns("auto", checkpoint))!;
    return { file: null, layers: layers.map((heads) => heads.map((pattern) => ({ pattern }))) };
  }
  const { where, text } = await readPatternText(file);
  const { layers, heads } = checkpoint.config;
  const patterns = parsePatterns(where, text, {
    layers,
    heads,
    modelName: checkpoint.modelName,
  });
  const entries: Record<string, unknown>[] = JSON.parse(text);
  return {
    file: where,
    layers: patterns.map((layerHeads, layer) => {
      const block = entries[layer][PATTERNS_KEY];
      return layerHeads.map((pattern, head) => ({
        pattern,
        ...(isObject(block) ? figures(where, layer, head, block[head]) : {}),
      }));
    }),
  };
}

/** Mean of a figure over the heads that have it; undefined where none has. */
export function meanFigure(
  layers: readonly (readonly Partial<HeadFigures>[])[],
  figure: keyof HeadFigures,
): number | undefined {
  const values = layers.flat().map((head) => head[figure]).filter((value) => value !== undefined);
  return values.length > 0 ? values.reduce((a, b) => a + b) / values.length : undefined;
}
