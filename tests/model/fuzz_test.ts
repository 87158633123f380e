// Both parsers against damaged files: whatever the bytes, a checkpoint or a typed error, soon.
import assert from "node:assert/strict";
import fc from "fast-check";
import { MInferenceError } from "../../src/native/errors.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { tinyLlama, writeGguf } from "./gguf_writer.ts";
import { tinyHuggingFace, writeSafetensors } from "./safetensors_writer.ts";
import { HOSTILE, le, temporaryDirectory } from "./support.ts";

const MAX_MS = 1000;

/** What happens to a file. */
type Damage =
  | { kind: "flip"; at: number; bits: number }
  | { kind: "integer"; at: number; value: bigint; wide: boolean }
  | { kind: "cut"; at: number }
  | { kind: "drop"; at: number; count: number }
  | { kind: "repeat"; at: number; count: number };

/** Damage within the first `length` bytes. */
function damage(length: number): fc.Arbitrary<Damage[]> {
  const at = fc.nat(length - 1);
  const count = fc.integer({ min: 1, max: 64 });
  return fc.array(
    fc.oneof(
      fc.record({ kind: fc.constant("flip" as const), at, bits: fc.integer({ min: 1, max: 255 }) }),
      fc.record({
        kind: fc.constant("integer" as const),
        at,
        value: fc.constantFrom(...HOSTILE),
        wide: fc.boolean(),
      }),
      fc.record({ kind: fc.constant("cut" as const), at }),
      fc.record({ kind: fc.constant("drop" as const), at, count }),
      fc.record({ kind: fc.constant("repeat" as const), at, count }),
    ),
    { minLength: 1, maxLength: 4 },
  );
}

function apply(bytes: Uint8Array, damages: readonly Damage[]): Uint8Array {
  return damages.reduce((out, d) => {
    const at = Math.min(d.at, out.length);
    switch (d.kind) {
      case "flip":
        out = out.slice();
        if (at < out.length) out[at] ^= d.bits;
        return out;
      case "integer":
        out = out.slice();
        out.set(le(d.value, d.wide ? 8 : 4).subarray(0, out.length - at), at);
        return out;
      case "cut":
        return out.slice(0, at);
      case "drop":
        return Uint8Array.from([...out.subarray(0, at), ...out.subarray(at + d.count)]);
      case "repeat":
        return Uint8Array.from([...out.subarray(0, at + d.count), ...out.subarray(at)]);
    }
  }, bytes);
}

/** Opens a checkpoint and its tokenizer; fails on untyped errors and on slowness. */
async function open(path: string): Promise<void> {
  const start = performance.now();
  try {
    const checkpoint = await openCheckpoint(path);
    for (const { offset, bytes, path } of checkpoint.tensors.values()) {
      assert(offset + bytes <= Deno.statSync(path).size);
    }
    await checkpoint.loadTokenizer();
  } catch (error) {
    if (!(error instanceof MInferenceError)) throw error;
    assert(
      ["CHECKPOINT", "UNSUPPORTED_MODEL"].includes(error.code),
      `${error.code} ${error.message}`,
    );
    assert.equal(typeof error.details.path, "string");
  }
  const ms = performance.now() - start;
  assert(ms < MAX_MS, `${ms} ms`);
}

Deno.test("fuzz: damaged GGUF files", async () => {
  using directory = temporaryDirectory();
  const whole = writeGguf(tinyLlama());
  const header = 5000; // metadata and tensor infos; the rest is tensor data
  await fc.assert(
    fc.asyncProperty(damage(header), async (damages) => {
      await open(directory.write("damaged.gguf", apply(whole, damages)));
    }),
    { numRuns: 1000 },
  );
});

