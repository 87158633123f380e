import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openCheckpoint, PATTERNS_FILE } from "../../src/model/checkpoint.ts";
import { f32, tinyLlama, writeGguf } from "./gguf_writer.ts";
import { failure, NEEDLE, temporaryDirectory } from "./support.ts";

Deno.test("checkpoint: found by path, by URL and by name", async () => {
  const byUrl = await openCheckpoint(NEEDLE);
  assert.equal(byUrl.format, "gguf");
  assert.equal(byUrl.modelName, "needle-27m");
  assert.deepEqual(byUrl.config.eosIds, [1]);
  assert.deepEqual(byUrl.specialTokens, { bos: "<|begin_of_text|>", eos: "<|end_of_text|>" });
  for (const source of [fileURLToPath(NEEDLE), NEEDLE.href, "needle-27m"]) {
    assert.equal((await openCheckpoint(source)).tensors.size, byUrl.tensors.size);
  }
  using directory = temporaryDirectory();
  directory.write("tiny.gguf", writeGguf(tinyLlama()));
  Deno.env.set("MINFERENCE_MODELS", directory.path);
  try {
    assert.equal((await openCheckpoint("tiny.gguf")).modelName, "tiny");
    const error = await failure("IO", () => openCheckpoint("nothing-like-it"));
    const tried = error.details.tried as string[];
    assert.equal(tried.length, 3);
    assert(tried.every((path) => error.message.includes(path)));
  } finally {
    Deno.env.delete("MINFERENCE_MODELS");
  }
});

Deno.test("checkpoint: a directory that leaves a choice is refused", async () => {
  using directory = temporaryDirectory();
  assert.match(
    (await failure("CHECKPOINT", () => openCheckpoint(directory.path))).message,
    /no \*.safetensors and no \*.gguf/,
  );
  directory.write("a.gguf", writeGguf(tinyLlama()));
  assert.equal((await openCheckpoint(directory.path)).patternsPath, undefined);
  const patterns = directory.write(PATTERNS_FILE, "[{}]");
  assert.equal((await openCheckpoint(directory.path)).patternsPath, patterns);
  directory.write("b.gguf", writeGguf(tinyLlama()));
  assert.match(
    (await failure("CHECKPOINT", () => openCheckpoint(directory.path))).message,
    /cannot choose among a.gguf, b.gguf/,
  );
  directory.write("c.bin", "");
  await failure("UNSUPPORTED_MODEL", () => openCheckpoint(`${directory.path}/c.bin`));
});

Deno.test("checkpoint: in a directory tokenizer.json comes first, a file speaks for itself", async () => {
  using directory = temporaryDirectory();
  const path = directory.write("a.gguf", writeGguf(tinyLlama()));
  directory.write(
    "tokenizer.json",
    JSON.stringify({ model: { type: "BPE", vocab: { x: 7 }, merges: [] } }),
  );
  const ids = async (
    source: string,
  ): Promise<number[]> => [...(await (await openCheckpoint(source)).loadTokenizer()).encode("x")];
  assert.deepEqual(await ids(directory.path), [7]);
  assert.notDeepEqual(await ids(path), [7]);
});

Deno.test("checkpoint: Llama 3.1's divisors are read from the GGUF", async () => {
  using directory = temporaryDirectory();
  const { fields, tensors } = tinyLlama();
  const factors = new Uint8Array(new Float32Array([1, 1, 4, 8]).buffer);
  const write = (change: Record<string, unknown>): string =>
    directory.write(
      "a.gguf",
      writeGguf({
        fields,
        tensors: [...tensors, {
          name: "rope_freqs.weight",
          dims: [4],
          type: 0,
          data: factors,
          ...change,
        }],
      }),
    );
  const checkpoint = await openCheckpoint(write({}));
  assert.deepEqual(checkpoint.config.rope.scaling, { kind: "factors", factors: [1, 1, 4, 8] });
  assert.deepEqual(checkpoint.unused, ["rope_freqs.weight"]);
  const zero = await failure(
    "CHECKPOINT",
    () => openCheckpoint(write({ data: new Uint8Array(16) })),
  );
  assert.match(zero.message, /factors is 0, it must be a positive number/);
  await failure("CHECKPOINT", () => openCheckpoint(write({ dims: [2, 2] })));
});

Deno.test("checkpoint: GGUF of other architectures differ in data alone", async () => {
  using directory = temporaryDirectory();
  const { fields, tensors } = tinyLlama();
  const bias = (name: string, size: number): (typeof tensors)[number] => ({
    name: `blk.0.${name}.bias`,
    dims: [size],
    type: 0,
    data: new Uint8Array(4 * size),
  });
  const path = directory.write(
    "qwen.gguf",
    writeGguf({
      fields: fields.map((field) =>
        field.key === "general.architecture"
          ? {
            ...field,
            value: Uint8Array.of(5, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode("qwen2")),
          }
          : { ...field, key: field.key.replace(/^llama\./, "qwen2.") }
      ).concat(f32("qwen2.rope.scaling.factor", 2)),
      tensors: [...tensors, bias("attn_q", 32), bias("attn_k", 16), bias("attn_v", 16)],
    }),
  );
  const { config, tensors: bound } = await openCheckpoint(path);
  assert.deepEqual([config.architecture, config.qkvBias, config.rope.interleaved], [
    "qwen2",
    true,
    false,
  ]);
  assert.deepEqual(bound.get("layers.0.attn_v.bias")?.shape, [16]);
});
