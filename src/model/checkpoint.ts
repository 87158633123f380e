/**
 * A model on disk: a Hugging Face directory or a GGUF file.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import type { MInferenceError } from "../native/errors.ts";
import type { ModelConfig } from "./config.ts";
import { unsupported } from "./config.ts";
import { configFromGguf, type RopeFactors } from "./config_gguf.ts";
import { configFromHuggingFace } from "./config_hf.ts";
import {
  checkpointError,
  fileError,
  isObject,
  type JsonObject,
  readJsonIfThere,
  readRange,
  readTextIfThere,
  stat,
} from "./file.ts";
import { type GgufFile, readGguf } from "./gguf.ts";
import { locateModel } from "./locate.ts";
import { readSafetensors, readShardedSafetensors, type SafetensorsFile } from "./safetensors.ts";
import { Tokenizer } from "./tokenizer.ts";
import { tokenizerFromGguf } from "./tokenizer_gguf.ts";
import type { TensorSource } from "./weight_types.ts";
import { type WeightSpec, weightSpecs } from "./weights.ts";

/** File beside a checkpoint that holds its sparse patterns. */
export const PATTERNS_FILE = "minference-patterns.json";

/** Texts of the tokens that begin and end a text, where the checkpoint names them. */
export interface SpecialTokens {
  /** Begins a text. */
  readonly bos?: string;
  /** Ends a text. */
  readonly eos?: string;
}

/** A checkpoint whose configuration and tensors have been checked against each other. */
export interface Checkpoint {
  /** The directory or file it was opened from. */
  readonly path: string;
  /** Container of the weights. */
  readonly format: "safetensors" | "gguf";
  /** What the model calls itself, else the name of its directory. */
  readonly modelName: string;
  /** What the model is. */
  readonly config: ModelConfig;
  /** Where each weight lies, by the names of weights.ts. */
  readonly tensors: ReadonlyMap<string, TensorSource>;
  /** The file's own names of tensors that the model does not use. */
  readonly unused: readonly string[];
  /** Jinja source of the chat template. */
  readonly chatTemplate?: string;
  /** Texts of the tokens around a text, for the chat template. */
  readonly specialTokens: SpecialTokens;
  /** Path of the pattern file beside the checkpoint. */
  readonly patternsPath?: string;
  /** Reads the tokenizer: tokenizer.json, or rebuilt from GGUF metadata. */
  loadTokenizer(): Promise<Tokenizer>;
}

/** Tensors under this package's names. Every one has to be there, in its shape. */
function bindTensors(
  path: string,
  config: ModelConfig,
  container: "hf" | "gguf",
  tensors: ReadonlyMap<string, TensorSource>,
  otherTypes?: ReadonlyMap<string, string>,
): { tensors: Map<string, TensorSource>; unused: string[] } {
  const bound = new Map<string, TensorSource>();
  const used = new Set<string>();
  for (const spec of weightSpecs(config)) {
    const name = spec[container];
    const source = tensors.get(name);
    if (source === undefined) throw missingTensor(path, name, spec, otherTypes?.get(name));
    const { shape } = source;
    if (shape.length !== spec.shape.length || shape.some((n, i) => n !== spec.shape[i])) {
      throw checkpointError(
        path,
        `tensor ${name} is [${shape.join(", ")}], the configuration wants [${
          spec.shape.join(", ")
        }]`,
        { tensor: name, wanted: spec.shape, found: shape },
      );
    }
    bound.set(spec.name, source);
    used.add(name);
  }
  return { tensors: bound, unused: [...tensors.keys()].filter((name) => !used.has(name)) };
}

function missingTensor(
  path: string,
  name: string,
  spec: WeightSpec,
  otherType: string | undefined,
): MInferenceError {
  if (otherType !== undefined) {
    return unsupported(
      path,
      `tensor ${name} is of type ${otherType}; supported are F32, F16, BF16`,
      {
        tensor: name,
        dtype: otherType,
      },
    );
  }
  return checkpointError(path, `tensor ${name} [${spec.shape.join(", ")}] is missing`, {
    tensor: name,
    wanted: spec.shape,
  });
}

