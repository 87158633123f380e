// Sessions on the real model: reading in parts, reuse, forks, aborts, two at once.
import assert from "node:assert/strict";
import { openDevice } from "../../src/device/open.ts";
import { loadModel } from "../../src/model/model.ts";
import type { Session } from "../../src/model/session.ts";
import { device, failure, relativeError } from "../support.ts";
import { longRead, needlePrompt, novel, question } from "./needle.ts";
import { NEEDLE, temporaryDirectory } from "./support.ts";

const model = await loadModel(NEEDLE, { device });

const prompt = (characters: number): string => needlePrompt(characters, "tall-lantern", "7482913");

async function answer(session: Session): Promise<string> {
  return (await session.generate(undefined, { maxTokens: 10, stop: ["."] }).text).trim();
}

Deno.test("a needle in 3K tokens is found, densely and sparsely", async () => {
  for (const patterns of ["dense", "auto"] as const) {
    await using session = await model.createSession({ patterns });
    await session.prefill(prompt(10_000));
    assert.equal(await answer(session), "7482913");
  }
});

Deno.test("reading in parts gives the logits of reading at once", async () => {
  const ids = await model.tokenizer.encodeAsync(prompt(6000));
  await using whole = await model.createSession({ patterns: "dense" });
  await whole.prefill(ids);
  const expected = await whole.logits();
  for (const cut of [1, 64, 777, ids.length - 1]) {
    await using parts = await model.createSession({ patterns: "dense" });
    await parts.prefill(ids.subarray(0, cut));
    await parts.prefill(ids.subarray(cut));
    assert.equal(parts.length, ids.length);
    const error = relativeError(await parts.logits(), expected);
    assert.ok(error < 2e-2, `cut at ${cut}: error ${error}`);
  }
});

Deno.test("replace reuses the longest shared prefix", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  const first = await session.prefill(prompt(4000), { mode: "replace" });
  assert.equal(first.cachedTokens, 0);
  const other = prompt(4000).replace(
    question("tall-lantern"),
    "\nWhat is the pass key? The pass key is",
  );
  const second = await session.prefill(other, { mode: "replace" });
  assert.ok(second.cachedTokens > 900, `${second.cachedTokens}`);
  assert.ok(second.tokens < 40, `${second.tokens}`);
  // The same prompt again: one token runs, for its logits.
  const third = await session.prefill(other, { mode: "replace" });
  assert.equal(third.tokens, 1);
  await using fresh = await model.createSession({ patterns: "dense" });
  await fresh.prefill(other);
  assert.ok(relativeError(await session.logits(), await fresh.logits()) < 2e-2);
});

Deno.test("a truncated session goes on as if the rest had never been", async () => {
  const ids = model.tokenizer.encode(prompt(4000));
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill(ids);
  await session.generate(undefined, { maxTokens: 5 }).text;
  session.truncate(ids.length);
  assert.equal(await answer(session), "7482913");
  assert.equal(
    (await failure(() => session.truncate(session.length + 1))).code,
    "INVALID_ARGUMENT",
  );
});

Deno.test("a fork goes its own way", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill(prompt(4000));
  await using fork = await session.fork();
  const before = await session.logits();
  await fork.prefill(" something else entirely");
  assert.deepEqual(await session.logits(), before);
  assert.equal(await answer(session), "7482913");
});

Deno.test("sessions used at once take turns and answer right", async () => {
  const answers = await Promise.all([1, 2, 3].map(async (n) => {
    await using session = await model.createSession();
    await session.prefill(prompt(3000 + 500 * n));
    return await answer(session);
  }));
  assert.deepEqual(answers, ["7482913", "7482913", "7482913"]);
});

/** Has the session read what takes long; resolves, to the reading, when the device is at it. */
async function beginReading(
  session: Session,
  signal?: AbortSignal,
): Promise<{ reading: Promise<unknown> }> {
  const begun = Promise.withResolvers<void>();
  const reading = session.prefill(model.tokenizer.encode(longRead), {
    signal,
    onProgress: ({ stage, done }) => {
      if (stage === "prefill" && done > 0) begun.resolve();
    },
  });
  await Promise.race([begun.promise, reading]);
  return { reading };
}

