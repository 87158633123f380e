/**
 * `minference search-patterns`: decides each head's sparse pattern and writes the pattern file.
 *
 * @module
 */
import { LETTER_HELP, shortName } from "../inspect/describe.ts";
import { PATTERNS_FILE } from "../model/checkpoint.ts";
import { DEFAULT_OBJECTIVE, type Objective } from "../search/choose.ts";
import type { Measurement } from "../search/measure.ts";
import { countedHeads, LEAST_TOKENS, searchPatterns } from "../search/search.ts";
import { patternTable } from "../search/table.ts";
import {
  type Options,
  SHARE,
  toChoice,
  toNumber,
  toNumbers,
  UsageError,
  type Values,
} from "./args.ts";
import { type Command, defineCommand } from "./command.ts";
import { count, duration, percent, table } from "./format.ts";
import { DEVICE_OPTIONS, deviceOptions, openModel } from "./model_options.ts";
import { ProgressBar } from "./progress.ts";
import { readPrompt } from "./prompt.ts";
import { generatedSample } from "./sample.ts";
import { checkWritable, writeTextFile } from "./write_file.ts";

const OPTIONS = {
  file: { type: "string", short: "f", value: "FILE", help: "sample text (default: generated)" },
  out: {
    type: "string",
    short: "o",
    value: "FILE",
    help: `pattern file to write (default ${PATTERNS_FILE})`,
  },
  tokens: {
    type: "string",
    value: "N,...",
    help: "lengths of generated samples; a pattern must pass at all (default 30000)",
  },
  objective: {
    type: "string",
    value: "recall|error|mass",
    help: "cheapest that keeps the recall; least output error, or most mass, within the budget",
  },
  recall: {
    type: "string",
    value: "R",
    help: "least mean recall of heads before the last layer (default 0.95)",
  },
  budget: { type: "string", value: "B", help: "cost over dense for error and mass (default 0.15)" },
  space: { type: "string", value: "full|published", help: "candidates (default full)" },
  ...DEVICE_OPTIONS,
} as const satisfies Options;

function layerRow(layer: readonly Measurement[], index: number): string[] {
  const kinds = new Map<string, number>();
  for (const { pattern } of layer) {
    const name = shortName(pattern);
    kinds.set(name, (kinds.get(name) ?? 0) + 1);
  }
  const mean = (of: (m: Measurement) => number): number =>
    layer.reduce((sum, m) => sum + of(m), 0) / layer.length;
  const names = [...kinds].sort((a, b) => b[1] - a[1]).map(([name, n]) => `${n} x ${name}`);
  return [
    `${index}`,
    percent(mean((m) => m.density)),
    percent(mean((m) => m.recallMean)),
    names.join(", "),
  ];
}

/** What `--objective` and its figures say. */
function objectiveOf(values: Values<typeof OPTIONS>): Objective {
  const kind = toChoice("objective", values.objective, ["recall", "error", "mass"]) ?? "recall";
  const stray = kind === "recall" ? "budget" : "recall";
  if (values[stray] !== undefined) {
    throw new UsageError(`--${stray} says nothing to --objective ${kind}`);
  }
  if (kind !== "recall") {
    return { kind, budget: toNumber("budget", values.budget ?? "0.15", SHARE) };
  }
  const { recall } = values;
  if (recall === undefined) return DEFAULT_OBJECTIVE;
  return { ...DEFAULT_OBJECTIVE, mean: toNumber("recall", recall, SHARE) };
}

/** Lengths of generated samples, ascending. */
function lengthsOf({ file, tokens }: Values<typeof OPTIONS>): number[] {
  if (file !== undefined && tokens !== undefined) {
    throw new UsageError("--tokens is for generated samples: a text is read whole");
  }
  return toNumbers("tokens", tokens ?? "30000", { least: LEAST_TOKENS }).sort((a, b) => a - b);
}

/** The command. */
export const search: Command<typeof OPTIONS> = defineCommand({
  name: "minference search-patterns",
  positionals: ["MODEL"],
  description:
    `Runs a sample through the model, measures every candidate pattern on every head in the real
kernels (arXiv 2407.02490, algorithm 1) and writes the choice: upstream's best-pattern JSON with
this package's own patterns beside it. A file called ${PATTERNS_FILE} in the model's
folder is used by itself.

Example: minference search-patterns needle-27m -o ${PATTERNS_FILE}`,
  options: OPTIONS,
  async run({ values, positionals, output, signal }): Promise<void> {
    const objective = objectiveOf(values);
    const space = toChoice("space", values.space, ["full", "published"]) ?? "full";
    const lengths = lengthsOf(values);
    const out = values.out ?? PATTERNS_FILE;
    await checkWritable(out);
    const { file } = values;
    const text = file === undefined ? undefined : await readPrompt({ file }, signal);
    const settings = { device: deviceOptions(values), patterns: "dense" as const };
    await using opened = await openModel(positionals[0], settings, { signal });
    const { model } = opened;
    const samples = text !== undefined
      ? [await model.tokenizer.encodeAsync(text, { signal })]
      : await Promise.all(
        lengths.map((tokens, seed) => generatedSample(model, tokens, seed, signal)),
      );
    using bar = new ProgressBar("search");
    const started = performance.now();
    const { onProgress } = bar;
    const { choices } = await searchPatterns(model, samples, {
      objective,
      space,
      signal,
      onProgress,
    });
    const elapsedMs = performance.now() - started;
    await writeTextFile(out, formatTable(choices));
    const counted = choices.flat().slice(0, countedHeads(model.config));
    const mean = (of: (m: Measurement) => number): number =>
      counted.reduce((sum, m) => sum + of(m), 0) / counted.length;
    const result = {
      file: out,
      tokens: samples.map((s) => s.length),
      elapsedMs,
      density: mean((m) => m.density),
      recall: mean((m) => m.recallMean),
      layers: choices.map((layer) =>
        layer.map(({ pattern, density, recallMean }) => ({ pattern, density, recall: recallMean }))
      ),
    };
    output.result(
      result,
      () =>
        `${
          table([["layer", "density", "recall", "heads"], ...choices.map(layerRow)])
        }${LETTER_HELP}\n` +
        `${result.tokens.map(count).join(", ")} tokens searched in ${duration(elapsedMs)}; ` +
        `before the last layer, which prefill computes for one row, mean density ` +
        `${percent(result.density)}, mean recall ${percent(result.recall)}; written to ${out}\n`,
    );
  },
});

/** One line per head: readable, and a diff shows which heads changed. */
function formatTable(choices: readonly (readonly Measurement[])[]): string {
  const layers = patternTable(choices).map((layer) => {
    const lines = Object.entries(layer).map(([key, value]) => {
      if (Array.isArray(value)) return `    ${JSON.stringify(key)}: ${JSON.stringify(value)}`;
      const heads = Object.entries(value).map(([head, extension]) =>
        `      ${JSON.stringify(head)}: ${JSON.stringify(extension)}`
      );
      return `    ${JSON.stringify(key)}: {\n${heads.join(",\n")}\n    }`;
    });
    return `  {\n${lines.join(",\n")}\n  }`;
  });
  return `[\n${layers.join(",\n")}\n]\n`;
}