/** The template of tokenizer_config.json: a string, or several with names of which "default" counts. */
function chatTemplateOf(config: JsonObject | undefined): string | undefined {
  const template = config?.chat_template;
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return undefined;
  const chosen = template.find((t) => t?.name === "default") ?? template[0];
  return typeof chosen?.template === "string" ? chosen.template : undefined;
}

/** A token of tokenizer_config.json: its text, or an object that holds it. */
function tokenText(value: unknown): string | undefined {
  const text = isObject(value) ? value.content : value;
  return typeof text === "string" ? text : undefined;
}

async function tokenizerFromDirectory(
  directory: string,
  vocabSize: number,
): Promise<Tokenizer | undefined> {
  const path = join(directory, "tokenizer.json");
  const json = await readJsonIfThere(path);
  if (json === undefined) return undefined;
  const config = await readJsonIfThere(join(directory, "tokenizer_config.json"));
  return new Tokenizer({ path, json, config, vocabSize });
}

async function patternsBeside(directory: string): Promise<string | undefined> {
  const path = join(directory, PATTERNS_FILE);
  return await stat(path) === undefined ? undefined : path;
}

async function openHuggingFace(
  path: string,
  directory: string,
  weights: SafetensorsFile,
): Promise<Checkpoint> {
  const configPath = join(directory, "config.json");
  const json = await readJsonIfThere(configPath);
  if (json === undefined) throw checkpointError(directory, "no config.json");
  const generation = await readJsonIfThere(join(directory, "generation_config.json"));
  const hasOutput = weights.tensors.has("lm_head.weight");
  const config = configFromHuggingFace(configPath, json, generation, hasOutput);
  const bound = bindTensors(path, config, "hf", weights.tensors, weights.otherTypes);
  const tokenizerConfig = await readJsonIfThere(join(directory, "tokenizer_config.json"));
  const template = await readTextIfThere(join(directory, "chat_template.jinja"));
  return {
    path,
    format: "safetensors",
    modelName: typeof json._name_or_path === "string" && json._name_or_path !== ""
      ? json._name_or_path
      : basename(directory),
    config,
    ...bound,
    chatTemplate: template ?? chatTemplateOf(tokenizerConfig),
    specialTokens: {
      bos: tokenText(tokenizerConfig?.bos_token),
      eos: tokenText(tokenizerConfig?.eos_token),
    },
    patternsPath: await patternsBeside(directory),
    async loadTokenizer(): Promise<Tokenizer> {
      const tokenizer = await tokenizerFromDirectory(directory, config.vocabSize);
      if (tokenizer === undefined) throw checkpointError(directory, "no tokenizer.json");
      return tokenizer;
    },
  };
}

/** GGUF keeps the rotary divisors in tensors of some hundred bytes: the only ones read here. */
async function readRopeFactors(file: GgufFile): Promise<RopeFactors> {
  const read = async (name: string): Promise<number[] | undefined> => {
    const source = file.tensors.get(name);
    if (source === undefined) return undefined;
    const most = 1024; // half of the largest head and far more
    if (source.dtype !== "f32" || source.shape.length !== 1 || source.shape[0] > most) {
      throw checkpointError(
        file.path,
        `tensor ${name} is ${source.dtype} [${
          source.shape.join(", ")
        }], up to ${most} f32 are needed`,
        { tensor: name },
      );
    }
    const bytes = await readRange(file.path, source.offset, source.bytes);
    return Array.from(new Float32Array(bytes.buffer));
  };
  return {
    freqs: await read("rope_freqs.weight"),
    short: await read("rope_factors_short.weight"),
    long: await read("rope_factors_long.weight"),
  };
}

