/**
 * `minference inspect --precision`: what fp8 weights change, measured on the device.
 *
 * @module
 */
import { openDevice } from "../device/open.ts";
import { measurePrecision, type PrecisionReport } from "../inspect/precision.ts";
import { locateModel } from "../model/locate.ts";
import { engineOf, loadModel, type Model } from "../model/model.ts";
import type { WeightFormat } from "../model/parameters.ts";
import { LEAST_TOKENS } from "../search/search.ts";
import { type Options, toNumber, UsageError } from "./args.ts";
import type { Invocation } from "./command.ts";
import { count, percent, table } from "./format.ts";
import type { PATTERN_OPTIONS } from "./inspect_patterns.ts";
import { type DEVICE_OPTIONS, deviceOptions } from "./model_options.ts";
import { ProgressBar } from "./progress.ts";
import { makeSample } from "./sample.ts";

/** Options of `inspect` that concern the precision of weights. */
export const PRECISION_OPTIONS = {
  precision: {
    type: "boolean",
    help: "measure what --weights fp8 changes, on a sample (-f, --tokens; default 1k)",
  },
} as const satisfies Options;

function precisionText(
  { kinds, matrices, sample }: PrecisionReport,
  modelName: string,
  name: string,
): string {
  const rows = kinds.map(({ kind, weight, output, worst }) => [
    kind,
    percent(weight),
    percent(output),
    percent(worst.output),
    `${worst.layer}`,
  ]);
  const head = ["linear", "weights", "outputs", "worst outputs", "of layer"];
  return `${modelName}: ${matrices.length} matrices in fp8, relative error against the weights as stored
${table([head, ...rows])}
${name}, ${count(sample.tokens)} tokens: logits off by ${
    percent(sample.logits)
  }, the same top token at ` +
    `${percent(sample.topAgreement)}, KL divergence ${
      sample.klMean.toPrecision(3)
    } nats in the mean, ` +
    `${sample.klMax.toPrecision(3)} at most\n`;
}

/** Runs `minference inspect MODEL --precision`. */
export async function inspectPrecision(
  { values, positionals, output, signal }: Invocation<
    typeof PRECISION_OPTIONS & typeof PATTERN_OPTIONS & typeof DEVICE_OPTIONS
  >,
): Promise<void> {
  const stray = (["patterns", "html", "heads"] as const).find((name) => values[name] !== undefined);
  if (stray) throw new UsageError(`--${stray} and --precision exclude each other`);
  if (positionals.length > 1) throw new UsageError(`unexpected argument "${positionals[1]}"`);
  const wanted = toNumber("tokens", values.tokens ?? "1k", { least: LEAST_TOKENS });
  const settings = deviceOptions(values);
  const path = await locateModel(positionals[0]);
  await using owned = new AsyncDisposableStack();
  const device = owned.use(await openDevice(settings));
  const load = async (weights: WeightFormat): Promise<Model> => {
    using bar = new ProgressBar();
    const { onProgress } = bar;
    return await loadModel(path, { device, weights, patterns: "dense", signal, onProgress });
  };
  const stored = owned.use(await load("stored"));
  const fp8 = owned.use(await load("fp8"));
  const tokens = Math.min(wanted, stored.contextLength);
  const { name, ids } = await makeSample(stored, tokens, { file: values.file, signal });
  let report: PrecisionReport;
  {
    using bar = new ProgressBar("layers");
    const { onProgress } = bar;
    report = await measurePrecision(engineOf(stored), engineOf(fp8), ids, { signal, onProgress });
  }
  const { modelName } = stored.checkpoint;
  const result = { modelName, device: device.info().name, sampleName: name, ...report };
  output.result(result, () => precisionText(report, modelName, name));
}
