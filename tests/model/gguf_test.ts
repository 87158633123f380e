import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { gguf } from "@huggingface/gguf";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { readGguf } from "../../src/model/gguf.ts";
import { type GgufParts, numbers, text, tinyLlama, writeGguf } from "./gguf_writer.ts";
import { concat, failure, le, NEEDLE, temporaryDirectory } from "./support.ts";

const NEEDLE_GGUF = fileURLToPath(new URL("needle-27m-q8_0.gguf", NEEDLE));

Deno.test("GGUF: agrees with @huggingface/gguf on a real file", async () => {
  const ours = readGguf(NEEDLE_GGUF);
  const theirs = await gguf(NEEDLE_GGUF, { allowLocalFile: true });
  const own = new Set(["version", "tensor_count", "kv_count"]);
  const keys = Object.keys(theirs.metadata).filter((key) => !own.has(key));
  assert.deepEqual([...ours.metadata.keys()].sort(), keys.sort());
  for (const key of keys) {
    const value = ours.metadata.get(key);
    const plain = ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : value;
    assert.deepEqual(plain, (theirs.metadata as Record<string, unknown>)[key], key);
  }
  assert.equal(ours.tensors.size, theirs.tensorInfos.length);
  for (const { name, shape, offset } of theirs.tensorInfos) {
    const tensor = ours.tensors.get(name);
    assert.deepEqual(tensor?.shape, shape.map(Number).toReversed(), name);
    assert.equal(tensor?.offset, Number(theirs.tensorDataOffset + offset), name);
  }
});

Deno.test("GGUF: a small file opens as a checkpoint", async () => {
  using directory = temporaryDirectory();
  const path = directory.write("tiny.gguf", writeGguf(tinyLlama()));
  const checkpoint = await openCheckpoint(path);
  assert.equal(checkpoint.modelName, "tiny");
  assert.equal(checkpoint.config.headDim, 8);
  assert.equal(checkpoint.config.tieEmbeddings, true);
  assert.deepEqual(checkpoint.unused, []);
  assert.deepEqual(checkpoint.tensors.get("layers.0.attn_k.weight")?.shape, [16, 32]);
  assert.equal(checkpoint.tensors.get("layers.0.attn_k.weight")?.bytes, 16 * 34);
  const tokenizer = await checkpoint.loadTokenizer();
  assert.equal(tokenizer.encode("a</s>")[0], 0);
});

/** The tiny file with something changed. */
function altered(
  change: (parts: GgufParts & ReturnType<typeof tinyLlama>) => GgufParts,
): Uint8Array {
  return writeGguf(change(tinyLlama()));
}

const tensorAt = (index: number, change: Record<string, unknown>): Uint8Array =>
  altered((p) => ({
    ...p,
    tensors: p.tensors.map((tensor, i) => i === index ? { ...tensor, ...change } : tensor),
  }));