Deno.test("fuzz: damaged safetensors headers", async () => {
  using directory = temporaryDirectory();
  const { config, shapes } = tinyHuggingFace();
  directory.write("config.json", JSON.stringify(config));
  let end = 0;
  const header = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const begin = end;
      end += 2 * shape.reduce((a, b) => a * b, 1);
      return [name, { dtype: "BF16", shape, data_offsets: [begin, end] }];
    }),
  );
  const whole = writeSafetensors(header, end);
  await fc.assert(
    fc.asyncProperty(damage(whole.length - end), async (damages) => {
      directory.write("model.safetensors", apply(whole, damages));
      await open(directory.path);
    }),
    { numRuns: 600 },
  );
});

Deno.test("fuzz: safetensors headers of hostile numbers and types", async () => {
  using directory = temporaryDirectory();
  directory.write("config.json", JSON.stringify(tinyHuggingFace().config));
  const number = fc.oneof(
    fc.constantFrom(...HOSTILE.map(String), "-1", "1e400", "0.5", "-0", "1e3", "null", '"8"'),
    fc.nat(64).map(String),
  );
  const list = fc.array(number, { maxLength: 4 }).map((items) => `[${items.join(",")}]`);
  const entry = fc.tuple(fc.constantFrom("F32", "BF16", "F4", "I64", "toString"), list, list)
    .map(([d, shape, offsets]) => `{"dtype":"${d}","shape":${shape},"data_offsets":${offsets}}`);
  const json = fc.array(fc.tuple(fc.string({ maxLength: 8 }), entry), { maxLength: 5 })
    .map((pairs) => `{${pairs.map(([k, v]) => `${JSON.stringify(k)}:${v}`).join(",")}}`);
  await fc.assert(
    fc.asyncProperty(json, fc.nat(256), async (header, bytes) => {
      directory.write("model.safetensors", writeSafetensors(header, bytes));
      await open(directory.path);
    }),
    { numRuns: 1000 },
  );
});

Deno.test("fuzz: config.json and tokenizer.json of any content", async () => {
  using directory = temporaryDirectory();
  const { config, shapes } = tinyHuggingFace();
  const sizes = Object.values(shapes).map((shape) => 2 * shape.reduce((a, b) => a * b, 1));
  let end = 0;
  const header = Object.fromEntries(
    Object.keys(shapes).map((name, i) => {
      const begin = end;
      end += sizes[i];
      return [name, { dtype: "BF16", shape: shapes[name], data_offsets: [begin, end] }];
    }),
  );
  directory.write("model.safetensors", writeSafetensors(header, end));
  const keys = [
    ...Object.keys(config),
    "rope_scaling",
    "rope_theta",
    "head_dim",
    "sliding_window",
    "quantization_config",
    "hidden_act",
    "tie_word_embeddings",
    "partial_rotary_factor",
  ];
  const value = fc.oneof(
    fc.constantFrom<unknown>(
      0,
      -1,
      1e300,
      2 ** 53,
      2 ** 31,
      0.5,
      null,
      true,
      "",
      [],
      {},
      [1],
      "silu",
    ),
    fc.record({
      rope_type: fc.constantFrom("yarn", "llama3", "linear", "dynamic", "longrope", "x", 3),
      factor: fc.constantFrom<unknown>(0, -1, 2, "2", null),
      short_factor: fc.constantFrom<unknown>([], [1, 1, 1, 1], [0, 0, 0, 0], 1),
      long_factor: fc.constantFrom<unknown>([1, 1, 1, 1], null),
      original_max_position_embeddings: fc.constantFrom<unknown>(0, 64, 1e20),
    }, { requiredKeys: [] }),
    fc.jsonValue(),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.dictionary(fc.constantFrom(...keys), value, { maxKeys: 3 }),
      fc.dictionary(
        fc.constantFrom("model", "added_tokens", "normalizer", "pre_tokenizer", "decoder"),
        fc.jsonValue(),
      ),
      async (changes, tokenizer) => {
        directory.write("config.json", JSON.stringify({ ...config, ...changes }));
        directory.write("tokenizer.json", JSON.stringify(tokenizer));
        await open(directory.path);
      },
    ),
    { numRuns: 1000 },
  );
});
