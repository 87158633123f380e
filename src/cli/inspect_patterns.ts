/**
 * `minference inspect --patterns`: what each head of a model computes, as a table and as a page.
 *
 * @module
 */
import { LETTER_HELP, METHOD_NAMES, shortName } from "../inspect/describe.ts";
import { atEqualRecall } from "../inspect/equal_recall.ts";
import type { SampleReport } from "../inspect/page_data.ts";
import { meanFigure, type PatternReport, readPatternReport } from "../inspect/patterns.ts";
import { openCheckpoint } from "../model/checkpoint.ts";
import { type Options, UsageError, type Values } from "./args.ts";
import type { Invocation } from "./command.ts";
import { count, percent, table } from "./format.ts";
import type { DEVICE_OPTIONS } from "./model_options.ts";

/** Options of `inspect` that concern patterns. */
export const PATTERN_OPTIONS = {
  patterns: {
    type: "boolean",
    help: "show each head's pattern: FILE's, or those it would run with",
  },
  html: { type: "string", value: "OUT", help: "run a sample and write a web page of the patterns" },
  file: { type: "string", short: "f", value: "TEXT", help: "sample's text (default: generated)" },
  tokens: { type: "string", value: "N", help: "tokens of the sample at most (default 4k)" },
  heads: { type: "string", value: "L:H,...", help: "heads shown as pictures (default: a choice)" },
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

/** What the patterns compute on the sample, and what every other way takes to keep as much. */
function sampleText(sample: SampleReport): string {
  const density = meanFigure(sample.layers, "density")!;
  const recall = meanFigure(sample.layers, "recall")!;
  const rows = atEqualRecall(sample).map(({ method, density: other }) => [
    method === "oracle" ? "oracle" : METHOD_NAMES[method],
    figure(other),
    other === undefined ? "-" : `${(density / other).toFixed(2)}x`,
  ]);
  return `\n${sample.name}, ${count(sample.tokens)} tokens: density ${percent(density)}, ` +
    `recall ${percent(recall)}. As much for all heads alike takes\n` +
    table([["", "density", "ours"], ...rows]);
}

/** The measurements alone: pictures are for the page. */
function withoutPictures(
  { thumbnails: _, ...measured }: SampleReport,
): Omit<SampleReport, "thumbnails"> {
  return measured;
}

/** Runs `minference inspect MODEL [FILE] --patterns`. */
export async function inspectPatterns(
  invocation: Invocation<typeof PATTERN_OPTIONS & typeof DEVICE_OPTIONS>,
): Promise<void> {
  const { values, positionals, output } = invocation;
  if (values.html === undefined) {
    const stray = (["file", "tokens", "heads"] as const).find((name) => values[name] !== undefined);
    if (stray) throw new UsageError(`--${stray} needs --html`);
  }
  const [source, file] = positionals;
  const checkpoint = await openCheckpoint(source);
  const { modelName } = checkpoint;
  const report = await readPatternReport(checkpoint, file);
  let sample: SampleReport | undefined;
  if (values.html !== undefined) {
    const { writePage } = await import("./inspect_page.ts"); // the table needs neither model nor bundler
    sample = await writePage(invocation, report);
  }
  const measured = sample && { ...withoutPictures(sample), equalRecall: atEqualRecall(sample) };
  const result = { modelName, ...report, sample: measured };
  output.result(result, () => patternsText(report, modelName) + (sample ? sampleText(sample) : ""));
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
