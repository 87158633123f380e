// Sessions with an fp8 cache on the real model: the answers of a 16-bit cache, and the same freedoms.
import assert from "node:assert/strict";
import { openDevice } from "../../src/device/open.ts";
import { KV_BLOCK, usualKvDtype } from "../../src/model/kv_shape.ts";
import { loadModel } from "../../src/model/model.ts";
import type { Session } from "../../src/model/session.ts";
import { device, failure, relativeError } from "../support.ts";
import { longRead, needlePrompt } from "./needle.ts";
import { NEEDLE } from "./support.ts";

const model = await loadModel(NEEDLE, { device, kvDtype: "fp8" });
const usual = usualKvDtype(device);

async function answer(session: Session): Promise<string> {
  return (await session.generate(undefined, { maxTokens: 10, stop: ["."] }).text).trim();
}

Deno.test("answers are those of a 16-bit cache, dense and sparse, read at once and in parts", async () => {
  const cases = [
    [3000, "tall-lantern", "7482913"],
    [6000, "grey-harbour", "5561207"],
    [12_000, "quiet-meadow", "3090418"],
  ] as const;
  for (const [characters, name, value] of cases) {
    const ids = model.tokenizer.encode(needlePrompt(characters, name, value));
    for (const patterns of ["dense", "auto"] as const) {
      await using stored = await model.createSession({ patterns, kvDtype: usual });
      await using fp8 = await model.createSession({ patterns });
      await using parts = await model.createSession({ patterns });
      await stored.prefill(ids);
      await fp8.prefill(ids);
      assert.deepEqual(await fp8.logits(), await stored.logits());
      await parts.prefill(ids.subarray(0, 777));
      await parts.prefill(ids.subarray(777));
      assert.deepEqual(await Promise.all([stored, fp8, parts].map(answer)), [value, value, value]);
    }
  }
});

Deno.test("truncated, replaced and forked within a block, a session is as if the rest had never been", async () => {
  const ids = model.tokenizer.encode(needlePrompt(4000, "tall-lantern", "7482913"));
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill(ids);
  await session.generate(undefined, { maxTokens: 150, ignoreEos: true }).text; // into other blocks
  await using fork = await session.fork();
  session.truncate(ids.length);
  assert.equal(await answer(session), "7482913");
  await fork.prefill(ids, { mode: "replace" });
  // The same blocks were read before the last one, unquantised, and quantised under it.
  await using fresh = await model.createSession({ patterns: "dense" });
  const blocks = ids.length - ids.length % KV_BLOCK;
  await fresh.prefill(ids.subarray(0, blocks));
  await fresh.prefill(ids.subarray(blocks));
  const error = relativeError(await fork.logits(), await fresh.logits());
  assert.ok(error < 5e-3, `${error}`);
  assert.equal(await answer(fork), "7482913");
});

Deno.test("an aborted prefill leaves what was held", async () => {
  await using session = await model.createSession({ patterns: "dense" });
  await session.prefill("The pass key is 48213. Remember it. 48213 is the pass key.");
  const held = session.length;
  const controller = new AbortController();
  const reading = session.prefill(longRead, {
    signal: controller.signal,
    onProgress: ({ stage, done }) => {
      if (stage === "prefill" && done > 0) controller.abort(new Error("enough"));
    },
  });
  await assert.rejects(reading, /enough/);
  assert.equal(session.length, held);
  await session.prefill(" What is the pass key? The pass key is");
  assert.equal(await answer(session), "48213");
});

Deno.test("in host memory, too: the same logits, the same answers, a plan within 3%", async () => {
  const ids = model.tokenizer.encode(needlePrompt(12_000, "quiet-meadow", "3090418"));
  for (const kvDtype of ["fp8", usual] as const) {
    await using fresh = await openDevice({ kind: device.kind });
    await using other = await loadModel(NEEDLE, { device: fresh, kvDtype, kvPlace: "host" });
    const plan = other.planMemory(ids.length);
    const { allocated } = fresh.info();
    await using session = await other.createSession();
    await session.prefill(ids);
    const { peak, hostAllocated } = fresh.info();
    const [taken, planned] = [peak - allocated, plan.kvCache + plan.workspace];
    assert.ok(Math.abs(planned / taken - 1) < 0.03, `${taken} taken, ${planned} planned`);
    assert.equal(hostAllocated, plan.hostKvCache);
    assert.equal(hostAllocated > 0, device.kind !== "cpu"); // whose memory is the host's anyway
    await using here = await other.createSession({ kvPlace: "device" });
    await here.prefill(ids);
    assert.deepEqual(await session.logits(), await here.logits());
    await using parts = await session.fork();
    await parts.prefill(ids.subarray(0, 777), { mode: "replace" });
    await parts.prefill(ids.subarray(777));
    assert.deepEqual(await Promise.all([session, parts].map(answer)), ["3090418", "3090418"]);
  }
});

Deno.test("a memory plan with an fp8 cache is within 3% of what a prefill takes", async () => {
  const ids = model.tokenizer.encode(needlePrompt(20_000, "tall-lantern", "7482913"));
  for (const patterns of ["auto", "dense"] as const) {
    await using fresh = await openDevice({ kind: device.kind }); // its peak is this prefill's
    await using other = await loadModel(NEEDLE, { device: fresh, patterns });
    const plan = other.planMemory(ids.length, { kvDtype: "fp8" });
    assert.ok(plan.kvCache < 0.51 * other.planMemory(ids.length).kvCache);
    const { allocated } = fresh.info();
    await using session = await other.createSession({ kvDtype: "fp8" });
    await session.prefill(ids);
    const taken = fresh.info().peak - allocated;
    const planned = plan.kvCache + plan.workspace;
    assert.ok(Math.abs(planned / taken - 1) < 0.03, `${taken} taken, ${planned} planned`);
  }
});

Deno.test("a cache of an unknown type or place is refused", async () => {
  for (const odd of [{ kvDtype: "q4_0" as "fp8" }, { kvPlace: "disk" as "host" }]) {
    const error = await failure(() => model.createSession(odd));
    assert.equal(error.code, "INVALID_ARGUMENT");
  }
});
