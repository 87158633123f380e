// Published pattern files: which model has one, and what a choice of patterns reads. Nothing leaves the machine: `fetch`
// is led to a server of the test.
import assert from "node:assert/strict";
import { patternChoice } from "../../src/cli/model_options.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { choosePatterns } from "../../src/model/pattern_choice.ts";
import { PUBLISHED_MODELS, publishedPatterns } from "../../src/model/published_patterns.ts";
import { serve } from "../build/support.ts";
import { failure, NEEDLE } from "./support.ts";

/** Fetches from `server` instead of any host, until disposed. */
function redirectFetch(server: URL): Disposable {
  const { fetch } = globalThis;
  globalThis.fetch = (input, init) => {
    const { pathname } = new URL(input instanceof Request ? input.url : input);
    return fetch(new URL(pathname, server), init);
  };
  return { [Symbol.dispose]: () => void (globalThis.fetch = fetch) };
}

Deno.test("published patterns: an address of one commit for every model", () => {
  assert.ok(PUBLISHED_MODELS.length >= 18);
  for (const id of PUBLISHED_MODELS) {
    assert.match(id, /^[\w.-]+\/[\w.-]+$/);
    assert.match(
      publishedPatterns(id).href,
      /^https:\/\/raw\.githubusercontent\.com\/microsoft\/MInference\/[0-9a-f]{40}\/minference\/configs\/[\w.]+\.json$/,
    );
  }
});

Deno.test("published patterns: a model is known by its id, its directory or its GGUF name", async () => {
  const { href } = publishedPatterns("meta-llama/Meta-Llama-3.1-8B-Instruct");
  assert.match(href, /Llama_3\.1_8B_Instruct_128k/);
  for (
    const name of [
      "meta-llama/llama-3.1-8b-instruct",
      "/data/models/Meta-Llama-3.1-8B-Instruct",
      "Meta Llama 3.1 8B Instruct",
    ]
  ) {
    assert.equal(publishedPatterns(name).href, href);
    assert.equal(publishedPatterns("checkpoint-500", name).href, href);
  }
  assert.notEqual(publishedPatterns("Qwen/Qwen2.5-7B-Instruct-1M").href, href);
  const error = await failure("INVALID_ARGUMENT", () => publishedPatterns("mine", "ours"));
  assert.match(error.message, /no published patterns of mine or ours; .*01-ai\/Yi-9B-200K/);
});

Deno.test("published patterns: --patterns names a file, a URL, a model, or this model's", () => {
  assert.equal(patternChoice("upstream"), "upstream");
  assert.deepEqual(patternChoice("01-ai/Yi-9B-200K"), { published: "01-ai/Yi-9B-200K" });
  for (const file of ["some/file.json", "https://example.org/p.json"]) {
    assert.deepEqual(patternChoice(file), { file });
  }
});

Deno.test("published patterns: read for the model, and refused where they are another's", async () => {
  const checkpoint = await openCheckpoint(NEEDLE);
  const { layers, heads } = checkpoint.config;
  const fitting = Array.from({ length: layers }, () => ({ "1": ["stream_llm", 100, 800, 1] }));
  const { pathname } = publishedPatterns("Qwen/Qwen2-7B-Instruct");
  await using server = await serve((path) => {
    if (`/${path}` === pathname) return JSON.stringify(fitting);
    return path.endsWith(".json") ? "[{}]" : undefined;
  });
  using _ = redirectFetch(server.url);
  const qwen = { ...checkpoint, modelName: "qwen2-7b-instruct" };
  for (
    const patterns of [
      await choosePatterns("upstream", qwen),
      await choosePatterns({ published: "Qwen/Qwen2-7B-Instruct" }, checkpoint),
      await choosePatterns({ file: new URL(pathname, server.url) }, checkpoint),
    ]
  ) {
    assert.equal(patterns?.length, layers);
    assert.equal(patterns[0].length, heads);
    assert.deepEqual(patterns[0][0], { kind: "vertical_slash", vertical: 1000, slash: 6096 });
    assert.deepEqual(patterns[0][1], { kind: "a_shape", sink: 100, local: 800 });
  }
  const error = await failure(
    "CHECKPOINT",
    () => choosePatterns({ published: "01-ai/Yi-9B-200K" }, checkpoint),
  );
  assert.match(error.message, /patterns of 1 layers, .* has 8/);
  const asked = server.requests.length;
  await failure("INVALID_ARGUMENT", () => choosePatterns("upstream", checkpoint));
  await choosePatterns("auto", { ...checkpoint, modelName: "Qwen2-7B-Instruct" });
  assert.equal(server.requests.length, asked); // neither fetched anything
});