Deno.test("an aborted prefill returns within 200 ms, rejects with the reason, and the session goes on", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill("The pass key is 48213. Remember it. 48213 is the pass key.");
  const held = session.length;
  const controller = new AbortController();
  const reason = new Error("changed my mind");
  const { reading } = await beginReading(session, controller.signal);
  const aborted = performance.now();
  controller.abort(reason);
  await assert.rejects(reading, reason);
  const took = performance.now() - aborted;
  assert.ok(took < 200, `took ${took} ms`);
  assert.equal(session.length, held);
  await session.prefill(" What is the pass key? The pass key is");
  assert.equal(await answer(session), "48213");
});

Deno.test("an aborted generation keeps its text", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill(novel.slice(0, 500));
  const controller = new AbortController();
  const generation = session.generate(undefined, {
    maxTokens: 10_000,
    signal: controller.signal,
    ignoreEos: true,
  });
  let tokens = 0;
  for await (const chunk of generation) {
    tokens += chunk.tokens.length;
    if (tokens === 5) controller.abort();
  }
  const stats = await generation.stats;
  assert.equal(stats.finishReason, "abort");
  assert.equal(stats.completionTokens, 5);
});

Deno.test("leaving the loop stops a generation; its stream can be a response body", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill(novel.slice(0, 500));
  for await (const _ of session.generate(undefined, { maxTokens: 1000, ignoreEos: true })) break;
  const length = session.length;
  const generation = session.generate(undefined, { maxTokens: 4, ignoreEos: true });
  const text = await new Response(generation.toReadableStream()).text();
  assert.equal(text, await generation.text);
  assert.equal(session.length, length + 4);
});

Deno.test("seeded sampling repeats itself; other seeds differ", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill(novel.slice(0, 800));
  const draw = async (seed: number): Promise<string> => {
    await using fork = await session.fork();
    return await fork.generate(undefined, { maxTokens: 24, temperature: 1, topP: 0.95, seed }).text;
  };
  const [a, b, c] = [await draw(1), await draw(1), await draw(2)];
  assert.equal(a, b);
  assert.notEqual(a, c);
});

Deno.test("prompts beyond the context are refused with the numbers, never cut", async () => {
  await using session = await model.createSession({ contextLength: 100, patterns: "dense" });
  const error = await failure(() => session.prefill(novel.slice(0, 2000)));
  assert.equal(error.code, "CONTEXT_OVERFLOW");
  assert.equal(error.details.capacity, 100);
  assert.ok((error.details.tokens as number) > 400);
  assert.equal(session.length, 0);
  const ids = await failure(() => session.prefill(new Uint32Array([9000])));
  assert.match(ids.message, /9000.*8192/);
  assert.equal((await failure(() => session.prefill(new Uint32Array()))).code, "INVALID_ARGUMENT");
});

Deno.test("prompts given at once are read one after the other, as one text", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  const reads = [session.prefill("The ship"), session.prefill(" sailed"), session.prefill(" away")];
  await Promise.all(reads);
  const start = model.tokenizer.encode("The ship")[0];
  assert.equal(session.tokens[0], start);
  assert.ok(!session.tokens.subarray(1).includes(start));
  assert.equal(model.tokenizer.decode(session.tokens), "The ship sailed away");
});

Deno.test("what no token can be drawn by is refused before the prompt is read", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  const wrong = [
    { topP: 0 },
    { temperature: -1 },
    { topK: 5e9 },
    { minP: 2 },
    { seed: 1.5 },
    {
      maxTokens: NaN,
    },
    { maxTokens: -1 },
    { repetitionPenalty: 0 },
  ];
  for (const options of wrong) {
    const error = await failure(() => session.generate("The ship", options).text);
    assert.equal(error.code, "INVALID_ARGUMENT");
    const [name, value] = Object.entries(options)[0];
    assert.match(error.message, new RegExp(`${name} must be .* got ${value}`));
    assert.equal(session.length, 0);
  }
  const mode = await failure(() => session.prefill("x", { mode: "prepend" as "append" }));
  assert.match(mode.message, /mode must be append or replace, got prepend/);
});

