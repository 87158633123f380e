/**
 * `minference inspect --patterns --html`: runs a sample through the model and writes the page.
 *
 * @module
 */
import { basename } from "node:path";
import type { ChosenHead } from "../inspect/choose_heads.ts";
import { bundlePage, makePage } from "../inspect/html.ts";
import type { PageData, SampleReport } from "../inspect/page_data.ts";
import type { PatternReport } from "../inspect/patterns.ts";
import { measureSample } from "../inspect/sample.ts";
import { LEAST_TOKENS } from "../search/search.ts";
import { toNumber, UsageError } from "./args.ts";
import type { Invocation } from "./command.ts";
import { count } from "./format.ts";
import type { PATTERN_OPTIONS } from "./inspect_patterns.ts";
import { type DEVICE_OPTIONS, deviceOptions, openModel } from "./model_options.ts";
import { ProgressBar } from "./progress.ts";
import { makeSample } from "./sample.ts";
import { checkWritable, writeTextFile } from "./write_file.ts";

/** `3:0,7:5` as layers and heads of the model. */
function parseHeads(text: string, { layers }: PatternReport): ChosenHead[] {
  return text.split(",").map((part) => {
    const [, layer, head] = /^\s*(\d{1,6}):(\d{1,6})\s*$/.exec(part)?.map(Number) ?? [];
    if (layer < layers.length && head < layers[0].length) return { layer, head, reason: "" };
    throw new UsageError(
      `--heads needs LAYER:HEAD,... up to ${layers.length - 1}:${
        layers[0].length - 1
      }, got "${part}"`,
    );
  });
}

/**
 * Writes the page.
 *
 * @param invocation Of `inspect`, with `--html`.
 * @param report The patterns.
 * @returns What was measured on the sample.
 */
export async function writePage(
  { values, positionals, output, signal }: Invocation<
    typeof PATTERN_OPTIONS & typeof DEVICE_OPTIONS
  >,
  report: PatternReport,
): Promise<SampleReport> {
  const path = values.html!;
  await checkWritable(path);
  const wanted = toNumber("tokens", values.tokens ?? "4k", { least: LEAST_TOKENS });
  const heads = values.heads === undefined ? undefined : parseHeads(values.heads, report);
  const settings = { device: deviceOptions(values), patterns: "dense" as const };
  const assets = await bundlePage(); // fetches its packages, if that can be done, before the long part
  await using opened = await openModel(positionals[0], settings, { signal });
  const { model } = opened;
  const { modelName } = model.checkpoint;
  const tokens = Math.min(wanted, model.contextLength);
  const { name, ids } = await makeSample(model, tokens, { file: values.file, signal });
  let sample: SampleReport;
  {
    using bar = new ProgressBar("sample");
    const { onProgress } = bar;
    sample = await measureSample(model, name, ids, report.layers, { heads, signal, onProgress });
  }
  const file = report.file === null ? null : basename(report.file);
  const data: PageData = { modelName, file, layers: report.layers, sample };
  await writeTextFile(path, makePage(data, assets));
  output.note(`${path} shows the patterns and ${count(ids.length)} tokens: ${name}`);
  return sample;
}
