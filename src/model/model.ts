/**
 * A loaded model.
 *
 * @module
 */
import type { HeadPattern } from "../attention/patterns.ts";
import type { CallOptions, Device } from "../device/device.ts";
import { openDevice } from "../device/open.ts";
import { checkChoice, checkNumber } from "../native/checks.ts";
import { MInferenceError } from "../native/errors.ts";
import { type ChatMessage, encodeChat } from "./chat.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import type { ModelConfig } from "./config.ts";
import { Decoder } from "./decoder.ts";
import { type GenerateOptions, Generation, type GenerationStats } from "./generation.ts";
import type { TokenChunk } from "./generation.ts";
import { KvCache } from "./kv_cache.ts";
import {
  isOffloaded,
  type KvDType,
  type KvPlace,
  type KvShape,
  kvShape,
  usualKvDtype,
} from "./kv_shape.ts";
import { type MemoryInputs, type MemoryPlan, planMemory } from "./memory.ts";
import {
  loadParameters,
  type ModelParameters,
  weightDtype,
  type WeightFormat,
} from "./parameters.ts";
import { choosePatterns, type PatternChoice } from "./pattern_choice.ts";
import type { OnProgress } from "./progress.ts";
import { Session } from "./session.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Options of {@linkcode loadModel}. */
export interface LoadOptions extends CallOptions {
  /** Device to load on. Default: one of its own, closed with the model. */
  device?: Device;
  /**
   * How the KV cache is stored. Default bf16 where the device computes in bf16, else f16. `fp8` takes half of
   * that: e4m3 with a scale per head and 128 tokens; a prompt's own attention is computed before its keys
   * and values are quantised.
   */
  kvDtype?: KvDType;
  /**
   * Where the KV cache is kept. Default `device`. `host` keeps it in page-locked host memory, and two layers of it on the
   * GPU: for contexts that do not fit there. A prompt is read about as fast, since layers are copied while others are
   * computed; every token generated brings the whole cache through PCIe once. The CPU backend's memory is the host's: it
   * takes the option and changes nothing.
   */
  kvPlace?: KvPlace;
  /**
   * How the matrices of the decoder layers are kept. Default as `stored`. `fp8` quantises them while they are loaded
   * (those that are quantised in the file already, again), to e4m3 with a scale per output feature: a byte each. On
   * a GPU the activations of many rows are rounded likewise, with a scale per row, and multiplied at twice the rate of
   * bf16; on the CPU they stay as they are, and nothing becomes faster.
   */
  weights?: WeightFormat;
  /**
   * Arithmetic of the linear layers. `bf16` (the default) allows operands rounded to bf16, or 8-bit blocks
   * for q8_0 weights, where that is faster; sums are f32 either way.
   */
  precision?: "f32" | "bf16";
  /** Most tokens of a session. Default the model's own limit; memory is taken as it fills. */
  contextLength?: number;
  /** Sparse patterns of the model's sessions. Default `auto`: the file beside the checkpoint, or a safe default. */
  patterns?: PatternChoice;
  /** Receives loading progress. */
  onProgress?: OnProgress;
}

/** Options of {@linkcode Model.createSession}. */
export interface SessionOptions {
  /** Most tokens it may hold. Default the model's. */
  contextLength?: number;
  /** How its KV cache is stored. Default the model's. */
  kvDtype?: KvDType;
  /** Where its KV cache is kept. Default the model's. */
  kvPlace?: KvPlace;
  /** Sparse patterns. Default the model's. */
  patterns?: PatternChoice;
}

/** What runs a model's tokens. */
export interface Engine {
  /** The bare decoder. */
  readonly decoder: Decoder;
  /** An empty KV cache of the model's shape. */
  createCache(): KvCache;
}

const engines = new WeakMap<Model, Engine>();

/** The engine of a model, for the pattern search and for logits of every position; no public interface. */
export function engineOf(model: Model): Engine {
  return engines.get(model)!;
}

