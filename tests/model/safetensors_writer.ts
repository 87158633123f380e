// Writes safetensors files and the parts of a small Hugging Face checkpoint.
import { concat, le } from "./support.ts";

/** A file of `bytes` zero bytes behind a header. The size "HUGE" becomes 2^53 + 1, which no double holds. */
export function writeSafetensors(
  header: string | Record<string, unknown>,
  bytes: number,
): Uint8Array<ArrayBuffer> {
  const json = typeof header === "string"
    ? header
    : JSON.stringify(header).replace('"HUGE"', "[9007199254740993]");
  const text = new TextEncoder().encode(json);
  return concat([le(text.length, 8), text, new Uint8Array(bytes)]);
}

/** config.json of a Llama of one layer, 32 wide, and the shapes of its tensors. */
export function tinyHuggingFace(): {
  config: Record<string, unknown>;
  shapes: Record<string, number[]>;
} {
  const layer = "model.layers.0";
  return {
    config: {
      model_type: "llama",
      hidden_size: 32,
      num_hidden_layers: 1,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      intermediate_size: 64,
      vocab_size: 16,
      max_position_embeddings: 128,
      rms_norm_eps: 1e-5,
      bos_token_id: 0,
      eos_token_id: 1,
    },
    shapes: {
      "model.embed_tokens.weight": [16, 32],
      "model.norm.weight": [32],
      "lm_head.weight": [16, 32],
      [`${layer}.input_layernorm.weight`]: [32],
      [`${layer}.self_attn.q_proj.weight`]: [32, 32],
      [`${layer}.self_attn.k_proj.weight`]: [16, 32],
      [`${layer}.self_attn.v_proj.weight`]: [16, 32],
      [`${layer}.self_attn.o_proj.weight`]: [32, 32],
      [`${layer}.post_attention_layernorm.weight`]: [32],
      [`${layer}.mlp.gate_proj.weight`]: [64, 32],
      [`${layer}.mlp.up_proj.weight`]: [64, 32],
      [`${layer}.mlp.down_proj.weight`]: [32, 64],
    },
  };
}
