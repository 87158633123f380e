// Generation with one token queued ahead of the host, on a tiny model of random weights: every token against passes of
// which the host knows all.
import assert from "node:assert/strict";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { Decoder } from "../../src/model/decoder.ts";
import type { GenerateOptions, TokenChunk } from "../../src/model/generation.ts";
import { KvCache } from "../../src/model/kv_cache.ts";
import type { MemoryInputs } from "../../src/model/memory.ts";
import { loadParameters } from "../../src/model/parameters.ts";
import { Session } from "../../src/model/session.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import { device, relativeError } from "../support.ts";

const folder = new URL("../fixtures/models/llama/", import.meta.url);
const checkpoint = await openCheckpoint(folder);
const parameters = await loadParameters(device, checkpoint);
const PROMPT = Uint32Array.of(1, 17, 101, 5, 64, 33, 90, 7, 12, 120, 44);

/** A token's text is its id in brackets. */
const tokenizer = {
  detokenizer: () => ({ add: (id: number) => `[${id}]`, flush: () => "" }),
} as unknown as Tokenizer;

function open(eosIds: readonly number[] = [], contextLength = 256): Session {
  const { config } = checkpoint;
  const decoder = new Decoder(device, { ...config, eosIds }, parameters, "f32");
  const dtype = device.kind === "cpu" ? "f32" : "bf16";
  const cache = new KvCache(device, { ...config, dtype });
  const patterns = null;
  const memory = (): MemoryInputs => ({
    device,
    config,
    kv: cache.shape,
    patterns,
    precision: "f32",
    weightDtype: () => dtype,
    weights: parameters.byteLength,
    free: device.info().freeMemory,
    hostFree: device.info().hostFreeMemory,
  });
  return new Session({ decoder, tokenizer, cache, patterns, contextLength, memory });
}

async function opened(eosIds: readonly number[] = []): Promise<Session> {
  const session = open(eosIds);
  await session.prefill(PROMPT);
  return session;
}

async function generate(session: Session, options: GenerateOptions): Promise<number[]> {
  const tokens: number[] = [];
  for await (const chunk of session.generate(undefined, options)) tokens.push(...chunk.tokens);
  return tokens;
}

/** The likeliest token after `session`, with repeated ones penalised on the host. */
async function likeliest(session: Session, penalty: number): Promise<number> {
  const logits = await session.logits();
  for (const id of new Set(session.tokens)) {
    logits[id] = Math.fround(logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty);
  }
  return logits.indexOf(Math.max(...logits));
}

/** As generating without anything ahead: each token is read, then given back. */
async function stepByStep(count: number, penalty = 1): Promise<number[]> {
  await using session = await opened();
  for (let i = 0; i < count; i++) {
    await session.prefill(Uint32Array.of(await likeliest(session, penalty)));
  }
  return [...session.tokens].slice(PROMPT.length);
}

/** The logits must be those of a session that reads the same tokens afresh; a row alone may round otherwise. */
async function assertSound(session: Session): Promise<void> {
  await using fresh = open();
  await fresh.prefill(session.tokens);
  const error = relativeError(await session.logits(), await fresh.logits());
  assert.ok(error < (device.kind === "cpu" ? 1e-5 : 2e-2), `error ${error}`);
}

Deno.test("tokens drawn ahead are those drawn step by step, also where the cache grows", async () => {
  await using session = await opened();
  const count = 60;
  assert.deepEqual(await generate(session, { maxTokens: count }), await stepByStep(count));
  await assertSound(session);
});

Deno.test("a repetition penalty counts every token held, read from the device", async () => {
  for (const repetitionPenalty of [1.3, 0.8]) {
    await using session = await opened();
    const tokens = await generate(session, { maxTokens: 30, repetitionPenalty });
    assert.deepEqual(tokens, await stepByStep(30, repetitionPenalty));
  }
});

Deno.test("an end token whose pass was queued already leaves no trace", async () => {
  const penalty = { repetitionPenalty: 1.5 }; // all tokens differ for a while
  const tokens = await stepByStep(12, 1.5);
  for (const at of [0, 1, 5, 11]) {
    const end = tokens[at];
    const first = tokens.indexOf(end);
    await using session = await opened([end]);
    assert.deepEqual(
      await generate(session, { ...penalty, maxTokens: 12 }),
      tokens.slice(0, first),
    );
    assert.equal(session.length, PROMPT.length + first);
    await assertSound(session);
  }
});