/** A model on a device. Made by {@linkcode loadModel}. */
export class Model implements AsyncDisposable {
  readonly #parameters: ModelParameters;
  readonly #decoder: Decoder;
  readonly #kv: KvShape;
  readonly #ownsDevice: boolean;
  readonly #contextLength: number;
  readonly #weights: WeightFormat;
  #disposed = false;

  /** @ignore Use {@linkcode loadModel}. */
  constructor(
    /** Where it runs. */
    readonly device: Device,
    /** The files it came from. */
    readonly checkpoint: Checkpoint,
    /** Text to ids and back. */
    readonly tokenizer: Tokenizer,
    /** Patterns of its sessions, [layer][head]; null for dense attention. */
    readonly patterns: readonly (readonly HeadPattern[])[] | null,
    parts: {
      parameters: ModelParameters;
      kv: KvShape;
      precision: "f32" | "bf16";
      weights: WeightFormat;
      contextLength: number;
      ownsDevice: boolean;
    },
  ) {
    this.#parameters = parts.parameters;
    this.#kv = parts.kv;
    this.#contextLength = parts.contextLength;
    this.#weights = parts.weights;
    this.#ownsDevice = parts.ownsDevice;
    this.#decoder = new Decoder(device, checkpoint.config, parts.parameters, parts.precision);
    engines.set(this, {
      decoder: this.#decoder,
      createCache: () => new KvCache(device, parts.kv),
    });
  }

  /** What the model is. */
  get config(): ModelConfig {
    return this.checkpoint.config;
  }

  /** Most tokens of a session. */
  get contextLength(): number {
    return this.#contextLength;
  }

  #check(): void {
    if (this.#disposed) throw new MInferenceError("DISPOSED", "the model was disposed");
  }

  /** Opens a session. Sessions of a model take turns on its device. */
  async createSession(options: SessionOptions = {}): Promise<Session> {
    this.#check();
    const { contextLength = this.#contextLength, patterns } = options;
    checkContext(contextLength, this.config);
    const kv = this.#kvShape(options);
    const chosen = patterns === undefined
      ? this.patterns
      : await choosePatterns(patterns, this.checkpoint);
    return new Session({
      decoder: this.#decoder,
      tokenizer: this.tokenizer,
      cache: new KvCache(this.device, kv),
      patterns: chosen,
      contextLength,
      memory: () => this.#memory(kv, chosen),
    });
  }

  #kvShape({ kvDtype, kvPlace }: Pick<SessionOptions, "kvDtype" | "kvPlace">): KvShape {
    const { dtype, quantised, offloaded } = this.#kv;
    return cacheShape(this.config, this.device, {
      kvDtype: kvDtype ?? (quantised ? "fp8" : dtype),
      kvPlace: kvPlace ?? (offloaded ? "host" : "device"),
    });
  }

