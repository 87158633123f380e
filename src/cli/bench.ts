/**
 * `minference bench`: dense against sparse prefill at several lengths.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import type { CallOptions } from "../device/device.ts";
import type { Model } from "../model/model.ts";
import type { PatternChoice } from "../model/pattern_choice.ts";
import { type Options, toNumber, toNumbers, UsageError } from "./args.ts";
import { type Command, defineCommand } from "./command.ts";
import { count, duration, median, percent, table, times } from "./format.ts";
import { MODEL_OPTIONS, modelSettings, openModel } from "./model_options.ts";
import { ProgressBar } from "./progress.ts";
import { readPrompt } from "./prompt.ts";

const OPTIONS = {
  lengths: { type: "string", value: "N,...", help: "prompt lengths in tokens (default 1k,4k,16k)" },
  repeat: { type: "string", value: "N", help: "runs of each; medians are shown (default 3)" },
  file: { type: "string", short: "f", value: "FILE", help: "text (default: the checkout's novel)" },
  ...MODEL_OPTIONS,
} as const satisfies Options;

/** Figures of one length. */
interface Row {
  readonly tokens: number;
  readonly denseMs: number;
  readonly sparseMs: number;
  readonly speedup: number;
  readonly density: number;
}

async function timePrefill(
  model: Model,
  patterns: PatternChoice,
  prompt: Uint32Array,
  label: string,
  { signal }: CallOptions,
): Promise<{ ms: number; density: number }> {
  await using session = await model.createSession({ patterns });
  using bar = new ProgressBar(label);
  return await session.prefill(prompt, { signal, onProgress: bar.onProgress });
}

/** Medians over `repeat` rounds, dense and sparse by turns so that a slower moment hits both. */
async function benchLength(
  model: Model,
  patterns: PatternChoice,
  prompt: Uint32Array,
  repeat: number,
  options: CallOptions,
): Promise<Row> {
  const dense: number[] = [];
  const sparse: number[] = [];
  let density = 1;
  for (let round = 0; round < repeat; round++) {
    const label = (name: string): string =>
      `${count(prompt.length)} tokens, ${name} ${round + 1} of ${repeat}`;
    dense.push((await timePrefill(model, "dense", prompt, label("dense"), options)).ms);
    const run = await timePrefill(model, patterns, prompt, label("sparse"), options);
    sparse.push(run.ms);
    density = run.density;
  }
  const [denseMs, sparseMs] = [median(dense), median(sparse)];
  return { tokens: prompt.length, denseMs, sparseMs, speedup: denseMs / sparseMs, density };
}

async function readText(file: string | undefined, signal: AbortSignal): Promise<string> {
  if (file !== undefined) return await readPrompt({ file }, signal);
  const novel = new URL("../../models/needle-27m/haystack.txt", import.meta.url);
  if (novel.protocol === "file:") return await readPrompt({ file: fileURLToPath(novel) }, signal);
  throw new UsageError("no text: give -f FILE");
}

/** The command. */
export const bench: Command<typeof OPTIONS> = defineCommand({
  name: "minference bench",
  positionals: ["MODEL"],
  description:
    `Reads the beginning of a text at several lengths, densely and sparsely by turns, and shows the
medians. A text too short for a length is repeated.

Example: minference bench needle-27m --lengths 2k,8k,28k --repeat 5`,
  options: OPTIONS,
  async run({ values, positionals, output, signal }): Promise<void> {
    const settings = modelSettings(values);
    const lengths = toNumbers("lengths", values.lengths ?? "1k,4k,16k", { least: 1 });
    const repeat = toNumber("repeat", values.repeat ?? "3", { least: 1 });
    const text = await readText(values.file, signal);
    await using opened = await openModel(positionals[0], settings, { signal });
    const { model, device } = opened;
    const longest = Math.max(...lengths);
    if (longest > model.contextLength) {
      throw new UsageError(
        `--lengths goes to ${longest} tokens, the context is ${model.contextLength}`,
      );
    }
    const ids = await model.tokenizer.encodeAsync(text, { signal });
    if (ids.length === 0) throw new UsageError("the text has no tokens");
    const rows: Row[] = [];
    for (const length of lengths) {
      const prompt = Uint32Array.from({ length }, (_, i) => ids[i % ids.length]);
      rows.push(await benchLength(model, settings.patterns, prompt, repeat, { signal }));
    }
    const { name, units, path } = device.info();
    const result = {
      model: model.checkpoint.modelName,
      device: { name, units, path },
      repeat,
      rows,
    };
    output.result(result, () =>
      table([
        ["tokens", "dense", "sparse", "speed-up", "density"],
        ...rows.map((row) => [
          count(row.tokens),
          duration(row.denseMs),
          duration(row.sparseMs),
          times(row.speedup),
          percent(row.density),
        ]),
      ]));
  },
});
