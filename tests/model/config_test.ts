import assert from "node:assert/strict";
import { configFromHuggingFace } from "../../src/model/config_hf.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { weightSpecs } from "../../src/model/weights.ts";
import { failure } from "./support.ts";

const read = (config: Record<string, unknown>, generation?: Record<string, unknown>): ModelConfig =>
  configFromHuggingFace("config.json", config, generation, true);

// Fields of the published files.
const LLAMA_31_8B = {
  model_type: "llama",
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  vocab_size: 128256,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500000.0,
  rope_scaling: {
    factor: 8.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_max_position_embeddings: 8192,
    rope_type: "llama3",
  },
  hidden_act: "silu",
  attention_bias: false,
  tie_word_embeddings: false,
  bos_token_id: 128000,
  eos_token_id: [128001, 128008, 128009],
};
const LLAMA_2_7B = {
  model_type: "llama",
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  vocab_size: 32000,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  hidden_act: "silu",
  bos_token_id: 1,
  eos_token_id: 2,
};
const MISTRAL_7B = {
  ...LLAMA_31_8B,
  model_type: "mistral",
  vocab_size: 32768,
  max_position_embeddings: 32768,
  rope_theta: 1000000.0,
  rope_scaling: undefined,
  sliding_window: null,
  bos_token_id: 1,
  eos_token_id: 2,
};
const QWEN25_7B = {
  model_type: "qwen2",
  hidden_size: 3584,
  intermediate_size: 18944,
  num_hidden_layers: 28,
  num_attention_heads: 28,
  num_key_value_heads: 4,
  vocab_size: 152064,
  max_position_embeddings: 32768,
  max_window_layers: 28,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000.0,
  sliding_window: 131072,
  use_sliding_window: false,
  tie_word_embeddings: false,
  hidden_act: "silu",
  bos_token_id: 151643,
  eos_token_id: 151645,
};
const QWEN3_8B = {
  ...QWEN25_7B,
  model_type: "qwen3",
  hidden_size: 4096,
  intermediate_size: 12288,
  num_hidden_layers: 36,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  head_dim: 128,
  vocab_size: 151936,
  max_position_embeddings: 40960,
  max_window_layers: 36,
  sliding_window: null,
  attention_bias: false,
};
const PHI3_MINI_128K = {
  model_type: "phi3",
  hidden_size: 3072,
  intermediate_size: 8192,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  vocab_size: 32064,
  max_position_embeddings: 131072,
  original_max_position_embeddings: 4096,
  sliding_window: 262144,
  rms_norm_eps: 1e-5,
  rope_theta: 10000.0,
  rope_scaling: {
    type: "longrope",
    short_factor: Array(48).fill(1.1),
    long_factor: Array(48).fill(9.5),
  },
  hidden_act: "silu",
  bos_token_id: 1,
  eos_token_id: 32000,
};
const GLM4_9B = {
  model_type: "glm",
  hidden_size: 4096,
  intermediate_size: 13696,
  num_hidden_layers: 40,
  num_attention_heads: 32,
  num_key_value_heads: 2,
  head_dim: 128,
  vocab_size: 151552,
  max_position_embeddings: 131072,
  rms_norm_eps: 1.5625e-7,
  attention_bias: true,
  hidden_act: "silu",
  eos_token_id: [151329, 151336, 151338],
};

const names = (config: ModelConfig): string[] =>
  [...weightSpecs(config)].map(({ hf }) => hf).filter((name) => /layers\.0\.|^lm_head/.test(name))
    .map((name) => name.replace("model.layers.0.", ""));

Deno.test("config: Llama 3.1", () => {
  const config = read(LLAMA_31_8B);
  assert.equal(config.headDim, 128);
  assert.equal(config.rope.interleaved, false);
  assert.deepEqual(config.rope.scaling, {
    kind: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalPositions: 8192,
  });
  assert.deepEqual(config.eosIds, [128001, 128008, 128009]);
  assert.equal([...weightSpecs(config)].length, 3 + 32 * 9);
});