/** `preferFiles`: the checkpoint is a directory, so a tokenizer.json in it belongs to the model. */
async function openGguf(path: string, preferFiles: boolean): Promise<Checkpoint> {
  const file = readGguf(path);
  const config = configFromGguf(file, await readRopeFactors(file));
  const bound = bindTensors(path, config, "gguf", file.tensors);
  const directory = dirname(path);
  const template = file.metadata.get("tokenizer.chat_template");
  const name = file.metadata.get("general.name");
  const tokens = file.metadata.get("tokenizer.ggml.tokens");
  const token = (id: unknown): string | undefined =>
    Array.isArray(tokens) && typeof id === "number" ? tokens[id] : undefined;
  return {
    path,
    format: "gguf",
    modelName: typeof name === "string" && name !== "" ? name : basename(path, ".gguf"),
    config,
    ...bound,
    chatTemplate: typeof template === "string" ? template : undefined,
    specialTokens: {
      bos: token(config.bosId),
      eos: token(file.metadata.get("tokenizer.ggml.eos_token_id")),
    },
    patternsPath: await patternsBeside(directory),
    async loadTokenizer(): Promise<Tokenizer> {
      const { vocabSize } = config;
      const beside = (): Promise<Tokenizer | undefined> =>
        tokenizerFromDirectory(directory, vocabSize);
      const preferred = preferFiles ? await beside() : undefined;
      if (preferred !== undefined) return preferred;
      try {
        return new Tokenizer(tokenizerFromGguf(file, vocabSize));
      } catch (error) {
        const fallback = preferFiles ? undefined : await beside();
        if (fallback === undefined) throw error;
        return fallback;
      }
    },
  };
}

async function openDirectory(directory: string): Promise<Checkpoint> {
  const names: string[] = [];
  try {
    for await (const entry of Deno.readDir(directory)) names.push(entry.name);
  } catch (cause) {
    throw fileError(directory, cause);
  }
  const inside = (name: string): string => join(directory, name);
  const safetensors = names.filter((name) => name.endsWith(".safetensors"));
  const ggufs = names.filter((name) => name.endsWith(".gguf"));
  const index = names.find((name) => name === "model.safetensors.index.json") ??
    names.find((name) => name.endsWith(".safetensors.index.json"));

  const single = names.includes("model.safetensors") ? "model.safetensors" : safetensors[0];
  if (single === "model.safetensors" || (index === undefined && safetensors.length === 1)) {
    return await openHuggingFace(directory, directory, readSafetensors(inside(single)));
  }
  if (index !== undefined) {
    const weights = await readShardedSafetensors(inside(index), inside);
    return await openHuggingFace(directory, directory, weights);
  }
  if (safetensors.length === 0 && ggufs.length === 1) return await openGguf(inside(ggufs[0]), true);
  const found = [...safetensors, ...ggufs].sort();
  throw checkpointError(
    directory,
    found.length === 0
      ? "no *.safetensors and no *.gguf in this directory"
      : `cannot choose among ${found.join(", ")}: name the file`,
    { found },
  );
}

/**
 * Opens a checkpoint: reads configuration and headers, no weights.
 *
 * A directory is a Hugging Face checkpoint (config.json, tokenizer.json, *.safetensors with or without an index) or holds
 * exactly one GGUF file; where it has both, the safetensors count, which are closer to the trained weights. A path of
 * a file opens that file.
 *
 * @param source A path, file URL or name (see {@linkcode locateModel}).
 * @returns The checkpoint; every tensor the model needs is there in the shape the configuration gives.
 * @throws {MInferenceError} `IO` or `PERMISSION` where files cannot be read, `CHECKPOINT` where they are incomplete,
 * corrupt or hostile, `UNSUPPORTED_MODEL` naming what is not supported.
 *
 * @example
 * ```ts ignore
 * const { config, tensors } = await openCheckpoint("models/needle-27m");
 * console.log(config.layers, tensors.get("embed.weight")?.dtype);
 * ```
 */
export async function openCheckpoint(source: string | URL): Promise<Checkpoint> {
  const path = await locateModel(source);
  if ((await stat(path))?.isDirectory) return await openDirectory(path);
  if (path.endsWith(".gguf")) return await openGguf(path, false);
  if (path.endsWith(".safetensors.index.json")) {
    const directory = dirname(path);
    const weights = await readShardedSafetensors(path, (name) => join(directory, name));
    return await openHuggingFace(path, directory, weights);
  }
  if (path.endsWith(".safetensors")) {
    return await openHuggingFace(path, dirname(path), readSafetensors(path));
  }
  throw unsupported(path, "neither a directory nor a .gguf or .safetensors file");
}
