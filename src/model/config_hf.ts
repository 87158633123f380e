/**
 * ModelConfig from a Hugging Face config.json.
 *
 * @module
 */
import { HF_ARCHITECTURES, type ModelConfig, unsupported, validateConfig } from "./config.ts";
import { Fields } from "./config_fields.ts";
import { isObject, type JsonObject } from "./file.ts";
import { longropeAttentionFactor, type RopeScaling, yarnAttentionFactor } from "./rope.ts";

type Architecture = (typeof HF_ARCHITECTURES)[number];

/**
 * What an architecture does when its config.json does not say, and what it always does. The defaults are those of
 * transformers' configuration classes, which leave them out of the file.
 */
interface Traits {
  /** Default of `head_dim`, where it is not hidden_size / heads. */
  readonly headDim?: number;
  /** Query, key and value biases: always, never, or as `attention_bias` says. */
  readonly qkvBias: boolean | "config";
  /** Output bias: never, or as `attention_bias` says. */
  readonly outBias: false | "config";
  /** Feed-forward biases: never, or as `mlp_bias` says. */
  readonly mlpBias: false | "config";
  /** Default of `partial_rotary_factor`. */
  readonly partialRotary: number;
  /** Default of `rms_norm_eps`. */
  readonly normEps: number;
  /** Default of `sliding_window`; it applies where the file leaves it out. */
  readonly slidingWindow?: number;
  readonly interleaved?: boolean;
  readonly qkNorm?: boolean;
  readonly fusedQkv?: boolean;
  readonly fusedGateUp?: boolean;
  readonly postNorms?: boolean;
}

const PLAIN: Traits = {
  qkvBias: false,
  outBias: false,
  mlpBias: false,
  partialRotary: 1,
  normEps: 1e-6,
};

const GLM: Traits = {
  ...PLAIN,
  headDim: 128,
  qkvBias: "config",
  partialRotary: 0.5,
  normEps: 1.5625e-7,
  interleaved: true,
  fusedGateUp: true,
};

const TRAITS: Readonly<Record<Architecture, Traits>> = {
  llama: { ...PLAIN, qkvBias: "config", outBias: "config", mlpBias: "config" },
  mistral: { ...PLAIN, slidingWindow: 4096 },
  qwen2: { ...PLAIN, qkvBias: true },
  qwen3: { ...PLAIN, headDim: 128, qkvBias: "config", outBias: "config", qkNorm: true },
  phi3: { ...PLAIN, normEps: 1e-5, fusedQkv: true, fusedGateUp: true },
  glm: GLM,
  glm4: { ...GLM, postNorms: true },
};

function ropeScaling(path: string, root: Fields, rope: Fields, maxPositions: number): RopeScaling {
  const kind = rope.text("rope_type", rope.text("type", "default"));
  // Phi-3 writes the trained length beside rope_scaling, the others inside it.
  const original = rope.has("original_max_position_embeddings")
    ? rope.size("original_max_position_embeddings")
    : root.size("original_max_position_embeddings", maxPositions);
  switch (kind) {
    case "default":
      return { kind: "none" };
    case "linear":
      return { kind: "linear", factor: rope.number("factor") };
    case "dynamic":
      return { kind: "dynamic", factor: rope.number("factor"), originalPositions: original };
    case "llama3":
      return {
        kind: "llama3",
        factor: rope.number("factor"),
        lowFreqFactor: rope.number("low_freq_factor"),
        highFreqFactor: rope.number("high_freq_factor"),
        originalPositions: rope.size("original_max_position_embeddings"),
      };
    case "yarn": {
      const factor = rope.number("factor", maxPositions / original);
      const all = rope.number("mscale_all_dim", 0);
      const usual = all > 0 && rope.has("mscale")
        ? yarnAttentionFactor(factor, rope.number("mscale")) / yarnAttentionFactor(factor, all)
        : yarnAttentionFactor(factor);
      return {
        kind: "yarn",
        factor,
        betaFast: rope.number("beta_fast", 32),
        betaSlow: rope.number("beta_slow", 1),
        originalPositions: original,
        attentionFactor: rope.number("attention_factor", usual),
      };
    }
    case "su":
    case "longrope": {
      const factor = root.has("original_max_position_embeddings") || !rope.has("factor")
        ? maxPositions / original
        : rope.number("factor");
      return {
        kind: "longrope",
        shortFactors: rope.numbers("short_factor"),
        longFactors: rope.numbers("long_factor"),
        originalPositions: original,
        attentionFactor: rope.number(
          "attention_factor",
          longropeAttentionFactor(factor, original),
        ),
      };
    }
    default:
      throw unsupported(
        path,
        `rope scaling "${kind}"; supported are default, linear, dynamic, llama3, yarn, longrope`,
        { ropeType: kind },
      );
  }
}

