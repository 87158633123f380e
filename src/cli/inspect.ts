/**
 * `minference inspect`: what a checkpoint is and what a context of it would take, or what its heads compute.
 *
 * @module
 */
import type { Planner } from "../device/device.ts";
import type { FloatDType } from "../device/dtype.ts";
import { type DeviceOptions, openDevice } from "../device/open.ts";
import { type Checkpoint, openCheckpoint } from "../model/checkpoint.ts";
import { isOffloaded, kvShape, usualKvDtype } from "../model/kv_shape.ts";
import { type MemoryInputs, type MemoryPlan, planMemory } from "../model/memory.ts";
import { weightBytes, weightDtype, type WeightFormat } from "../model/parameters.ts";
import { choosePatterns } from "../model/pattern_choice.ts";
import { MInferenceError } from "../native/errors.ts";
import { type Options, toNumbers, UsageError, type Values } from "./args.ts";
import { type Command, defineCommand } from "./command.ts";
import { bytes, count, millions, table } from "./format.ts";
import { inspectPatterns, PATTERN_OPTIONS, rejectPatternOptions } from "./inspect_patterns.ts";
import { inspectPrecision, PRECISION_OPTIONS } from "./inspect_precision.ts";
import {
  DEVICE_OPTIONS,
  deviceOptions,
  KV_OPTIONS,
  type KvSettings,
  kvSettings,
  WEIGHT_OPTIONS,
  weightFormat,
} from "./model_options.ts";
import { checkpointSize } from "./models.ts";

const OPTIONS = {
  context: {
    type: "string",
    value: "N,...",
    help: "plan memory for these lengths (default 4k,32k,128k and the model's limit)",
  },
  ...KV_OPTIONS,
  ...WEIGHT_OPTIONS,
  ...PRECISION_OPTIONS,
  ...PATTERN_OPTIONS,
  ...DEVICE_OPTIONS,
} as const satisfies Options;

/** A tensor as the file stores it. */
interface TensorRow {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly bytes: number;
}

/** Free memory to plan with. */
interface Room {
  readonly device: string;
  readonly free: number;
  readonly hostFree: number;
  readonly planner: Planner;
  /** Usual element type of a cache. */
  readonly usual: FloatDType;
}

/** Plans with the device; without the library with this machine's memory, and nothing for operations. */
async function withRoom<T>(options: DeviceOptions, body: (room: Room) => T): Promise<T> {
  try {
    await using device = await openDevice(options);
    const { name, freeMemory: free, hostFreeMemory: hostFree } = device.info();
    return body({ device: name, free, hostFree, planner: device, usual: usualKvDtype(device) });
  } catch (error) {
    if (!(error instanceof MInferenceError) || error.code !== "LIBRARY_NOT_FOUND") throw error;
    const { available } = Deno.systemMemoryInfo();
    return body({
      device: "CPU (library not built)",
      free: available,
      hostFree: available,
      planner: { kind: "cpu", plan: () => ({ workspace: 0, list: 0 }) },
      usual: "f16",
    });
  }
}

function plan(
  checkpoint: Checkpoint,
  patterns: MemoryInputs["patterns"],
  { free, hostFree, planner, usual }: Room,
  format: WeightFormat | undefined,
  { kvDtype = usual, kvPlace = "device" }: KvSettings,
  tokens: number,
): MemoryPlan {
  const { config } = checkpoint;
  const weights = weightBytes(planner, checkpoint, format);
  return planMemory({
    device: planner,
    config,
    kv: kvShape(config, kvDtype, usual, isOffloaded(planner, kvPlace)),
    patterns,
    precision: "bf16",
    weightDtype: (name) => weightDtype(planner, checkpoint, name, format),
    weights,
    free: Math.max(0, free - weights), // they are not loaded
    hostFree,
  }, tokens);
}

function configText({ config, path, modelName, format, ...rest }: Checkpoint): string {
  const { rope } = config;
  const extras = [
    config.tieEmbeddings && "tied embeddings",
    config.qkvBias && "q/k/v bias",
    config.qkNorm && "q/k norm",
    config.postNorms && "post norms",
    config.fusedQkv && "fused q/k/v",
  ].filter((text) => text !== false);
  return table([
    ["model", modelName],
    ["path", path],
    ["format", format],
    ["architecture", [config.architecture, ...extras].join(", ")],
    ["layers", `${config.layers}`],
    ["width", `${config.hiddenSize}, feed-forward ${config.intermediateSize}`],
    ["heads", `${config.heads} query, ${config.kvHeads} key-value, of ${config.headDim}`],
    ["vocabulary", count(config.vocabSize)],
    ["context", `${count(config.maxPositions)} tokens`],
    ["rope", `theta ${rope.theta}, ${rope.rotaryDim} of a head, scaling ${rope.scaling.kind}`],
    ["patterns", rest.patternsPath ?? "none beside it: the safe default"],
    ["chat template", rest.chatTemplate === undefined ? "none" : "yes"],
  ]);
}

