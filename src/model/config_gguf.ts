/**
 * ModelConfig from GGUF metadata.
 *
 * @module
 */
import { GGUF_ARCHITECTURES, type ModelConfig, unsupported, validateConfig } from "./config.ts";
import { Fields } from "./config_fields.ts";
import type { GgufFile } from "./gguf.ts";
import { type RopeScaling, yarnAttentionFactor } from "./rope.ts";

/**
 * Architectures whose heads are rotated in pairs (2i, 2i+1). The converter permutes the query and key rows of Llama and
 * Mistral into this order; GLM's are so by design. The others keep the halves of transformers.
 */
const INTERLEAVED: ReadonlySet<string> = new Set(["llama", "chatglm", "glm4"]);

/** Control tokens that end a turn, where the metadata names only the end of the text. */
const END_OF_TURN: ReadonlySet<string> = new Set([
  "<|eot_id|>",
  "<|eom_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|end_of_text|>",
  "<|endoftext|>",
  "<|user|>",
  "<|observation|>",
]);

/** Type of a control token in `tokenizer.ggml.token_type`. */
export const CONTROL_TOKEN = 3;

/** Divisors of the rotary frequencies, which GGUF stores as small float32 tensors. */
export interface RopeFactors {
  /** `rope_freqs.weight` (Llama 3.1). */
  readonly freqs?: readonly number[];
  /** `rope_factors_short.weight` (Phi-3). */
  readonly short?: readonly number[];
  /** `rope_factors_long.weight` (Phi-3). */
  readonly long?: readonly number[];
}

function ropeScaling(
  path: string,
  fields: Fields,
  factors: RopeFactors,
  maxPositions: number,
): RopeScaling {
  if (factors.freqs !== undefined) return { kind: "factors", factors: factors.freqs };
  const original = fields.size("rope.scaling.original_context_length", maxPositions);
  if (factors.short !== undefined && factors.long !== undefined) {
    return {
      kind: "longrope",
      shortFactors: factors.short,
      longFactors: factors.long,
      originalPositions: original,
      attentionFactor: fields.number("rope.scaling.attn_factor", 1),
    };
  }
  const kind = fields.text("rope.scaling.type", "none");
  switch (kind) {
    case "none":
      return { kind: "none" };
    case "linear":
      return { kind: "linear", factor: fields.number("rope.scaling.factor") };
    case "yarn": {
      const factor = fields.number("rope.scaling.factor");
      return {
        kind: "yarn",
        factor,
        betaFast: fields.number("rope.scaling.yarn_beta_fast", 32),
        betaSlow: fields.number("rope.scaling.yarn_beta_slow", 1),
        originalPositions: original,
        attentionFactor: yarnAttentionFactor(factor) * fields.number("rope.scaling.attn_factor", 1),
      };
    }
    default:
      throw unsupported(
        path,
        `rope scaling "${kind}"; supported are none, linear, yarn, longrope`,
        {
          ropeType: kind,
        },
      );
  }
}

/** Every token that ends a generation. */
function endTokens(file: GgufFile, tokenizer: Fields): number[] {
  const ids = new Set<number>();
  for (const name of ["eos_token_id", "eot_token_id", "eom_token_id"]) {
    if (tokenizer.has(name)) ids.add(tokenizer.number(name));
  }
  const tokens = file.metadata.get("tokenizer.ggml.tokens");
  const types = file.metadata.get("tokenizer.ggml.token_type");
  if (Array.isArray(tokens) && types instanceof Int32Array) {
    types.forEach((type, id) => {
      if (type === CONTROL_TOKEN && END_OF_TURN.has(tokens[id])) ids.add(id);
    });
  }
  return [...ids];
}

/**
 * Reads a configuration from GGUF metadata. What the metadata does not say (biases, fused matrices, tying) follows from
 * the tensors that are there.
 *
 * @param file The parsed header.
 * @param factors Contents of the rotary factor tensors.
 * @returns The checked configuration.
 * @throws {MInferenceError} `UNSUPPORTED_MODEL` or `CHECKPOINT`.
 */
export function configFromGguf(file: GgufFile, factors: RopeFactors): ModelConfig {
  const { path, metadata, tensors } = file;
  const root = new Fields(path, (name) => metadata.get(name));
  const architecture = root.text("general.architecture");
  if (!(GGUF_ARCHITECTURES as readonly string[]).includes(architecture)) {
    throw unsupported(
      path,
      `architecture "${architecture}"; supported are ${GGUF_ARCHITECTURES.join(", ")}`,
      { architecture, supported: GGUF_ARCHITECTURES },
    );
  }
  if (root.number("split.count", 1) > 1) {
    throw unsupported(
      path,
      `one of ${root.number("split.count")} parts of a split GGUF; merge it with llama-gguf-split`,
      { parts: root.number("split.count") },
    );
  }
  const fields = new Fields(path, (name) => metadata.get(`${architecture}.${name}`));
  const tokenizer = new Fields(path, (name) => metadata.get(`tokenizer.ggml.${name}`));
  if (fields.number("expert_count", 0) > 0) {
    throw unsupported(path, `a mixture of ${fields.number("expert_count")} experts`);
  }

  const hiddenSize = fields.size("embedding_length");
  const heads = fields.sizeOfLayers("attention.head_count");
  const headDim = fields.size("attention.key_length", Math.floor(hiddenSize / heads));
  const valueDim = fields.size("attention.value_length", headDim);
  if (valueDim !== headDim) {
    throw unsupported(path, `heads of ${headDim} key but ${valueDim} value elements`, {
      headDim,
      valueDim,
    });
  }
  const maxPositions = fields.size("context_length");
  const window = fields.number("attention.sliding_window", 0);
  if (window > 0 && window < maxPositions) {
    throw unsupported(
      path,
      `sliding-window attention of ${window} tokens in a context of ${maxPositions}: every layer ` +
        "has to see the whole context",
      { slidingWindow: window, maxPositions },
    );
  }
  const scaling = ropeScaling(path, fields, factors, maxPositions);
  const has = (name: string): boolean => tensors.has(name);
  const [vocabSize] = tensors.get("token_embd.weight")?.shape ?? [fields.size("vocab_size")];

  return validateConfig(path, {
    architecture,
    hiddenSize,
    layers: fields.size("block_count"),
    heads,
    kvHeads: fields.sizeOfLayers("attention.head_count_kv", heads),
    headDim,
    intermediateSize: fields.sizeOfLayers("feed_forward_length"),
    vocabSize,
    normEps: fields.number("attention.layer_norm_rms_epsilon"),
    tieEmbeddings: !has("output.weight"),
    rope: {
      theta: fields.number("rope.freq_base", 10000),
      rotaryDim: fields.size("rope.dimension_count", headDim),
      interleaved: INTERLEAVED.has(architecture),
      scaling,
    },
    qkvBias: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
    outBias: has("blk.0.attn_output.bias"),
    mlpBias: has("blk.0.ffn_down.bias"),
    qkNorm: has("blk.0.attn_q_norm.weight"),
    fusedQkv: has("blk.0.attn_qkv.weight"),
    fusedGateUp: !has("blk.0.ffn_gate.weight"),
    postNorms: has("blk.0.post_ffw_norm.weight"),
    maxPositions,
    bosId: tokenizer.has("bos_token_id") ? tokenizer.number("bos_token_id") : undefined,
    eosIds: endTokens(file, tokenizer),
  });
}
