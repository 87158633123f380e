// What may go wrong while a model is loaded and used: memory that ends anywhere, aborts, a killed process. Nothing stays.
import assert from "node:assert/strict";
import type { Device } from "../../src/device/device.ts";
import { openDevice } from "../../src/device/open.ts";
import { loadModel } from "../../src/model/model.ts";
import { ended, MODEL, start } from "../cli/support.ts";
import { device, failure, relativeError } from "../support.ts";
import { temporaryDirectory } from "./support.ts";

const novel = (await Deno.readTextFile(`${MODEL}/haystack.txt`)).slice(2000);

/** Loads the model, reads `characters` of the novel sparsely and draws a token. */
async function readOn(device: Device, characters: number, signal?: AbortSignal): Promise<string> {
  await using model = await loadModel(MODEL, { device, signal });
  await using session = await model.createSession();
  await session.prefill(novel.slice(0, characters), { signal });
  return await session.generate(undefined, { maxTokens: 1 }).text;
}

Deno.test("memory may end at any allocation: a typed error, and all of it comes back", async () => {
  const characters = device.kind === "cpu" ? 6000 : 1500;
  let peak: number;
  let expected: string;
  {
    await using free = await openDevice({ kind: device.kind });
    expected = await readOn(free, characters);
    peak = free.info().peak;
  }
  const steps = 40;
  for (let i = 0; i <= steps; i++) {
    const memoryLimit = Math.max(1, Math.floor(peak * i / steps));
    await using small = await openDevice({ kind: device.kind, memoryLimit });
    if (i === steps) {
      assert.equal(await readOn(small, characters), expected);
    } else {
      const error = await failure(() => readOn(small, characters));
      const text = `limit ${memoryLimit}: ${error.message}`;
      assert.equal(error.code, "OUT_OF_MEMORY", text);
      assert.ok(Number(error.details.wanted) > Number(error.details.available), text);
    }
    assert.equal(small.info().allocated, 0, `limit ${memoryLimit}`);
  }
});

Deno.test("a session that ran out of memory goes on with what it held", async () => {
  let peak: number;
  {
    await using free = await openDevice({ kind: device.kind });
    await readOn(free, 800);
    peak = free.info().peak;
  }
  await using small = await openDevice({ kind: device.kind, memoryLimit: peak + (1 << 16) });
  await using model = await loadModel(MODEL, { device: small });
  await using session = await model.createSession();
  await session.prefill(novel.slice(0, 400));
  const held = session.length;
  const logits = await session.logits();
  const error = await failure(() => session.prefill(novel.slice(400, 40_000)));
  assert.equal(error.code, "OUT_OF_MEMORY");
  assert.equal(session.length, held);
  // Its last token has run again, by itself.
  assert.ok(relativeError(await session.logits(), logits) < 2e-2);
});

Deno.test("200 rounds of load, prefill, abort and dispose leave nothing behind", async () => {
  const before = device.info();
  let early = 0;
  for (let round = 0; round < 200; round++) {
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), round % 40);
    await readOn(device, 3000, controller.signal).catch((error) => {
      if (!controller.signal.aborted) throw error;
    });
    clearTimeout(timer);
    assert.equal(device.info().allocated, before.allocated, `round ${round}`);
    if (round === 40) early = Deno.memoryUsage().rss;
  }
  const grown = Deno.memoryUsage().rss - early;
  assert.ok(grown < 0.01 * before.totalMemory, `${grown} bytes more than after 40 rounds`);
});

Deno.test("a process killed while it loads leaves no file, and the next one loads", async () => {
  using folder = temporaryDirectory();
  const listing = (): string[] => [...Deno.readDirSync(MODEL)].map(({ name }) => name).sort();
  const before = listing();
  const args = ["run", MODEL, "-p", "The", "--max-tokens", "1", "--json"];
  const env = { TMPDIR: folder.path };
  for (const ms of [50, 150, 300, 450, 600]) {
    const child = start("src/cli/main.ts", args, { env });
    await new Promise((resolve) => setTimeout(resolve, ms));
    try {
      child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended already
    }
    await ended(child);
  }
  assert.deepEqual([...Deno.readDirSync(folder.path)], []);
  assert.deepEqual(listing(), before);
  const { code, stderr } = await ended(start("src/cli/main.ts", args, { env }));
  assert.equal(code, 0, stderr);
});
