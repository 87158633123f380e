import assert from "node:assert/strict";
import { parsePatterns, readPatternFile } from "../../src/model/patterns_file.ts";
import { failure, temporaryDirectory } from "./support.ts";

const target = { layers: 2, heads: 4, modelName: "tiny" };

Deno.test("patterns: upstream's file as it is", async () => {
  using directory = temporaryDirectory();
  const path = directory.write(
    "best.json",
    JSON.stringify([
      { "0": ["vertical_and_slash", 30, 800, 0.97], "2": ["stream_llm", 100, 800, 1] },
      { "3": ["block_sparse", 1000, 6096, 12345678] },
    ]),
  );
  const missing = { kind: "vertical_slash", vertical: 1000, slash: 6096 };
  const expected = [
    [
      { kind: "vertical_slash", vertical: 30, slash: 800 },
      missing,
      { kind: "a_shape", sink: 100, local: 800 },
      missing,
    ],
    [missing, missing, missing, { kind: "block_sparse", topK: 100 }],
  ];
  assert.deepEqual(await readPatternFile(path, target), expected);
  assert.deepEqual(await readPatternFile(new URL(`file://${path}`), target), expected);
});

Deno.test("patterns: errors name layer and head", async (t) => {
  const cases: readonly [string, unknown, RegExp][] = [
    ["not a list", {}, /not a list of layers/],
    ["layers", [{}], /patterns of 1 layers, tiny has 2/],
    ["layer is no object", [{}, []], /layer 1 is not an object/],
    [
      "head of another model",
      [{}, { "4": ["stream_llm", 1, 1] }],
      /layer 1: head "4", tiny has heads 0 to 3/,
    ],
    ["head is no number", [{ "-1": [] }, {}], /layer 0: head "-1"/],
    ["too short", [{ "2": ["stream_llm"] }, {}], /layer 0, head 2: .* is not \[pattern/],
    ["unknown", [{ "2": ["dilated", 1, 2, 3] }, {}], /head 2: unknown pattern "dilated"/],
    ["fraction", [{ "1": ["vertical_and_slash", 1.5, 2, 3] }, {}], /vertical size is 1.5/],
    ["negative", [{ "1": ["vertical_and_slash", 1, -2, 3] }, {}], /slash size is -2/],
    ["no local keys", [{ "1": ["stream_llm", 1, 0, 3] }, {}], /local size is 0, an integer from 1/],
    [
      "beyond int32",
      [{}, { "1": ["vertical_and_slash", 2 ** 31, 2, 3] }],
      /layer 1, head 1: vertical size is 2147483648/,
    ],
    ["extension is null", [{}, { minference: null }], /layer 1: minference is not an object/],
    ["extension is a number", [{ minference: 5 }, {}], /layer 0: minference is not an object/],
    [
      "extension of another model",
      [{}, { minference: { "9": { pattern: { kind: "dense" } } } }],
      /layer 1: head "9", tiny has heads 0 to 3/,
    ],
    ["no pattern", [{ minference: { "2": { density: 1 } } }, {}], /layer 0, head 2: no pattern/],
    [
      "unknown kind",
      [{ minference: { "2": { pattern: { kind: "x" } } } }, {}],
      /^p.json: layer 0, head 2: unknown pattern/,
    ],
    ...([
      [{ kind: "vertical_slash", mass: 1.5 }, /mass must be in \(0, 1\], got 1.5/],
      [{ kind: "vertical_slash", mass: "0.9" }, /mass must be/],
      [{ kind: "vertical_slash", vertical: 3 }, /vertical_slash needs vertical and slash, or mass/],
      [
        { kind: "vertical_slash", mass: 0.9, selection: "all" },
        /selection must be exact or banded/,
      ],
      [{ kind: "block_sparse", topK: 2 ** 31 }, /topK must be a whole number from 1/],
      [{ kind: "block_sparse", topK: 2, score: "best" }, /score must be pooled or/],
      [{ kind: "block_sparse", topK: 2, forceSink: 1 }, /forceSink must be true or false/],
      [{ kind: "a_shape", sink: 1, local: 0 }, /local must be a whole number from 1/],
    ] as const).map(([pattern, message]): [string, unknown, RegExp] => [
      JSON.stringify(pattern),
      [{}, { minference: { "3": { pattern } } }],
      new RegExp(`layer 1, head 3: ${message.source}`),
    ]),
  ];
  for (const [name, value, message] of cases) {
    await t.step(name, async () => {
      const error = await failure(
        "CHECKPOINT",
        () => parsePatterns("p.json", JSON.stringify(value), target),
      );
      assert.match(error.message, message);
    });
  }
  for (const text of ["[", "", "[{}, {}", "[{}, {}]]", "{'0': 1}", "\u0000"]) {
    const error = await failure("CHECKPOINT", () => parsePatterns("p.json", text, target));
    assert.match(error.message, /p.json: not valid JSON \(/);
  }
  await failure("IO", () => readPatternFile("/no/such/file.json", target));
});

Deno.test("patterns: over HTTP", async () => {
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    (request) =>
      request.url.endsWith("/ok.json")
        ? Response.json([{}, {}])
        : new Response("no", { status: 404 }),
  );
  const base = `http://127.0.0.1:${server.addr.port}`;
  assert.equal((await readPatternFile(`${base}/ok.json`, target)).length, 2);
  const error = await failure("NETWORK", () => readPatternFile(`${base}/gone.json`, target));
  assert.match(error.message, /gone\.json: 404/);
  await server.shutdown();
  await failure("NETWORK", () => readPatternFile(`${base}/ok.json`, target));
});