Deno.test("config: Llama 2 and Yi share heads and default to theta 10000", () => {
  const config = read(LLAMA_2_7B);
  assert.equal(config.kvHeads, 32);
  assert.equal(config.rope.theta, 10000);
  assert.deepEqual(config.rope.scaling, { kind: "none" });
  const yi = read({
    ...LLAMA_2_7B,
    vocab_size: 64000,
    rope_theta: 5000000,
    num_key_value_heads: 4,
  });
  assert.equal(yi.rope.theta, 5000000);
});

Deno.test("config: Mistral with and without a sliding window", async () => {
  assert.equal(read(MISTRAL_7B).kvHeads, 8);
  assert.equal(read({ ...MISTRAL_7B, sliding_window: 32768 }).maxPositions, 32768);
  // 4096 is the default of the architecture: a file that leaves it out means it.
  for (const sliding_window of [4096, undefined]) {
    const error = await failure(
      "UNSUPPORTED_MODEL",
      () => read({ ...MISTRAL_7B, sliding_window }),
    );
    assert.match(error.message, /4096 tokens in a context of 32768/);
  }
});

Deno.test("config: Qwen2 has biases, Qwen3 norms of queries and keys", async () => {
  const qwen2 = read(QWEN25_7B);
  assert.deepEqual([qwen2.qkvBias, qwen2.outBias, qwen2.qkNorm], [true, false, false]);
  assert(names(qwen2).includes("self_attn.k_proj.bias"));
  assert(!names(qwen2).includes("self_attn.o_proj.bias"));
  const qwen3 = read(QWEN3_8B);
  assert.deepEqual([qwen3.qkvBias, qwen3.qkNorm], [false, true]);
  assert(names(qwen3).includes("self_attn.k_norm.weight"));
  // Sliding layers begin at max_window_layers.
  assert(read({ ...QWEN25_7B, use_sliding_window: true, sliding_window: 4096 }));
  await failure(
    "UNSUPPORTED_MODEL",
    () =>
      read({ ...QWEN25_7B, use_sliding_window: true, sliding_window: 4096, max_window_layers: 8 }),
  );
});

Deno.test("config: Qwen2.5 with YaRN reaches factor times as far", () => {
  const config = read({
    ...QWEN25_7B,
    rope_scaling: { type: "yarn", factor: 4.0, original_max_position_embeddings: 32768 },
  });
  assert.equal(config.maxPositions, 131072);
  const { scaling } = config.rope;
  assert(scaling.kind === "yarn" && Math.abs(scaling.attentionFactor - 1.1386294) < 1e-6);
});

Deno.test("config: Phi-3 fuses its projections and has two sets of factors", () => {
  const config = read(PHI3_MINI_128K);
  assert.equal(config.headDim, 96);
  assert(config.rope.scaling.kind === "longrope");
  assert.equal(config.rope.scaling.originalPositions, 4096);
  assert(Math.abs(config.rope.scaling.attentionFactor - 1.1902381) < 1e-6);
  assert.deepEqual(names(config), [
    "input_layernorm.weight",
    "self_attn.qkv_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_up_proj.weight",
    "mlp.down_proj.weight",
    "lm_head.weight",
  ]);
});

Deno.test("config: GLM-4 rotates half of each head in pairs", () => {
  const config = read(GLM4_9B);
  assert.deepEqual([config.rope.rotaryDim, config.rope.interleaved], [64, true]);
  assert.deepEqual([config.qkvBias, config.outBias, config.fusedGateUp], [true, false, true]);
  const glm0414 = read({ ...GLM4_9B, model_type: "glm4", attention_bias: false });
  assert.equal(glm0414.postNorms, true);
  assert(names(glm0414).includes("post_mlp_layernorm.weight"));
});

Deno.test("config: the form of transformers 5", () => {
  const { rope_theta, rope_scaling, ...rest } = LLAMA_31_8B;
  assert.deepEqual(
    read({ ...rest, rope_parameters: { rope_theta, ...rope_scaling } }),
    read(LLAMA_31_8B),
  );
});

