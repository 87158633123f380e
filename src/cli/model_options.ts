/**
 * The options of every command that runs a model, and what they open.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import { type DeviceOptions, openDevice } from "../device/open.ts";
import { locateModel } from "../model/locate.ts";
import { KV_DTYPES, KV_PLACES, type KvDType, type KvPlace } from "../model/kv_shape.ts";
import { loadModel, type Model } from "../model/model.ts";
import type { WeightFormat } from "../model/parameters.ts";
import type { PatternChoice } from "../model/pattern_choice.ts";
import { PUBLISHED_MODELS } from "../model/published_patterns.ts";
import { MOST_COUNT } from "../native/checks.ts";
import { type Options, toChoice, toNumber, UsageError, type Values } from "./args.ts";
import { ProgressBar } from "./progress.ts";

/** Options of commands that open a device. */
export const DEVICE_OPTIONS = {
  device: {
    type: "string",
    value: "NAME",
    help: "cpu, cuda, cuda:INDEX or auto (default: MINFERENCE_DEVICE, else auto)",
  },
  threads: { type: "string", value: "N", help: "CPU threads (default: one per core)" },
} as const satisfies Options;

/** Options of commands that hold a context or plan one. */
export const KV_OPTIONS = {
  kv: {
    type: "string",
    value: "TYPE",
    help: "keys and values as f32, f16, bf16 or fp8, which takes half of 16 bits (the default)",
  },
  "kv-place": {
    type: "string",
    value: "PLACE",
    help:
      "device (default), or host: in host memory, for contexts that a GPU cannot hold (slow to decode)",
  },
} as const satisfies Options;

/** What {@linkcode KV_OPTIONS} say. */
export interface KvSettings {
  /** How keys and values are kept. */
  readonly kvDtype?: KvDType;
  /** Where they are kept. */
  readonly kvPlace?: KvPlace;
}

/** Reads {@linkcode KV_OPTIONS}. */
export function kvSettings(values: Values<typeof KV_OPTIONS>): KvSettings {
  return {
    kvDtype: toChoice("kv", values.kv, KV_DTYPES),
    kvPlace: toChoice("kv-place", values["kv-place"], KV_PLACES),
  };
}

/** Options of commands that load weights or plan for them. */
export const WEIGHT_OPTIONS = {
  weights: {
    type: "string",
    value: "FORMAT",
    help: "stored (default) or fp8: decoder layers as e4m3 with a scale per output feature",
  },
} as const satisfies Options;

/** What {@linkcode WEIGHT_OPTIONS} say. */
export function weightFormat({ weights }: Values<typeof WEIGHT_OPTIONS>): WeightFormat | undefined {
  return toChoice("weights", weights, ["stored", "fp8"]);
}

/** Options of commands that run a model. */
export const MODEL_OPTIONS = {
  patterns: {
    type: "string",
    value: "WHICH",
    help:
      "auto (default), dense, a pattern file or its URL, upstream, or a model's id (published files)",
  },
  context: { type: "string", value: "N", help: "most tokens held (default: the model's limit)" },
  ...KV_OPTIONS,
  ...WEIGHT_OPTIONS,
  ...DEVICE_OPTIONS,
} as const satisfies Options;

/** What {@linkcode DEVICE_OPTIONS} say. */
export function deviceOptions(values: Values<typeof DEVICE_OPTIONS>): DeviceOptions {
  const threads = toNumber("threads", values.threads, { least: 1, most: 1024 });
  const { device } = values;
  if (device === undefined || device === "auto") return { kind: device, threads };
  const [, kind, index] = /^(cpu|cuda)(?::(\d+))?$/.exec(device) ?? [];
  if (!kind || (kind === "cpu" && index !== undefined)) {
    throw new UsageError(`--device is cpu, cuda, cuda:INDEX or auto; got "${device}"`);
  }
  const limits = { least: 0, most: MOST_COUNT };
  return { kind: kind as "cpu" | "cuda", index: toNumber("device", index, limits), threads };
}

/** What `--patterns` says. */
export function patternChoice(text = "auto"): PatternChoice {
  if (text === "auto" || text === "dense" || text === "upstream") return text;
  return PUBLISHED_MODELS.includes(text) ? { published: text } : { file: text };
}

/** What {@linkcode MODEL_OPTIONS} say, checked before anything is opened. */
export interface ModelSettings extends KvSettings {
  /** The device to open. */
  readonly device: DeviceOptions;
  /** Most tokens held. */
  readonly contextLength?: number;
  /** How weights are kept. */
  readonly weights?: WeightFormat;
  /** Sparse patterns. */
  readonly patterns: PatternChoice;
}

/** Reads {@linkcode MODEL_OPTIONS}. */
export function modelSettings(values: Values<typeof MODEL_OPTIONS>): ModelSettings {
  return {
    device: deviceOptions(values),
    contextLength: toNumber("context", values.context, { least: 1 }),
    ...kvSettings(values),
    weights: weightFormat(values),
    patterns: patternChoice(values.patterns),
  };
}

/** A model and its device. */
export interface Opened extends AsyncDisposable {
  /** The device. */
  readonly device: Device;
  /** The model. */
  readonly model: Model;
}

/**
 * Opens a device and loads a model on it, with a progress bar.
 *
 * @param source Path or name of the model.
 * @param settings What the options say.
 * @param options `profile` measures the time of each operation.
 */
export async function openModel(
  source: string,
  settings: ModelSettings,
  options: { profile?: boolean; signal?: AbortSignal } = {},
): Promise<Opened> {
  const path = await locateModel(source); // a wrong name shows before a device is opened
  await using owned = new AsyncDisposableStack();
  const device = owned.use(await openDevice({ ...settings.device, profile: options.profile }));
  using bar = new ProgressBar();
  const { contextLength, kvDtype, kvPlace, weights, patterns } = settings;
  const { signal } = options;
  const { onProgress } = bar;
  const model = owned.use(
    await loadModel(path, {
      ...{ device, contextLength, kvDtype, kvPlace, weights, patterns, signal, onProgress },
    }),
  );
  const opened = owned.move();
  return { device, model, [Symbol.asyncDispose]: () => opened.disposeAsync() };
}
