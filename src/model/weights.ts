/**
 * Names and shapes of the weights: one table for both containers.
 *
 * @module
 */
import type { ModelConfig } from "./config.ts";

/** A weight that a model needs. */
export interface WeightSpec {
  /** This package's name, e.g. `embed.weight`, `layers.3.attn_q.weight`. */
  readonly name: string;
  /** Its name in safetensors of transformers. */
  readonly hf: string;
  /** Its name in GGUF. */
  readonly gguf: string;
  /** Its dimensions, outermost first: `[out, in]` for a matrix. */
  readonly shape: readonly number[];
}

/** Our name, transformers' and GGUF's, each inside its layer's prefix. */
const LAYER_NAMES = {
  attn_norm: ["input_layernorm", "attn_norm"],
  attn_q: ["self_attn.q_proj", "attn_q"],
  attn_k: ["self_attn.k_proj", "attn_k"],
  attn_v: ["self_attn.v_proj", "attn_v"],
  attn_qkv: ["self_attn.qkv_proj", "attn_qkv"],
  attn_q_norm: ["self_attn.q_norm", "attn_q_norm"],
  attn_k_norm: ["self_attn.k_norm", "attn_k_norm"],
  attn_o: ["self_attn.o_proj", "attn_output"],
  attn_post_norm: ["post_self_attn_layernorm", "post_attention_norm"],
  ffn_norm: ["post_attention_layernorm", "ffn_norm"],
  ffn_gate: ["mlp.gate_proj", "ffn_gate"],
  ffn_up: ["mlp.up_proj", "ffn_up"],
  ffn_gate_up: ["mlp.gate_up_proj", "ffn_up"],
  ffn_down: ["mlp.down_proj", "ffn_down"],
  ffn_post_norm: ["post_mlp_layernorm", "post_ffw_norm"],
} as const;

/** A weight of a layer, without `.weight` or `.bias`. */
export type LayerWeight = keyof typeof LAYER_NAMES;

/** This package's name of a layer's weight or bias. */
export function layerWeight(
  layer: number,
  weight: LayerWeight,
  part: "weight" | "bias" = "weight",
): string {
  return `layers.${layer}.${weight}.${part}`;
}

function* layerSpecs(config: ModelConfig, layer: number): Generator<WeightSpec> {
  const { hiddenSize, headDim, intermediateSize } = config;
  const qRows = config.heads * headDim;
  const kvRows = config.kvHeads * headDim;

  const spec = (weight: LayerWeight, part: "weight" | "bias", shape: number[]): WeightSpec => {
    const [hf, gguf] = LAYER_NAMES[weight];
    return {
      name: layerWeight(layer, weight, part),
      hf: `model.layers.${layer}.${hf}.${part}`,
      gguf: `blk.${layer}.${gguf}.${part}`,
      shape,
    };
  };
  const norm = (weight: LayerWeight, size: number): WeightSpec => spec(weight, "weight", [size]);
  function* matrix(
    weight: LayerWeight,
    rows: number,
    columns: number,
    bias: boolean,
  ): Generator<WeightSpec> {
    yield spec(weight, "weight", [rows, columns]);
    if (bias) yield spec(weight, "bias", [rows]);
  }

  yield norm("attn_norm", hiddenSize);
  if (config.fusedQkv) {
    yield* matrix("attn_qkv", qRows + 2 * kvRows, hiddenSize, config.qkvBias);
  } else {
    yield* matrix("attn_q", qRows, hiddenSize, config.qkvBias);
    yield* matrix("attn_k", kvRows, hiddenSize, config.qkvBias);
    yield* matrix("attn_v", kvRows, hiddenSize, config.qkvBias);
  }
  if (config.qkNorm) {
    yield norm("attn_q_norm", headDim);
    yield norm("attn_k_norm", headDim);
  }
  yield* matrix("attn_o", hiddenSize, qRows, config.outBias);
  if (config.postNorms) yield norm("attn_post_norm", hiddenSize);

  yield norm("ffn_norm", hiddenSize);
  if (config.fusedGateUp) {
    yield* matrix("ffn_gate_up", 2 * intermediateSize, hiddenSize, config.mlpBias);
  } else {
    yield* matrix("ffn_gate", intermediateSize, hiddenSize, config.mlpBias);
    yield* matrix("ffn_up", intermediateSize, hiddenSize, config.mlpBias);
  }
  yield* matrix("ffn_down", hiddenSize, intermediateSize, config.mlpBias);
  if (config.postNorms) yield norm("ffn_post_norm", hiddenSize);
}

/**
 * Lists every weight of a model in the order a forward pass uses them. `lm_head.weight` is absent where the embedding
 * takes its place (`config.tieEmbeddings`).
 *
 * @param config The model.
 * @returns The weights, one by one: a checkpoint that claims 2^31 layers is refused at the first missing tensor.
 */
export function* weightSpecs(config: ModelConfig): Generator<WeightSpec> {
  const { hiddenSize, vocabSize } = config;
  yield {
    name: "embed.weight",
    hf: "model.embed_tokens.weight",
    gguf: "token_embd.weight",
    shape: [vocabSize, hiddenSize],
  };
  for (let layer = 0; layer < config.layers; layer++) yield* layerSpecs(config, layer);
  yield {
    name: "norm.weight",
    hf: "model.norm.weight",
    gguf: "output_norm.weight",
    shape: [hiddenSize],
  };
  if (!config.tieEmbeddings) {
    yield {
      name: "lm_head.weight",
      hf: "lm_head.weight",
      gguf: "output.weight",
      shape: [vocabSize, hiddenSize],
    };
  }
}
