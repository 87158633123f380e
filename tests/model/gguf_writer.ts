// Writes GGUF files, valid ones and, by overriding what a field says, invalid ones.
import { concat, le } from "./support.ts";

/** A metadata value with its GGUF type number. */
export interface GgufField {
  key: string;
  type: number;
  value: Uint8Array;
}

export interface GgufTensorField {
  name: string;
  /** Contiguous dimension first, as the file has it. */
  dims: readonly (number | bigint)[];
  type: number;
  data: Uint8Array;
  /** What the header says instead of where the data lies. */
  offset?: number | bigint;
}

export function ggufString(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  return concat([le(bytes.length, 8), bytes]);
}

export const text = (key: string, value: string): GgufField => ({
  key,
  type: 8,
  value: ggufString(value),
});
export const u32 = (key: string, value: number): GgufField => ({
  key,
  type: 4,
  value: le(value, 4),
});
export const f32 = (key: string, value: number): GgufField => ({
  key,
  type: 6,
  value: new Uint8Array(new Float32Array([value]).buffer),
});
export const flag = (key: string, value: boolean): GgufField => ({
  key,
  type: 7,
  value: Uint8Array.of(Number(value)),
});
export const texts = (key: string, values: readonly string[]): GgufField => ({
  key,
  type: 9,
  value: concat([le(8, 4), le(values.length, 8), ...values.map(ggufString)]),
});
export const numbers = (key: string, values: Int32Array | Float32Array): GgufField => ({
  key,
  type: 9,
  value: concat([
    le(values instanceof Int32Array ? 5 : 6, 4),
    le(values.length, 8),
    new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  ]),
});

export interface GgufParts {
  magic?: string;
  version?: number;
  tensorCount?: number | bigint;
  keyCount?: number | bigint;
  alignment?: number;
  fields: readonly GgufField[];
  tensors: readonly GgufTensorField[];
}

export function writeGguf(parts: GgufParts): Uint8Array<ArrayBuffer> {
  const { fields, tensors, alignment = 32 } = parts;
  const pad = (size: number): Uint8Array =>
    new Uint8Array((alignment - size % alignment) % alignment);
  const data: Uint8Array[] = [];
  let size = 0;
  const infos = tensors.map((tensor) => {
    const info = concat([
      ggufString(tensor.name),
      le(tensor.dims.length, 4),
      ...tensor.dims.map((n) => le(n, 8)),
      le(tensor.type, 4),
      le(tensor.offset ?? size, 8),
    ]);
    data.push(tensor.data, pad(tensor.data.length));
    size += tensor.data.length + pad(tensor.data.length).length;
    return info;
  });
  const header = concat([
    new TextEncoder().encode(parts.magic ?? "GGUF"),
    le(parts.version ?? 3, 4),
    le(parts.tensorCount ?? tensors.length, 8),
    le(parts.keyCount ?? fields.length, 8),
    ...fields.flatMap(({ key, type, value }) => [ggufString(key), le(type, 4), value]),
    ...infos,
  ]);
  return concat([header, pad(header.length), ...data]);
}

/** A file with one more text in its metadata, and one of spaces that keeps the tensors aligned. */
export function addText(file: Uint8Array, key: string, value: string): Uint8Array<ArrayBuffer> {
  const bytes = (key: string, value: string): Uint8Array =>
    concat([ggufString(key), le(8, 4), ggufString(value)]);
  const added = bytes(key, value);
  const unpadded = added.length + bytes("padding", "").length;
  const padding = bytes("padding", " ".repeat((32 - unpadded % 32) % 32));
  const keys = new DataView(file.buffer, file.byteOffset).getBigUint64(16, true);
  return concat([file.subarray(0, 16), le(keys + 2n, 8), added, padding, file.subarray(24)]);
}

/** Zeros of a tensor: f32 unless it is a matrix to be stored as Q8_0. */
function tensor(name: string, shape: readonly number[], type = 0): GgufTensorField {
  const elements = shape.reduce((a, b) => a * b, 1);
  const bytes = type === 8 ? elements / 32 * 34 : elements * 4;
  return { name, dims: shape.toReversed(), type, data: new Uint8Array(bytes) };
}

const SPECIAL = ["<s>", "</s>"];

/** Metadata of a Llama of one layer, 32 wide, with a byte-level tokenizer of 256 bytes and two special tokens. */
export function tinyLlama(): { fields: GgufField[]; tensors: GgufTensorField[] } {
  const bytes = Array.from({ length: 256 }, (_, i) => String.fromCodePoint(256 + i));
  const tokens = [...SPECIAL, ...bytes];
  const vocab = tokens.length;
  return {
    fields: [
      text("general.architecture", "llama"),
      text("general.name", "tiny"),
      u32("llama.context_length", 128),
      u32("llama.embedding_length", 32),
      u32("llama.block_count", 1),
      u32("llama.feed_forward_length", 64),
      u32("llama.attention.head_count", 4),
      u32("llama.attention.head_count_kv", 2),
      f32("llama.rope.freq_base", 10000),
      f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
      text("tokenizer.ggml.model", "gpt2"),
      text("tokenizer.ggml.pre", "qwen2"),
      texts("tokenizer.ggml.tokens", tokens),
      numbers("tokenizer.ggml.token_type", Int32Array.from(tokens, (_, i) => i < 2 ? 3 : 1)),
      texts("tokenizer.ggml.merges", []),
      u32("tokenizer.ggml.bos_token_id", 0),
      u32("tokenizer.ggml.eos_token_id", 1),
      flag("tokenizer.ggml.add_bos_token", true),
    ],
    tensors: [
      tensor("token_embd.weight", [vocab, 32], 8),
      tensor("output_norm.weight", [32]),
      tensor("blk.0.attn_norm.weight", [32]),
      tensor("blk.0.attn_q.weight", [32, 32], 8),
      tensor("blk.0.attn_k.weight", [16, 32], 8),
      tensor("blk.0.attn_v.weight", [16, 32], 8),
      tensor("blk.0.attn_output.weight", [32, 32], 8),
      tensor("blk.0.ffn_norm.weight", [32]),
      tensor("blk.0.ffn_gate.weight", [64, 32], 8),
      tensor("blk.0.ffn_up.weight", [64, 32], 8),
      tensor("blk.0.ffn_down.weight", [32, 64], 8),
    ],
  };
}