function tensorText(rows: readonly TensorRow[], parameters: number, weights: number): string {
  const lines = rows.map((t) => [t.name, `[${t.shape.join(", ")}]`, t.dtype, bytes(t.bytes)]);
  const total = [
    `${rows.length} tensors`,
    `${millions(parameters)} parameters`,
    "",
    bytes(weights),
  ];
  return table([["tensor", "shape", "type", "size"], ...lines, total]);
}

function advice(
  { tokens, fits, fitsAsFp8, fitsOnHost, hostKvCache }: MemoryPlan,
  maxPositions: number,
): string {
  if (tokens > maxPositions) return `beyond the model's ${count(maxPositions)} positions`;
  if (fits) return hostKvCache > 0 ? `fits with ${bytes(hostKvCache)} of host memory` : "fits";
  const options = [fitsAsFp8 && "--kv fp8", fitsOnHost && "--kv-place host"]
    .filter((option) => option !== false);
  return options.length > 0 ? `fits with ${options.join(" or ")}` : "too large";
}

function planText(plans: readonly MemoryPlan[], room: Room, maxPositions: number): string {
  const lines = plans.map((p) => [
    count(p.tokens),
    bytes(p.weights),
    bytes(p.kvCache),
    bytes(p.workspace),
    bytes(p.total),
    advice(p, maxPositions),
  ]);
  const head = ["context", "weights", "KV cache", "workspace", "total", ""];
  return `${table([head, ...lines])}${room.device}: ${bytes(room.free)} free, room for ${
    count(plans[0].maxContext)
  } tokens\n`;
}

/** Options that plan memory say nothing to the other ways of inspecting. */
function rejectPlanOptions(values: Values<typeof OPTIONS>, mode: string): void {
  const names = ["context", ...Object.keys(KV_OPTIONS), ...Object.keys(WEIGHT_OPTIONS)];
  const stray = names.find((name) => values[name as keyof typeof OPTIONS] !== undefined);
  if (stray) throw new UsageError(`--${stray} and --${mode} exclude each other`);
}

/** The command. */
export const inspect: Command<typeof OPTIONS> = defineCommand({
  name: "minference inspect",
  positionals: ["MODEL", "[FILE]"],
  description:
    `Shows what a checkpoint is, its tensors, and the memory that contexts of it take. No weights are
read. Without a device the plan is made for this machine's memory.

With --patterns: what each head computes, from a pattern file (default: what the model would run
with). With --html, too: a web page of maps, of pictures of the attention on a sample, and of what
other budgets would keep there.

With --precision: loads the model twice, as stored and with fp8 weights, and shows how far each kind
of linear layer and the predictions on a sample are apart.

Examples:
  minference inspect needle-27m --context 32k,128k
  minference inspect needle-27m --precision
  minference inspect needle-27m --patterns --html patterns.html -f book.txt`,
  options: OPTIONS,
  async run(invocation): Promise<void> {
    const { values, positionals, output } = invocation;
    const sampled = values.precision ? "precision" : values.patterns ? "patterns" : undefined;
    if (sampled) rejectPlanOptions(values, sampled);
    if (values.precision) return await inspectPrecision(invocation);
    if (values.patterns) return await inspectPatterns(invocation);
    rejectPatternOptions(values, positionals);
    const device = deviceOptions(values);
    const kv = kvSettings(values);
    const kept = weightFormat(values);
    const given = values.context === undefined
      ? undefined
      : toNumbers("context", values.context, { least: 1 });
    const checkpoint = await openCheckpoint(positionals[0]);
    const { config, tensors, path, modelName, format, unused, patternsPath } = checkpoint;
    const rows: TensorRow[] = [...tensors].map(([name, { shape, dtype, bytes }]) => {
      return { name, shape, dtype, bytes };
    });
    const { parameters, bytes: weights } = checkpointSize(checkpoint);
    const patterns = await choosePatterns("auto", checkpoint);
    const usual = [4096, 32_768, 131_072].filter((n) => n < config.maxPositions);
    const lengths = given ?? [...usual, config.maxPositions];
    const { room, plans } = await withRoom(device, (room) => ({
      room,
      plans: lengths.map((tokens) => plan(checkpoint, patterns, room, kept, kv, tokens)),
    }));
    const result = {
      ...{ modelName, path, format, config, patternsPath, unused },
      chatTemplate: checkpoint.chatTemplate !== undefined,
      ...{ parameters, weightBytes: weights, tensors: rows, device: room.device, plans },
    };
    output.result(result, () =>
      [
        configText(checkpoint),
        tensorText(rows, parameters, weights),
        planText(plans, room, config.maxPositions),
      ].join("\n"));
  },
});
