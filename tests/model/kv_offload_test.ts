// Caches in host memory against caches on the device: the same bits, whatever is done to them, and nothing left behind.
import fc from "fast-check";
import assert from "node:assert/strict";
import type { Device } from "../../src/device/device.ts";
import { openDevice } from "../../src/device/open.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { Decoder } from "../../src/model/decoder.ts";
import { KvCache } from "../../src/model/kv_cache.ts";
import { kvBytes, kvCapacity, type KvDType, kvShape } from "../../src/model/kv_shape.ts";
import type { MemoryInputs } from "../../src/model/memory.ts";
import { loadParameters, type ModelParameters } from "../../src/model/parameters.ts";
import { Session } from "../../src/model/session.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import { device, failure } from "../support.ts";

const checkpoint = await openCheckpoint(new URL("../fixtures/models/llama/", import.meta.url));
const LAYERS = 5; // more than are on the device at a time, and an odd number
const config = { ...checkpoint.config, layers: LAYERS };
const USUAL = device.kind === "cpu" ? "f32" : "bf16";
/** Rounds and tokens: a GPU may be an emulated one. */
const MANY = device.kind === "cpu" ? 2 : 1;
const TOKENS = Uint32Array.from(
  { length: 200 * MANY },
  (_, i) => (i * i + 7 * i) % config.vocabSize,
);
const DTYPES = [USUAL, "fp8"] as const;

/** The fixture's two layers, over and over. */
function deepened(loaded: ModelParameters): ModelParameters {
  const layers = Array.from({ length: LAYERS }, (_, i) => loaded.layers[i % loaded.layers.length]);
  return { ...loaded, layers };
}

const parameters = deepened(await loadParameters(device, checkpoint));

/** Text is not what is tested here: a token's is its id in brackets. */
const tokenizer = {
  detokenizer: () => ({ add: (id: number) => `[${id}]`, flush: () => "" }),
} as unknown as Tokenizer;

interface Options {
  readonly dtype: KvDType;
  readonly offloaded: boolean;
  readonly on?: Device;
  readonly weights?: ModelParameters;
}

/** A session with a decoder of its own, disposed with it. */
async function withSession<T>(
  { dtype, offloaded, on = device, weights = parameters }: Options,
  body: (session: Session) => Promise<T>,
): Promise<T> {
  using decoder = new Decoder(on, config, weights, "f32");
  const cache = new KvCache(on, kvShape(config, dtype, USUAL, offloaded));
  const patterns = null;
  const memory = (): MemoryInputs => ({
    device: on,
    config,
    kv: cache.shape,
    patterns,
    precision: "f32",
    weightDtype: () => USUAL,
    weights: weights.byteLength,
    free: on.info().freeMemory,
    hostFree: on.info().hostFreeMemory,
  });
  const contextLength = 20_000;
  await using session = new Session({
    ...{ decoder, tokenizer, cache, patterns, contextLength, memory },
  });
  return await body(session);
}

type Step =
  | { readonly kind: "read" | "replace"; readonly first: number; readonly count: number }
  | { readonly kind: "generate" | "truncate" | "fork"; readonly count: number };

/** What a session does, told by its tokens and the logits it ends with. */
async function play(
  options: Options,
  steps: readonly Step[],
  onEnd?: () => void,
): Promise<[Uint32Array, Float32Array, Float32Array]> {
  return await withSession(options, async (first) => {
    await using forks = new AsyncDisposableStack();
    let session = first;
    await session.prefill(TOKENS.subarray(0, 100));
    for (const step of steps) {
      const { count } = step;
      if ("first" in step) {
        const mode = step.kind === "read" ? "append" : "replace";
        await session.prefill(TOKENS.subarray(step.first, step.first + count), { mode });
      } else if (step.kind === "generate") {
        await session.generate(undefined, { maxTokens: count, ignoreEos: true }).text;
      } else if (step.kind === "truncate") {
        session.truncate(Math.max(1, session.length - count));
      } else {
        session = forks.use(await session.fork());
      }
    }
    onEnd?.();
    return [session.tokens, await session.logits(), await first.logits()];
  });
}

Deno.test("whatever sessions do, the place of their cache changes no bit", async () => {
  const read = fc.record({
    kind: fc.constantFrom("read" as const, "replace" as const),
    first: fc.constantFrom(0, 0, 7, 100),
    count: fc.integer({ min: 1, max: 150 }),
  });
  const other = fc.record({
    kind: fc.constantFrom("generate" as const, "truncate" as const, "fork" as const),
    count: fc.integer({ min: 1, max: 12 }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(read, other), { maxLength: 5 }),
      fc.constantFrom(...DTYPES),
      async (steps, dtype) => {
        const [there, here] = [
          await play({ dtype, offloaded: true }, steps),
          await play({ dtype, offloaded: false }, steps),
        ];
        assert.deepEqual(there, here);
      },
    ),
    {
      numRuns: 6 * MANY ** 2,
      examples: [
        [[
          { kind: "generate", count: 12 },
          { kind: "fork", count: 1 },
          { kind: "read", first: 100, count: 150 },
          { kind: "truncate", count: 12 },
          { kind: "generate", count: 12 },
        ], "fp8"],
      ],
    },
  );
});

