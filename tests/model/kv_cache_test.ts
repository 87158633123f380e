// Caches of both kinds under a decoder: reading in parts, going back, copies, growth, growth that fails.
import fc from "fast-check";
import assert from "node:assert/strict";
import { openDevice } from "../../src/device/open.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { Decoder } from "../../src/model/decoder.ts";
import { KvCache } from "../../src/model/kv_cache.ts";
import { idBytes, kvBytes, kvCapacity, type KvDType, kvShape } from "../../src/model/kv_shape.ts";
import { loadParameters } from "../../src/model/parameters.ts";
import { device, failure, relativeError } from "../support.ts";

const checkpoint = await openCheckpoint(new URL("../fixtures/models/llama/", import.meta.url));
const { config } = checkpoint;
const parameters = await loadParameters(device, checkpoint);
const decoder = new Decoder(device, config, parameters, "f32");
const USUAL = device.kind === "cpu" ? "f32" : "bf16";
const TOKENS = Uint32Array.from({ length: 256 }, (_, i) => (i * i + 7 * i) % config.vocabSize);
/** Logits of tokens that read quantised keys and values, against those that do not. */
const FP8_ERROR = 0.1;

function emptyCache(dtype: KvDType = "fp8"): KvCache {
  return new KvCache(device, kvShape(config, dtype, USUAL));
}

/** Reads TOKENS [from, to), the cache holding those before; logits of the last. */
async function read(cache: KvCache, from: number, to: number): Promise<Float32Array> {
  using logits = device.tensor([config.vocabSize]);
  await cache.reserve(to, from);
  await decoder.forward(TOKENS.subarray(from, to), cache, from, logits);
  return await logits.read();
}

/** Reads the first `count` tokens, in passes that end at `cuts`. */
async function readAll(
  cache: KvCache,
  count: number,
  cuts: readonly number[] = [],
): Promise<Float32Array> {
  let from = 0;
  let last = new Float32Array();
  for (const end of [...cuts, count]) {
    if (end <= from || end > count) continue;
    last = Float32Array.from(await read(cache, from, end));
    from = end;
  }
  return last;
}

Deno.test("a prompt read at once is not affected by how its keys and values are kept", async () => {
  using quantised = emptyCache();
  using stored = emptyCache(USUAL);
  assert.deepEqual(await readAll(quantised, 200), await readAll(stored, 200));
});

Deno.test("read in any parts, down to single tokens, a prompt has nearly the logits of read at once", async () => {
  const cuts = fc.array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(cuts, fc.boolean(), async (cuts, singly) => {
      const ends = cuts.flatMap((cut) => singly ? [cut, cut + 1, cut + 2] : [cut]);
      const count = 256;
      using whole = emptyCache(USUAL);
      using parts = emptyCache();
      const expected = await readAll(whole, count);
      const actual = await readAll(parts, count, ends.toSorted((a, b) => a - b));
      const error = relativeError(actual, expected);
      assert.ok(error < FP8_ERROR, `error ${error}`);
    }),
    { numRuns: 5 },
  );
});

Deno.test("tokens after any place can be taken back and read anew", async () => {
  using fresh = emptyCache(USUAL);
  const expected = await readAll(fresh, 250);
  using cache = emptyCache();
  await readAll(cache, 250);
  for (const kept of [249, 200, 128, 127, 60, 1]) {
    const error = relativeError(await read(cache, kept, 250), expected);
    assert.ok(error < FP8_ERROR, `back to ${kept}: error ${error}`);
  }
});

Deno.test("a copy goes on as the original does, and neither touches the other", async () => {
  for (const kept of [200, 128, 70]) {
    using cache = emptyCache();
    await readAll(cache, 200);
    using copy = await cache.clone(kept);
    const ofCopy = await read(copy, kept, 230);
    await read(copy, 0, 100);
    assert.deepEqual(await read(cache, kept, 230), ofCopy);
  }
});

Deno.test("growth keeps what is held and takes one layer beside it", async () => {
  for (const dtype of ["fp8", USUAL] as const) {
    await using small = await openDevice({ kind: device.kind, threads: 1 });
    using weights = await loadParameters(small, checkpoint);
    using other = new Decoder(small, config, weights, "f32");
    const shape = kvShape(config, dtype, USUAL);
    using cache = new KvCache(small, shape);
    using logits = small.tensor([config.vocabSize]);
    await cache.reserve(100, 0);
    await other.forward(TOKENS.subarray(0, 100), cache, 0, logits);
    using unmoved = await cache.clone(100);
    const held = small.info().allocated;
    const before = cache.bytes.device;
    await cache.reserve(5000, 100);
    const grown = kvBytes(shape, kvCapacity(5000)) + idBytes(kvCapacity(5000));
    assert.equal(cache.bytes.device, grown);
    assert.equal(small.info().allocated - held, grown - before);
    assert.ok(small.info().peak - held <= grown - before + before / config.layers);
    const next = async (of: KvCache): Promise<Float32Array> => {
      await other.forward(TOKENS.subarray(100, 101), of, 100, logits);
      return await logits.read();
    };
    await unmoved.reserve(101, 100);
    assert.deepEqual(await next(cache), await next(unmoved));
  }
});

Deno.test("growth that fails half-way loses nothing and can be tried again", async () => {
  const shape = kvShape(config, "fp8", USUAL);
  // Room for the first layer's growth, not for the second's.
  const [few, many] = [kvBytes(shape, kvCapacity(100)), kvBytes(shape, kvCapacity(4000))];
  await using small = await openDevice({
    kind: device.kind,
    threads: 1,
    memoryLimit: few + many * 0.75,
  });
  using cache = new KvCache(small, shape);
  await cache.reserve(100, 0);
  const { capacity } = cache;
  const error = await failure(() => cache.reserve(4000, 100));
  assert.equal(error.code, "OUT_OF_MEMORY");
  assert.equal(cache.capacity, capacity);
  using copy = await cache.clone(100); // every layer is still there
  assert.equal(copy.capacity, kvCapacity(100));
  copy[Symbol.dispose]();
  await cache.reserve(1000, 100);
  assert.ok(cache.capacity >= 1000);
  const empty = await failure(() => new KvCache(small, shape).reserve(100_000, 0));
  assert.equal(empty.code, "OUT_OF_MEMORY");
  assert.equal(small.info().allocated, cache.bytes.device); // a cache that held nothing keeps nothing
});

Deno.test("types that a cache cannot have are refused", async () => {
  const name = await failure(() => kvShape(config, "int8" as KvDType, USUAL));
  assert.equal(name.code, "INVALID_ARGUMENT");
  assert.match(name.message, /int8/);
  const odd = await failure(() => kvShape({ ...config, headDim: 24 }, "fp8", USUAL));
  assert.equal(odd.code, "UNSUPPORTED");
  assert.equal(odd.details.headDim, 24);
});

addEventListener("unload", () => {
  decoder[Symbol.dispose]();
  parameters[Symbol.dispose]();
});