Deno.test("a disposed session refuses use", async () => {
  const session = await model.createSession();
  await session.dispose();
  await session.dispose();
  assert.equal((await failure(() => session.prefill("x"))).code, "DISPOSED");
});

Deno.test("a memory plan is within 3% of what a prefill takes, sparse and dense", async () => {
  const ids = model.tokenizer.encode(prompt(40_000));
  for (const patterns of ["auto", "dense"] as const) {
    for (const length of [2000, ids.length]) {
      await using fresh = await openDevice({ kind: device.kind }); // its peak is this prefill's
      await using other = await loadModel(NEEDLE, { device: fresh, patterns });
      const plan = other.planMemory(length);
      assert.ok(plan.fits && plan.maxContext > length);
      const { peak, allocated } = fresh.info();
      await using session = await other.createSession();
      await session.prefill(ids.subarray(0, length));
      assert.ok(fresh.info().peak > peak);
      const taken = fresh.info().peak - allocated;
      const planned = plan.kvCache + plan.workspace;
      const text = `${patterns}, ${length} tokens: ${taken} taken, ${planned} planned`;
      assert.ok(Math.abs(planned / taken - 1) < 0.03, text);
    }
  }
});

Deno.test("a session that is at work cannot be truncated", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill(prompt(2000));
  const held = session.length;
  const reading = session.prefill(prompt(4000));
  assert.match((await failure(() => session.truncate(10))).message, /at work/);
  await reading;
  session.truncate(held);
  assert.equal(session.length, held);
});

Deno.test("work that somebody else cancelled is not taken for done", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill(prompt(3000));
  const held = session.tokens;
  const { reading } = await beginReading(session);
  const failed = failure(() => reading);
  device.cancel();
  await Promise.allSettled([device.sync()]); // whoever waits first is told of the drop
  assert.equal((await failed).code, "CANCELLED");
  assert.deepEqual(session.tokens, held);
  await using fresh = await model.createSession({ patterns: "dense" });
  await fresh.prefill(held);
  assert.ok(relativeError(await session.logits(), await fresh.logits()) < 0.02);
});

Deno.test("options that cannot be are refused before the weights are read", async () => {
  const before = device.info().allocated;
  const wrong = [{ kvDtype: "f8" as "f16" }, { kvPlace: "hots" as "host" }, { contextLength: 1.5 }];
  for (const options of wrong) {
    const error = await failure(() => loadModel(NEEDLE, { device, ...options }));
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.equal(device.info().allocated, before);
  }
});

Deno.test("where frequencies depend on the length, what was read shorter is read again", async () => {
  using directory = temporaryDirectory();
  const fixture = new URL("../fixtures/models/phi3-long/", import.meta.url);
  const files = [["config.json", fixture], ["model.safetensors", fixture], [
    "tokenizer.json",
    NEEDLE,
  ]];
  for (const [name, from] of files as [string, URL][]) {
    Deno.copyFileSync(new URL(name, from), `${directory.path}/${name}`);
  }
  await using long = await loadModel(directory.path, { device, patterns: "dense" });
  const { scaling } = long.config.rope;
  const limit = scaling.kind === "longrope" ? scaling.originalPositions : 0;
  const ids = Uint32Array.from(
    { length: limit + 20 },
    (_, i) => (i * 37 + 5) % long.config.vocabSize,
  );
  await using whole = await long.createSession();
  await whole.prefill(ids);
  const expected = await whole.logits();
  for (const mode of ["append", "replace"] as const) {
    await using session = await long.createSession();
    await session.prefill(ids.subarray(0, 10));
    await session.prefill(mode === "append" ? ids.subarray(10) : ids, { mode });
    assert.equal(session.length, ids.length);
    assert.ok(relativeError(await session.logits(), expected) < 0.02, mode);
  }
});