  /**
   * What a context of `tokens` would take, before taking it.
   *
   * @param tokens Tokens of the context.
   * @param options `kvDtype` and `kvPlace` as of {@linkcode SessionOptions}.
   */
  planMemory(
    tokens: number,
    options: Pick<SessionOptions, "kvDtype" | "kvPlace"> = {},
  ): MemoryPlan {
    this.#check();
    return planMemory(this.#memory(this.#kvShape(options), this.patterns), tokens);
  }

  #memory(kv: KvShape, patterns: MemoryInputs["patterns"]): MemoryInputs {
    const { freeMemory: free, hostFreeMemory: hostFree } = this.device.info();
    return {
      device: this.device,
      config: this.config,
      kv,
      patterns,
      precision: this.#decoder.precision,
      weightDtype: (name) => weightDtype(this.device, this.checkpoint, name, this.#weights),
      weights: this.#parameters.byteLength,
      free,
      hostFree,
    };
  }

  /** One-shot generation in a session of its own. */
  generate(prompt: string | Uint32Array, options: GenerateOptions = {}): Generation {
    this.#check();
    return new Generation(this.#oneShot(prompt, options));
  }

  async *#oneShot(
    prompt: string | Uint32Array,
    options: GenerateOptions,
  ): AsyncGenerator<TokenChunk, GenerationStats> {
    await using session = await this.createSession();
    const generation = session.generate(prompt, options);
    yield* generation;
    return await generation.stats;
  }

  /**
   * One-shot answer to a conversation, with the checkpoint's own chat template. The generation fails with
   * `UNSUPPORTED_MODEL` if the checkpoint has no template.
   */
  chat(messages: readonly ChatMessage[], options: GenerateOptions = {}): Generation {
    this.#check();
    return new Generation(this.#answer(messages, options));
  }

  async *#answer(
    messages: readonly ChatMessage[],
    options: GenerateOptions,
  ): AsyncGenerator<TokenChunk, GenerationStats> {
    const { signal, onProgress } = options;
    const started = performance.now();
    const prompt = await encodeChat(this.checkpoint, this.tokenizer, messages, {
      signal,
      onProgress,
    });
    const encodeMs = performance.now() - started;
    const stats = yield* this.#oneShot(prompt, options);
    return { ...stats, ttftMs: stats.ttftMs + encodeMs };
  }

  /** Frees the weights (and the device, if the model opened it). Sessions must be disposed before. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.device.exclusive(() => {
      this.#decoder[Symbol.dispose]();
      this.#parameters[Symbol.dispose]();
      return Promise.resolve();
    });
    if (this.#ownsDevice) await this.device.dispose();
  }

  /** Same as {@linkcode Model.dispose}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** Checks a number of tokens to hold. */
function checkContext(contextLength: number, { maxPositions }: ModelConfig): void {
  checkNumber("contextLength", contextLength, { least: 1 });
  if (contextLength <= maxPositions) return;
  throw new MInferenceError(
    "CONTEXT_OVERFLOW",
    `a context of ${contextLength} exceeds the model's ${maxPositions} positions`,
    { details: { contextLength, maxPositions } },
  );
}

/** The shape of a cache on this device. */
function cacheShape(
  config: ModelConfig,
  device: Device,
  { kvDtype, kvPlace = "device" }: Pick<SessionOptions, "kvDtype" | "kvPlace">,
): KvShape {
  const usual = usualKvDtype(device);
  return kvShape(config, kvDtype ?? usual, usual, isOffloaded(device, kvPlace));
}

/**
 * Loads a model.
 *
 * @param source A Hugging Face directory (config.json, tokenizer.json, safetensors) or a GGUF file.
 * @param options Device, cache type, patterns, progress.
 * @throws {MInferenceError} `CHECKPOINT` for missing or damaged files, `UNSUPPORTED_MODEL` naming what is not
 * supported, `OUT_OF_MEMORY`; `signal.reason` on abort. Nothing stays allocated.
 *
 * @example
 * ```ts ignore
 * await using model = await loadModel("models/needle-27m");
 * for await (const { text } of model.generate("The pass key is", { maxTokens: 8 })) console.log(text);
 * ```
 */
export async function loadModel(source: string | URL, options: LoadOptions = {}): Promise<Model> {
  const { signal, weights = "stored" } = options;
  checkChoice("weights", weights, ["stored", "fp8"]);
  checkChoice("precision", options.precision ?? "bf16", ["f32", "bf16"]);
  const checkpoint = await openCheckpoint(source);
  const { config } = checkpoint;
  const contextLength = options.contextLength ?? config.maxPositions;
  checkContext(contextLength, config);
  const patterns = await choosePatterns(options.patterns ?? "auto", checkpoint, { signal });
  const tokenizer = await checkpoint.loadTokenizer();
  signal?.throwIfAborted();
  const device = options.device ?? await openDevice();
  const ownsDevice = options.device === undefined;
  try {
    const kv = cacheShape(config, device, options); // what it refuses is refused before the weights are read
    const parameters = await loadParameters(device, checkpoint, options);
    return new Model(device, checkpoint, tokenizer, patterns, {
      parameters,
      kv,
      precision: options.precision ?? "bf16",
      weights,
      contextLength,
      ownsDevice,
    });
  } catch (error) {
    if (ownsDevice) await device.dispose();
    throw error;
  }
}