Deno.test("a stop text, the last token wanted and a full context end it with the tokens shown", async () => {
  const penalty = { repetitionPenalty: 1.5 };
  const tokens = await stepByStep(8, 1.5);
  await using stopped = await opened();
  const stop = [`[${tokens[3]}][${tokens[4]}]`];
  const generation = stopped.generate(undefined, { ...penalty, maxTokens: 8, stop });
  assert.equal(await generation.text, tokens.slice(0, 3).map((id) => `[${id}]`).join(""));
  assert.equal((await generation.stats).finishReason, "stop");
  assert.equal(stopped.length, PROMPT.length + 5);
  await assertSound(stopped);

  await using short = await opened();
  assert.deepEqual(await generate(short, { ...penalty, maxTokens: 1 }), tokens.slice(0, 1));
  assert.deepEqual(await generate(short, { ...penalty, maxTokens: 2 }), tokens.slice(1, 3));
  await assertSound(short);

  await using full = open([], PROMPT.length + 3);
  await full.prefill(PROMPT);
  assert.deepEqual(await generate(full, { ...penalty, maxTokens: 1000 }), tokens.slice(0, 3));
});

Deno.test("equal seeds draw equal tokens, whatever else runs", async () => {
  const draw = async (seed: number): Promise<number[]> => {
    await using session = await opened();
    return await generate(session, { maxTokens: 20, temperature: 1.5, seed });
  };
  const alone = await draw(7);
  const [a, b, c] = await Promise.all([draw(7), draw(8), draw(7)]);
  assert.deepEqual([a, c], [alone, alone]);
  assert.notDeepEqual(b, alone);
});

Deno.test("two sessions in turn, each with a token ahead, do not disturb each other", async () => {
  const expected = await stepByStep(20);
  const penalised = await stepByStep(20, 1.5);
  await using a = await opened();
  await using b = await opened();
  const streams = [
    a.generate(undefined, { maxTokens: 20 }),
    b.generate(undefined, { maxTokens: 20, repetitionPenalty: 1.5 }),
  ].map((generation) => generation[Symbol.asyncIterator]());
  const tokens: number[][] = [[], []];
  for (let i = 0; i < 20; i++) {
    for (const [n, stream] of streams.entries()) {
      tokens[n].push(...((await stream.next()).value as TokenChunk).tokens);
    }
  }
  assert.deepEqual(tokens, [expected, penalised]);
});

Deno.test("fork, truncate and dispose in the middle of a generation", async () => {
  const tokens = await stepByStep(20);
  await using session = await opened();
  let fork: Session | undefined;
  let seen = 0;
  for await (const _ of session.generate(undefined, { maxTokens: 20 })) {
    if (++seen === 6) fork = await session.fork();
    if (seen === 9) break;
  }
  assert.deepEqual([...fork!.tokens].slice(PROMPT.length), tokens.slice(0, 6));
  assert.deepEqual(await generate(fork!, { maxTokens: 14 }), tokens.slice(6));
  await fork!.dispose();
  assert.equal(session.length, PROMPT.length + 9);
  session.truncate(PROMPT.length + 3);
  assert.deepEqual(await generate(session, { maxTokens: 5 }), tokens.slice(3, 8));
  const left = await opened();
  for await (const _ of left.generate(undefined, { maxTokens: 20 })) break;
  await left.dispose(); // its next pass is still queued
  await assertSound(session);
});

Deno.test("an abort in the middle keeps the tokens shown", async () => {
  const tokens = await stepByStep(8);
  await using session = await opened();
  const controller = new AbortController();
  const seen: number[] = [];
  const generation = session.generate(undefined, { maxTokens: 20, signal: controller.signal });
  for await (const chunk of generation) {
    seen.push(...chunk.tokens);
    if (seen.length === 4) controller.abort();
  }
  assert.equal((await generation.stats).finishReason, "abort");
  assert.deepEqual(seen, tokens.slice(0, 4));
  assert.equal(session.length, PROMPT.length + 4);
  assert.deepEqual(await generate(session, { maxTokens: 4 }), tokens.slice(4));
});

Deno.test("a pass dropped by somebody else's cancel runs again", async () => {
  const tokens = await stepByStep(8);
  await using session = await opened();
  const seen: number[] = [];
  for await (const chunk of session.generate(undefined, { maxTokens: 8 })) {
    seen.push(...chunk.tokens);
    device.cancel();
    await device.sync().catch(() => {}); // reports what was dropped, if anything was
  }
  assert.deepEqual(seen, tokens);
});