Deno.test("the device holds two layers, the host all, and neither anything afterwards", async () => {
  for (const dtype of DTYPES) {
    const before = device.info();
    await withSession({ dtype, offloaded: true }, async (session) => {
      await session.prefill(TOKENS.subarray(0, 50));
      session.truncate(0);
      await session.prefill(TOKENS);
      const { hostAllocated } = device.info();
      const all = kvBytes(kvShape(config, dtype, USUAL), kvCapacity(TOKENS.length));
      assert.equal(hostAllocated - before.hostAllocated, all);
      await using fork = await session.fork();
      assert.ok(fork.length > 0);
      assert.equal(device.info().hostAllocated - before.hostAllocated, 2 * all);
    });
    const { allocated, hostAllocated } = device.info();
    assert.deepEqual([allocated, hostAllocated], [before.allocated, before.hostAllocated]);
  }
  using cache = new KvCache(device, kvShape(config, "fp8", USUAL, true));
  const controller = new AbortController();
  const reserving = cache.reserve(1000, 0, controller.signal);
  controller.abort(); // while the first layer's memory is taken
  await assert.rejects(reserving, { name: "AbortError" });
  assert.deepEqual(cache.bytes, { device: 0, host: 0 });
  await cache.reserve(1000, 0);
  const layer = kvBytes(kvShape({ ...config, layers: 1 }, "fp8", USUAL), kvCapacity(1000));
  const { device: inside, host } = cache.bytes;
  assert.deepEqual([inside - cache.ids.byteLength, host], [2 * layer, LAYERS * layer]);
});

Deno.test("an abort at any moment leaves what was held", async () => {
  const [held, more] = [TOKENS.subarray(0, 70), TOKENS.subarray(70)];
  for (const dtype of DTYPES) {
    // Behind an abort the last token, or its block of a quantised cache, runs again.
    const expected = await withSession({ dtype, offloaded: false }, async (session) => {
      await session.prefill(held);
      if (dtype !== "fp8") await session.prefill(new Uint32Array());
      return await session.logits();
    });
    await withSession({ dtype, offloaded: true }, async (session) => {
      await session.prefill(held);
      const { ms } = await session.prefill(more);
      session.truncate(held.length);
      let aborted = 0;
      const rounds = 5 * MANY;
      for (let i = 0; i < rounds; i++) {
        const controller = new AbortController();
        const timer = setTimeout(() => controller.abort(), ms * i / (rounds - 1));
        try {
          await session.prefill(more, { signal: controller.signal });
          session.truncate(held.length);
        } catch (error) {
          if (!controller.signal.aborted) throw error;
          aborted++;
          assert.deepEqual(await session.logits(), expected);
        }
        clearTimeout(timer);
        assert.deepEqual(session.tokens, held);
      }
      assert.ok(aborted > 0);
    });
  }
});

Deno.test("memory may end at any allocation, on the device or on the host, and all of it comes back", async () => {
  const steps: readonly Step[] = [
    { kind: "generate", count: 3 },
    { kind: "fork", count: 1 },
    { kind: "read", first: 0, count: 400 },
    { kind: "generate", count: 2 },
  ];
  for (const dtype of DTYPES) {
    const once = async (memoryLimit?: number): Promise<{ result: unknown; most: number }> => {
      await using small = await openDevice({ kind: device.kind, threads: 1, memoryLimit });
      let most = 0;
      try {
        using loaded = await loadParameters(small, checkpoint);
        const weights = deepened(loaded);
        const result = await play({ dtype, offloaded: true, on: small, weights }, steps, () => {
          most = small.info().peak + small.info().hostAllocated;
        });
        return { result, most };
      } finally {
        const { allocated, hostAllocated } = small.info();
        assert.deepEqual([allocated, hostAllocated], [0, 0], `limit ${memoryLimit}`);
      }
    };
    const { result: expected, most } = await once();
    const rounds = 8 * MANY ** 2;
    for (let i = 1; i <= rounds; i++) {
      const error = await failure(() => once(Math.floor(most * i / (rounds + 1))));
      assert.equal(error.code, "OUT_OF_MEMORY", error.message);
    }
    const { result } = await once(2 * most);
    assert.deepEqual(result, expected);
  }
});

Deno.test("after memory ran out a session goes on with what it held", async () => {
  const write = (session: Session): Promise<string> =>
    session.generate(undefined, { maxTokens: 3, ignoreEos: true }).text;
  for (const dtype of DTYPES) {
    let most = 0;
    const [expected] = await play({ dtype, offloaded: true }, [{ kind: "generate", count: 3 }]);
    {
      await using free = await openDevice({ kind: device.kind, threads: 1 });
      using loaded = await loadParameters(free, checkpoint);
      const weights = deepened(loaded);
      await play({ dtype, offloaded: true, on: free, weights }, [], () => {
        most = free.info().peak + free.info().hostAllocated;
      });
    }
    const memoryLimit = most + (1 << 18);
    await using small = await openDevice({ kind: device.kind, threads: 1, memoryLimit });
    using loaded = await loadParameters(small, checkpoint);
    const weights = deepened(loaded);
    await withSession({ dtype, offloaded: true, on: small, weights }, async (session) => {
      await session.prefill(TOKENS.subarray(0, 100));
      const error = await failure(() => session.prefill(new Uint32Array(15_000)));
      assert.equal(error.code, "OUT_OF_MEMORY");
      assert.equal(session.length, 100);
      await write(session);
      assert.deepEqual(session.tokens, expected);
    });
  }
});

addEventListener("unload", () => parameters[Symbol.dispose]());
