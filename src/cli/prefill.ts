/**
 * `minference prefill`: measures one prompt, against dense attention if wanted.
 *
 * @module
 */
import type { GuardOption } from "../attention/guard.ts";
import type { PatternChoice } from "../model/pattern_choice.ts";
import { type Options, toChoice, toNumber } from "./args.ts";
import { type Command, defineCommand } from "./command.ts";
import { densityByGroup, densityTable, type LayerDensity } from "./density.ts";
import { bytes, count, duration, percent, rate, table, times } from "./format.ts";
import { GUARD_OPTIONS, guardNote, guardOf } from "./guard.ts";
import { type Measured, measurePrompt } from "./measure.ts";
import { MODEL_OPTIONS, modelSettings, type Opened, openModel } from "./model_options.ts";
import { ProgressBar } from "./progress.ts";
import { PROMPT_OPTIONS, readPrompt } from "./prompt.ts";

const OPTIONS = {
  ...PROMPT_OPTIONS,
  compare: { type: "string", value: "dense", help: "measure dense attention in the same run" },
  "max-tokens": { type: "string", value: "N", help: "tokens of the answer (default 16)" },
  ...GUARD_OPTIONS,
  ...MODEL_OPTIONS,
} as const satisfies Options;

/** One variant's figures as they are printed. */
interface Variant extends Measured {
  readonly name: string;
}

/** Everything `--json` prints. */
interface Report {
  readonly model: string;
  readonly device: { readonly name: string; readonly units: number; readonly path: string };
  readonly tokens: number;
  /** Time to turn the text into tokens, not part of the times to first token. */
  readonly tokenizeMs: number;
  /** Most bytes in device memory up to the end of the first variant: weights, cache, workspace. */
  readonly peakBytes: number;
  readonly variants: readonly Variant[];
  readonly layers: readonly LayerDensity[];
  /** Time to first token of dense attention over that of the first variant. */
  readonly speedup?: number;
  readonly sameAnswer?: boolean;
}

async function measureVariant(
  { model }: Opened,
  name: string,
  patterns: PatternChoice,
  prompt: Uint32Array,
  options: { maxTokens: number; guard: GuardOption; signal: AbortSignal },
): Promise<Variant> {
  await using session = await model.createSession({ patterns });
  using bar = new ProgressBar(name);
  const { onProgress } = bar;
  return { name, ...await measurePrompt(session, prompt, { ...options, onProgress }) };
}

/** What runs first would pay for what is done once. */
async function warmUp({ model }: Opened, prompt: Uint32Array, signal: AbortSignal): Promise<void> {
  await using session = await model.createSession({ patterns: "dense" });
  await measurePrompt(session, prompt.subarray(0, 256), { maxTokens: 2, signal });
}

function reportText(report: Report): string {
  const { variants, device } = report;
  const column = (of: (v: Variant) => string): string[] => variants.map(of);
  const share = (of: (v: Variant) => number): string[] =>
    column((v) => `${duration(of(v))} (${percent(of(v) / v.prefillMs)})`);
  const figures = table([
    ["", ...column((v) => v.name)],
    ["time to first token", ...column((v) => duration(v.ttftMs))],
    ["prefill", ...column((v) => rate(v.tokensPerSecond))],
    ["density", ...column((v) => percent(v.density))],
    ["  index", ...share((v) => v.split.index)],
    ["  attention", ...share((v) => v.split.attention)],
    ["  linear", ...share((v) => v.split.linear)],
    ["  other", ...share((v) => v.split.other)],
  ]);
  const lines = [
    `${report.model} on ${device.name} (${device.units} threads or multiprocessors, ${device.path})`,
    `${count(report.tokens)} tokens, tokenized in ${duration(report.tokenizeMs)}; ` +
    `${bytes(report.peakBytes)} of memory at most`,
    "",
    figures,
    ...variants.map((v) => `${v.name} answers ${JSON.stringify(v.answer)}`),
    ...variants.filter((v) => v.guarded > 0).map((v) => `${v.name}: ${guardNote(v.guarded)}`),
    "",
  ];
  if (report.speedup !== undefined) {
    const agreement = report.sameAnswer ? "the same answer" : "DIFFERENT answers";
    const { speedup } = report;
    const ratio = speedup < 1 ? `${times(1 / speedup)} slower` : `${times(speedup)} faster`;
    lines.push(`${ratio} to the first token, ${agreement}`, "");
  }
  lines.push("Density by layer and head group", densityTable(report.layers));
  return lines.join("\n");
}

/** The command. */
export const prefill: Command<typeof OPTIONS> = defineCommand({
  name: "minference prefill",
  positionals: ["MODEL"],
  description:
    `Reads one prompt and tells the time to the first token, the realised density of every layer,
where the time went and the most memory taken; with --compare dense, dense attention in the
same run and whether the answers agree.

Example: minference prefill needle-27m -f book.txt -p "Question?" --compare dense`,
  options: OPTIONS,
  async run({ values, positionals, output, signal }): Promise<void> {
    const settings = modelSettings(values);
    const maxTokens = toNumber("max-tokens", values["max-tokens"] ?? "16", { least: 1 });
    const guard = guardOf(values);
    const compare = toChoice("compare", values.compare, ["dense"]);
    const text = await readPrompt(values, signal);
    await using opened = await openModel(positionals[0], settings, { profile: true, signal });
    const { model, device } = opened;
    const started = performance.now();
    const prompt = await model.tokenizer.encodeAsync(text, { signal });
    const tokenizeMs = performance.now() - started;

    const options = { maxTokens, guard, signal };
    if (compare) await warmUp(opened, prompt, signal);
    const name = values.patterns ?? "auto";
    const first = await measureVariant(opened, name, settings.patterns, prompt, options);
    const { peak, ...info } = device.info();
    const dense = compare && await measureVariant(opened, "dense", "dense", prompt, options);
    const { heads, kvHeads } = model.config;
    const report: Report = {
      model: model.checkpoint.modelName,
      device: { name: info.name, units: info.units, path: info.path },
      tokens: prompt.length,
      tokenizeMs,
      peakBytes: peak,
      variants: dense ? [first, dense] : [first],
      layers: densityByGroup(first.heads, heads, kvHeads),
      ...(dense && {
        speedup: dense.ttftMs / first.ttftMs,
        sameAnswer: dense.answer === first.answer,
      }),
    };
    output.result(report, () => reportText(report));
  },
});