Deno.test("config: tying follows the file, else the weights", () => {
  const tied = (config: Record<string, unknown>, hasHead: boolean): boolean =>
    configFromHuggingFace("c", config, undefined, hasHead).tieEmbeddings;
  assert.equal(tied(LLAMA_2_7B, true), false);
  assert.equal(tied(LLAMA_2_7B, false), true);
  assert.equal(tied({ ...LLAMA_2_7B, tie_word_embeddings: true }, true), true);
});

Deno.test("config: heads given per layer are fine while they are the same", () => {
  const same = { num_attention_heads: Array(32).fill(32), num_key_value_heads: Array(32).fill(8) };
  assert.deepEqual(read({ ...LLAMA_31_8B, ...same }), read(LLAMA_31_8B));
});

Deno.test("config: end tokens of generation_config.json count too", () => {
  assert.deepEqual(read(LLAMA_2_7B, { eos_token_id: [2, 7] }).eosIds, [2, 7]);
});

Deno.test("config: what is not supported is named, what is supported is listed", async (t) => {
  const cases: readonly [string, Record<string, unknown>, RegExp][] = [
    ["model type", { model_type: "mixtral" }, /"mixtral"; supported are llama, mistral, qwen2/],
    ["activation", { hidden_act: "gelu" }, /"gelu"; supported is silu/],
    ["quantisation", { quantization_config: { quant_method: "awq" } }, /"awq"; supported are f32/],
    ["rope", { rope_scaling: { rope_type: "ntk" } }, /"ntk"; supported are default, linear/],
    ["large heads", { head_dim: 512 }, /heads of 512 elements/],
    ["odd heads", { head_dim: 100 }, /multiples of 8/],
    [
      "heads by layer",
      { num_attention_heads: [32, 32, 24] },
      /num_attention_heads differs by layer: 32 in layer 0, 24 in layer 2/,
    ],
    [
      "key-value heads by layer",
      { num_key_value_heads: [8, 4] },
      /num_key_value_heads differs by layer: 8 in layer 0, 4 in layer 1/,
    ],
  ];
  for (const [name, change, message] of cases) {
    await t.step(name, async () => {
      const error = await failure("UNSUPPORTED_MODEL", () => read({ ...LLAMA_31_8B, ...change }));
      assert.match(error.message, message);
    });
  }
});

Deno.test("config: contradictions are refused with the numbers", async (t) => {
  const cases: readonly [string, Record<string, unknown>, RegExp][] = [
    ["missing", { hidden_size: undefined }, /hidden_size is missing/],
    ["zero", { num_hidden_layers: 0 }, /num_hidden_layers is 0/],
    ["no heads in a layer", { num_attention_heads: [32, 0] }, /num_attention_heads\[1\] is 0/],
    ["heads of no layer", { num_attention_heads: [] }, /num_attention_heads is \[\]/],
    ["string", { vocab_size: "32000" }, /vocab_size is "32000"/],
    ["fraction", { hidden_size: 4096.5 }, /hidden_size is 4096.5/],
    ["beyond int32", { intermediate_size: 2 ** 31 }, /intermediateSize is 2147483648/],
    ["heads", { num_key_value_heads: 5 }, /32 query heads cannot share 5/],
    ["theta", { rope_theta: 0 }, /theta is 0/],
    ["odd rotary part", { partial_rotary_factor: 0.01 }, /rotary dimension 1 /],
    ["eos", { eos_token_id: 128256 }, /special token 128256 is outside the vocabulary of 128256/],
    ["epsilon", { rms_norm_eps: -1 }, /is -1/],
    [
      "factors",
      { rope_scaling: { rope_type: "longrope", short_factor: [1], long_factor: [1] } },
      /shortFactors has 1 entries, 64 are needed/,
    ],
    ["factor 0", { rope_scaling: { rope_type: "linear", factor: 0 } }, /factor is 0/],
  ];
  for (const [name, change, message] of cases) {
    await t.step(name, async () => {
      const error = await failure("CHECKPOINT", () => read({ ...LLAMA_31_8B, ...change }));
      assert.match(error.message, message);
    });
  }
});
