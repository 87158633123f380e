import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { readSafetensors } from "../../src/model/safetensors.ts";
import { tinyHuggingFace, writeSafetensors } from "./safetensors_writer.ts";
import { concat, failure, le, sharedModel, temporaryDirectory } from "./support.ts";

const pair = {
  a: { dtype: "F32", shape: [2, 3], data_offsets: [0, 24] },
  b: { dtype: "BF16", shape: [4], data_offsets: [24, 32] },
};

Deno.test("safetensors: places of the tensors", () => {
  using directory = temporaryDirectory();
  const header = { __metadata__: { format: "pt" }, b: pair.b, a: pair.a };
  const path = directory.write("x.safetensors", writeSafetensors(header, 32));
  const { tensors } = readSafetensors(path);
  const start = Deno.statSync(path).size - 32;
  assert.deepEqual(tensors.get("a"), {
    path,
    offset: start,
    bytes: 24,
    dtype: "f32",
    shape: [2, 3],
  });
  assert.deepEqual(tensors.get("b"), {
    path,
    offset: start + 24,
    bytes: 8,
    dtype: "bf16",
    shape: [4],
  });
});

const alter = (change: Record<string, unknown>): Uint8Array =>
  writeSafetensors({ a: pair.a, b: { ...pair.b, ...change } }, 32);

const CORRUPT: readonly [string, Uint8Array, RegExp][] = [
  ["empty file", new Uint8Array(), /truncated: header length needs 8 bytes/],
  [
    "header of 2^63 bytes",
    concat([le(2n ** 63n, 8), new Uint8Array(8)]),
    /header length is 9223372036854775808/,
  ],
  [
    "header beyond the file",
    concat([le(16, 8), new Uint8Array(8)]),
    /truncated: header needs 16 bytes/,
  ],
  ["not JSON", writeSafetensors("{nope", 0), /not valid JSON/],
  ["not an object", writeSafetensors("[1]", 0), /does not begin with \{/],
  ["not UTF-8", concat([le(2, 8), Uint8Array.of(0x7b, 0xff)]), /not valid UTF-8/],
  ["entry is no object", writeSafetensors({ a: 3 }, 0), /tensor "a": its header entry/],
  ["unknown dtype", alter({ dtype: "F12" }), /tensor "b": unknown dtype "F12"/],
  ["inherited dtype", alter({ dtype: "constructor" }), /unknown dtype "constructor"/],
  ["negative size", alter({ shape: [-4] }), /invalid shape \[-4\]/],
  ["fractional size", alter({ shape: [4.5] }), /invalid shape/],
  ["size of 2^53+1", alter({ shape: "HUGE" }), /invalid shape \[9007199254740992\]/],
  [
    "product that overflows",
    alter({ shape: [2 ** 32, 2 ** 32] }),
    /takes 36893488147419103232 bytes/,
  ],
  ["wrong product", alter({ shape: [5] }), /takes 10 bytes, data_offsets give 8/],
  ["offsets reversed", alter({ data_offsets: [32, 24] }), /invalid data_offsets/],
  ["three offsets", alter({ data_offsets: [24, 32, 40] }), /invalid data_offsets/],
  ["no offsets", alter({ data_offsets: undefined }), /invalid data_offsets/],
  ["overlap", alter({ data_offsets: [20, 28] }), /begins at 20, the tensor before it ends at 24/],
  ["hole", alter({ data_offsets: [28, 36] }), /begins at 28, the tensor before it ends at 24/],
  ["file too short", writeSafetensors(pair, 31), /truncated or corrupt/],
  ["file too long", writeSafetensors(pair, 33), /truncated or corrupt/],
];

Deno.test("safetensors: corrupt and hostile files are refused with the numbers", async (t) => {
  using directory = temporaryDirectory();
  for (const [name, bytes, message] of CORRUPT) {
    await t.step(name, async () => {
      const path = directory.write("bad.safetensors", bytes);
      const error = await failure("CHECKPOINT", () => readSafetensors(path));
      assert.match(error.message, message);
    });
  }
});

Deno.test("safetensors: a tensor called __proto__ is a tensor", () => {
  using directory = temporaryDirectory();
  const header = '{"__proto__": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}';
  const path = directory.write("proto.safetensors", writeSafetensors(header, 4));
  assert.equal(readSafetensors(path).tensors.get("__proto__")?.bytes, 4);
});

Deno.test("safetensors: a small directory opens, whole and sharded", async () => {
  using directory = temporaryDirectory();
  const { config, shapes } = tinyHuggingFace();
  directory.write("config.json", JSON.stringify(config));
  const names = Object.keys(shapes);
  const write = (file: string, part: readonly string[]): void => {
    let end = 0;
    const header = Object.fromEntries(part.map((name) => {
      const begin = end;
      end += 2 * shapes[name].reduce((a, b) => a * b, 1);
      return [name, { dtype: "BF16", shape: shapes[name], data_offsets: [begin, end] }];
    }));
    directory.write(file, writeSafetensors(header, end));
  };
  write("model-1.safetensors", names.slice(0, 5));
  write("model-2.safetensors", names.slice(5));
  const map = names.map((name, i) => [name, `model-${i < 5 ? 1 : 2}.safetensors`]);
  const index = (entries: unknown[][]): string =>
    directory.write(
      "model.safetensors.index.json",
      JSON.stringify({ weight_map: Object.fromEntries(entries) }),
    );

  index(map);
  const sharded = await openCheckpoint(directory.path);
  assert.equal(sharded.tensors.size, names.length);
  assert.match(sharded.tensors.get("layers.0.ffn_down.weight")!.path, /model-2/);

  index(map.map(([name, file]) => [name, name === names[0] ? "model-2.safetensors" : file]));
  const wrong = await failure("CHECKPOINT", () => openCheckpoint(directory.path));
  assert.match(wrong.message, /is not in model-2.safetensors/);

  for (const file of ["../model-1.safetensors", "/etc/passwd", "a\0.safetensors", 7]) {
    index(map.map(([name]) => [name, file]));
    await failure("CHECKPOINT", () => openCheckpoint(directory.path));
  }
  index(map.map(([name]) => [name, "model-3.safetensors"]));
  await failure("IO", () => openCheckpoint(directory.path));

  write("model.safetensors", names);
  assert.equal((await openCheckpoint(directory.path)).tensors.size, names.length);

  write("model.safetensors", names.slice(1));
  const missing = await failure("CHECKPOINT", () => openCheckpoint(directory.path));
  assert.match(missing.message, /model.embed_tokens.weight \[16, 32\] is missing/);
});

const shared = sharedModel("needle-27m");
Deno.test({
  name: "safetensors: the bf16 needle-27m agrees with the GGUF in every shape",
  ignore: shared === undefined,
  fn: async () => {
    const bf16 = await openCheckpoint(fileURLToPath(new URL("model.safetensors", shared)));
    const q8 = await openCheckpoint("needle-27m/needle-27m-q8_0.gguf");
    const shapes = (c: typeof bf16): [string, readonly number[]][] =>
      [...c.tensors].map(([name, { shape }]) => [name, shape]);
    assert.deepEqual(shapes(bf16), shapes(q8));
    const { rope: a, normEps: epsA, architecture: _a, ...restA } = bf16.config;
    const { rope: b, normEps: epsB, architecture: _b, ...restB } = q8.config;
    assert.deepEqual(restA, restB);
    assert.equal(Math.fround(epsA), epsB);
    assert.deepEqual({ ...a, interleaved: true }, b);
  },
});