/** Refuses models some of whose layers see fewer keys than the context holds. */
function checkSlidingWindow(
  path: string,
  architecture: Architecture,
  config: JsonObject,
  fields: Fields,
  maxPositions: number,
): void {
  if (config.use_sliding_window === false) return;
  // Qwen slides only where it says so, and only from layer max_window_layers on.
  if (architecture.startsWith("qwen")) {
    if (!fields.flag("use_sliding_window", false)) return;
    if (fields.number("max_window_layers", 28) >= fields.size("num_hidden_layers")) return;
  }
  // null means none; absent means the architecture's default.
  const window = config.sliding_window === undefined
    ? TRAITS[architecture].slidingWindow
    : config.sliding_window;
  if (typeof window === "number" && window < maxPositions) {
    throw unsupported(
      path,
      `sliding-window attention of ${window} tokens in a context of ${maxPositions}: every layer ` +
        "has to see the whole context",
      { slidingWindow: window, maxPositions },
    );
  }
}

function checkArchitecture(path: string, fields: Fields): Architecture {
  const type = fields.text("model_type");
  if (!(HF_ARCHITECTURES as readonly string[]).includes(type)) {
    throw unsupported(
      path,
      `model type "${type}"; supported are ${HF_ARCHITECTURES.join(", ")}`,
      { architecture: type, supported: HF_ARCHITECTURES },
    );
  }
  const quantization = fields.raw("quantization_config");
  if (quantization !== undefined) {
    const method = isObject(quantization) ? quantization.quant_method : quantization;
    throw unsupported(
      path,
      `weights quantised by ${
        JSON.stringify(method)
      }; supported are f32, f16 and bf16 safetensors, or GGUF`,
      { quantization: method },
    );
  }
  const activation = fields.text("hidden_act", fields.text("hidden_activation", "silu"));
  if (activation !== "silu" && activation !== "swish") {
    throw unsupported(path, `activation "${activation}"; supported is silu`, { activation });
  }
  return type as Architecture;
}

/**
 * Reads a Hugging Face configuration.
 *
 * @param path The config.json, for errors.
 * @param config Its contents.
 * @param generation Contents of generation_config.json, if there is one: its end tokens count too.
 * @param hasOutputProjection Whether the weights hold `lm_head.weight`; decides about tying where the file is silent.
 * @returns The checked configuration.
 * @throws {MInferenceError} `UNSUPPORTED_MODEL` or `CHECKPOINT`.
 */
export function configFromHuggingFace(
  path: string,
  config: JsonObject,
  generation: JsonObject | undefined,
  hasOutputProjection: boolean,
): ModelConfig {
  const fields = new Fields(path, (name) => config[name]);
  const architecture = checkArchitecture(path, fields);
  const traits = TRAITS[architecture];

  const hiddenSize = fields.size("hidden_size");
  const heads = fields.sizeOfLayers("num_attention_heads");
  const headDim = fields.size("head_dim", traits.headDim ?? Math.floor(hiddenSize / heads));
  const maxPositions = fields.size("max_position_embeddings");
  checkSlidingWindow(path, architecture, config, fields, maxPositions);

  // transformers 5 writes rope_parameters, which also holds theta; 4 writes rope_scaling.
  const ropeObject = config.rope_parameters ?? config.rope_scaling ?? {};
  if (!isObject(ropeObject)) throw unsupported(path, "rope_scaling is not an object");
  const rope = new Fields(path, (name) => ropeObject[name]);
  const scaling = ropeScaling(path, fields, rope, maxPositions);
  const partial = rope.number(
    "partial_rotary_factor",
    fields.number("partial_rotary_factor", traits.partialRotary),
  );

  const attentionBias = fields.flag("attention_bias", false);
  const mlpBias = fields.flag("mlp_bias", false);
  const choose = (trait: boolean | "config", value: boolean): boolean =>
    trait === "config" ? value : trait;
  const eos = new Fields(path, (name) => generation?.[name]).ids("eos_token_id");
  const [bosId] = fields.ids("bos_token_id");

  return validateConfig(path, {
    architecture,
    hiddenSize,
    layers: fields.size("num_hidden_layers"),
    heads,
    kvHeads: fields.sizeOfLayers("num_key_value_heads", heads),
    headDim,
    intermediateSize: fields.size("intermediate_size"),
    vocabSize: fields.size("vocab_size"),
    normEps: fields.number("rms_norm_eps", traits.normEps),
    tieEmbeddings: fields.flag("tie_word_embeddings", !hasOutputProjection),
    rope: {
      theta: rope.number("rope_theta", fields.number("rope_theta", 10000)),
      rotaryDim: Math.floor(headDim * partial),
      interleaved: traits.interleaved ?? false,
      scaling,
    },
    qkvBias: choose(traits.qkvBias, attentionBias),
    outBias: choose(traits.outBias, attentionBias),
    mlpBias: choose(traits.mlpBias, mlpBias),
    qkNorm: traits.qkNorm ?? false,
    fusedQkv: traits.fusedQkv ?? false,
    fusedGateUp: traits.fusedGateUp ?? false,
    postNorms: traits.postNorms ?? false,
    // YaRN models are published with the trained length and reach factor times as far.
    maxPositions: scaling.kind === "yarn"
      ? Math.max(maxPositions, Math.round(scaling.factor * scaling.originalPositions))
      : maxPositions,
    bosId,
    eosIds: [...new Set([...fields.ids("eos_token_id"), ...eos])],
  });
}
