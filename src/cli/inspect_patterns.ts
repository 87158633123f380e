/**
 * `minference inspect --patterns`: what each head of a model computes, as a table and as a page.
 *
 * @module
 */
import { LETTER_HELP, shortName } from "../inspect/describe.ts";
import { meanFigure, type PatternReport, readPatternReport } from "../inspect/patterns.ts";
import { openCheckpoint } from "../model/checkpoint.ts";
import { type Options, UsageError, type Values } from "./args.ts";
import type { Invocation } from "./command.ts";
import { percent, table } from "./format.ts";

/** Options of `inspect` that concern patterns. */
export const PATTERN_OPTIONS = {
  patterns: {
    type: "boolean",
    help: "show each head's pattern: FILE's, or those it would run with",
  },
} as const satisfies Options;

/** Heads side by side in the terminal: 8 take less than 100 columns. */
const HEADS_ABREAST = 8;

function figure(value: number | undefined): string {
  return value === undefined ? "-" : percent(value);
}

/** Layers down, heads across: pattern with budget, density, recall. */
function patternsText({ file, layers }: PatternReport, modelName: string): string {
  const heads = layers[0].length;
  const blocks: string[] = [];
  for (let first = 0; first < heads; first += HEADS_ABREAST) {
    const shown = Array.from(
      { length: Math.min(HEADS_ABREAST, heads - first) },
      (_, i) => first + i,
    );
    const rows = layers.flatMap((layer, index) => {
      const cells = shown.map((head) => layer[head]);
      return [
        [`${index}`, "pattern", ...cells.map(({ pattern }) => shortName(pattern))],
        ["", "density", ...cells.map(({ density }) => figure(density))],
        ["", "recall", ...cells.map(({ recall }) => figure(recall))],
      ];
    });
    blocks.push(table([["layer", "head", ...shown.map(String)], ...rows]));
  }
  const density = meanFigure(layers, "density");
  const recall = meanFigure(layers, "recall");
  const means = density === undefined || recall === undefined
    ? "no density or recall measured"
    : `mean density ${percent(density)}, mean recall ${percent(recall)}`;
  return `${blocks.join("\n")}\n${LETTER_HELP}\n${modelName}: ${means}; ${
    file ?? "no pattern file, the safe default"
  }\n`;
}

/** Runs `minference inspect MODEL [FILE] --patterns`. */
export async function inspectPatterns(
  { positionals, output }: Invocation<typeof PATTERN_OPTIONS>,
): Promise<void> {
  const [source, file] = positionals;
  const checkpoint = await openCheckpoint(source);
  const { modelName } = checkpoint;
  const report = await readPatternReport(checkpoint, file);
  output.result({ modelName, ...report }, () => patternsText(report, modelName));
}

/** Checks that nothing was given which only `--patterns` uses. */
export function rejectPatternOptions(
  values: Values<typeof PATTERN_OPTIONS>,
  positionals: readonly string[],
): void {
  if (positionals.length > 1) {
    throw new UsageError(
      `unexpected argument "${positionals[1]}": a pattern file needs --patterns`,
    );
  }
  const needs = Object.keys(PATTERN_OPTIONS) as (keyof typeof PATTERN_OPTIONS)[];
  const alone = needs.find((name) => values[name] !== undefined);
  if (alone) throw new UsageError(`--${alone} needs --patterns`);
}