// What is wrong, the file, what the message must say.
const CORRUPT: readonly [string, Uint8Array, RegExp][] = [
  ["empty file", new Uint8Array(), /truncated: magic number needs 4 bytes/],
  ["wrong magic", altered((p) => ({ ...p, magic: "GGML" })), /not a GGUF file/],
  [
    "2^63 tensors",
    altered((p) => ({ ...p, tensorCount: 2n ** 63n })),
    /number of tensors is 9223372036854775808/,
  ],
  [
    "2^64-1 keys",
    altered((p) => ({ ...p, keyCount: 2n ** 64n - 1n })),
    /number of keys is 18446744073709551615/,
  ],
  ["more keys than bytes", altered((p) => ({ ...p, keyCount: 60_000 })), /number of keys is 60000/],
  ["more keys than there are", altered((p) => ({ ...p, keyCount: 40 })), /./],
  [
    "string longer than the file",
    altered((p) => ({ ...p, fields: [{ key: "x", type: 8, value: le(1_000_000, 8) }] })),
    /truncated: value of "x" needs 1000000 bytes/,
  ],
  [
    "string of 2^63 bytes",
    altered((p) => ({ ...p, fields: [{ key: "x", type: 8, value: le(2n ** 63n, 8) }] })),
    /length of value of "x" is 9223372036854775808/,
  ],
  [
    "array of 2^63 numbers",
    altered((p) => ({
      ...p,
      fields: [{ key: "x", type: 9, value: concat([le(4, 4), le(2n ** 63n, 8)]) }],
    })),
    /length of value of "x" is 9223372036854775808/,
  ],
  [
    "array of more strings than bytes",
    altered((p) => ({
      ...p,
      fields: [{ key: "x", type: 9, value: concat([le(8, 4), le(2n ** 40n, 8)]) }],
    })),
    /length of value of "x" is 1099511627776/,
  ],
  [
    "nested array",
    altered((p) => ({
      ...p,
      fields: [{ key: "x", type: 9, value: concat([le(9, 4), le(1, 8), le(4, 4), le(0, 8)]) }],
    })),
    /array of unknown type 9/,
  ],
  [
    "unknown value type",
    altered((p) => ({ ...p, fields: [{ key: "x", type: 77, value: new Uint8Array() }] })),
    /unknown type 77/,
  ],
  [
    "key twice",
    altered((p) => ({ ...p, fields: [...p.fields, text("general.name", "again")] })),
    /key "general.name" occurs twice/,
  ],
  [
    "alignment 0",
    altered((p) => ({
      ...p,
      fields: [...p.fields, { key: "general.alignment", type: 4, value: le(0, 4) }],
    })),
    /general.alignment is 0/,
  ],
  [
    "alignment 48",
    altered((p) => ({
      ...p,
      fields: [...p.fields, { key: "general.alignment", type: 4, value: le(48, 4) }],
    })),
    /general.alignment is 48/,
  ],
  [
    "tensor twice",
    tensorAt(2, { name: "output_norm.weight" }),
    /"output_norm.weight" occurs twice/,
  ],
  ["tensors overlap", tensorAt(2, { offset: 32 }), /overlaps/],
  ["offset not aligned", tensorAt(1, { offset: 8771 }), /not aligned to 32/],
  ["offset beyond the file", tensorAt(1, { offset: 1 << 30 }), /ends at \d+, the file at \d+/],
  [
    "offset 2^64-32",
    tensorAt(1, { offset: 2n ** 64n - 32n }),
    /offset of tensor .* is 18446744073709551584/,
  ],
  [
    "dimension 2^63",
    tensorAt(1, { dims: [2n ** 63n] }),
    /dimension 0 of tensor .* is 9223372036854775808/,
  ],
  [
    "product that overflows",
    tensorAt(1, { dims: [2n ** 32n, 2n ** 32n] }),
    /takes 73786976294838206464 bytes/,
  ],
  ["dimension 0", tensorAt(1, { dims: [0] }), /takes 0 bytes/],
  ["no dimensions", tensorAt(1, { dims: [] }), /has 0 dimensions/],
  ["five dimensions", tensorAt(1, { dims: [1, 1, 1, 1, 1] }), /has 5 dimensions/],
  ["rows that break blocks", tensorAt(0, { dims: [16, 516] }), /no multiple of the 32/],
  [
    "wrong shape",
    tensorAt(3, { dims: [64, 16] }),
    /attn_q.weight is \[16, 64\], .* wants \[32, 32\]/,
  ],
  [
    "missing tensor",
    altered((p) => ({ ...p, tensors: p.tensors.slice(0, -1) })),
    /blk.0.ffn_down.weight \[32, 64\] is missing/,
  ],
];

Deno.test("GGUF: corrupt and hostile files are refused with the numbers", async (t) => {
  using directory = temporaryDirectory();
  for (const [name, bytes, message] of CORRUPT) {
    await t.step(name, async () => {
      const path = directory.write("bad.gguf", bytes);
      const error = await failure("CHECKPOINT", () => openCheckpoint(path));
      assert.match(error.message, message);
      assert.equal(error.details.path, path);
    });
  }
});

Deno.test("GGUF: every truncation is refused", async () => {
  using directory = temporaryDirectory();
  const whole = writeGguf(tinyLlama());
  const unpadded = whole.length; // the last tensor fills its block of the file
  for (let length = 0; length < unpadded; length += length < 9000 ? 61 : 997) {
    const path = directory.write("cut.gguf", whole.subarray(0, length));
    await failure("CHECKPOINT", () => openCheckpoint(path));
  }
});

Deno.test("GGUF: what is not supported is named", async (t) => {
  using directory = temporaryDirectory();
  const cases: readonly [string, Uint8Array, RegExp][] = [
    ["version 1", altered((p) => ({ ...p, version: 1 })), /GGUF version 1/],
    ["big-endian", altered((p) => ({ ...p, version: 0x03000000 })), /big-endian/],
    [
      "Q5_K",
      tensorAt(3, { type: 13 }),
      /"blk.0.attn_q.weight" is of type Q5_K; supported are F32, /,
    ],
    ["unknown type", tensorAt(3, { type: 999 }), /type number 999/],
    [
      "architecture",
      altered((p) => ({
        ...p,
        fields: [text("general.architecture", "mamba"), ...p.fields.slice(1)],
      })),
      /architecture "mamba"; supported are llama, qwen2/,
    ],
    [
      "heads by layer",
      altered((p) => ({
        ...p,
        fields: p.fields.map((field) =>
          field.key === "llama.attention.head_count"
            ? numbers(field.key, Int32Array.of(4, 2))
            : field
        ),
      })),
      /attention.head_count differs by layer: 4 in layer 0, 2 in layer 1/,
    ],
  ];
  for (const [name, bytes, message] of cases) {
    await t.step(name, async () => {
      const path = directory.write("other.gguf", bytes);
      const error = await failure("UNSUPPORTED_MODEL", () => openCheckpoint(path));
      assert.match(error.message, message);
    });
  }
});

Deno.test("GGUF: a key called __proto__ is a key", () => {
  using directory = temporaryDirectory();
  const path = directory.write(
    "proto.gguf",
    altered((p) => ({ ...p, fields: [text("__proto__", "x")] })),
  );
  assert.equal(readGguf(path).metadata.get("__proto__"), "x");
});
