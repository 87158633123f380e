// Plans of what has never been here: a million tokens of an 8B model, and what is said where they do not fit.
import assert from "node:assert/strict";
import { publishedPatterns, SHAPES } from "../../scripts/bench/e2e_model.ts";
import { type KvDType, kvShape } from "../../src/model/kv_shape.ts";
import { type MemoryInputs, planMemory, refuseTooLarge } from "../../src/model/memory.ts";
import { device, failure } from "../support.ts";

const GIB = 2 ** 30;
const MILLION = 1 << 20;
const config = SHAPES["llama-3-8b"];

/** The 8B shape in bf16 on a GPU of 139 GiB. */
function inputs(kv: KvDType, offloaded = false): MemoryInputs {
  const weights = 15 * GIB;
  return {
    device,
    config,
    kv: kvShape(config, kv, "bf16", offloaded),
    patterns: publishedPatterns(config),
    precision: "bf16",
    weightDtype: () => "bf16",
    weights,
    free: 139 * GIB - weights,
    hostFree: 100 * GIB,
  };
}

Deno.test("a million tokens of an 8B model fit one H200 with an fp8 cache, and not in 16 bits", () => {
  const fp8 = planMemory(inputs("fp8"), MILLION);
  assert.ok(fp8.fits && fp8.fitsAsFp8 && fp8.maxContext >= MILLION, `${fp8.total / GIB} GiB`);
  // 32 layers x 8 heads x 128 x K and V, a byte each, and a scale for every 16 KiB; a little slack.
  assert.ok(Math.abs(fp8.kvCache / (64 * GIB + 16 * 2 ** 20) - 1) < 0.005, `${fp8.kvCache}`);
  const bf16 = planMemory(inputs("bf16"), MILLION);
  assert.ok(!bf16.fits && bf16.fitsAsFp8 && bf16.maxContext < MILLION, `${bf16.total / GIB} GiB`);
  // The prompt's workspace grows by one layer's unquantised keys and values.
  const layer = 2 * 8 * 128 * 2 * MILLION;
  assert.equal(fp8.workspace - bf16.workspace, layer);
  if (device.kind === "cuda") assert.ok(fp8.total < 110 * GIB, `${fp8.total / GIB} GiB`);
});

Deno.test("a prompt that will not fit is refused with the bytes, and told what would", async () => {
  refuseTooLarge(inputs("fp8"), MILLION, MILLION);
  refuseTooLarge(inputs("bf16"), MILLION / 8, MILLION / 8);
  const error = await failure(() => refuseTooLarge(inputs("bf16"), MILLION, MILLION));
  assert.equal(error.code, "OUT_OF_MEMORY");
  assert.match(error.message, /1048576 tokens take .* GiB .*124\.00 GiB are free; with an fp8 KV/);
  assert.ok((error.details.wanted as number) > (error.details.available as number));
  const little = { ...inputs("bf16"), free: 20 * GIB };
  const hopeless = await failure(() => refuseTooLarge(little, MILLION, MILLION));
  assert.doesNotMatch(hopeless.message, /fp8/);
  // A short prompt after a long one takes less than all of it at once.
  const { free } = inputs("fp8");
  const { kvCache, workspace } = planMemory(inputs("fp8"), MILLION);
  refuseTooLarge(
    { ...inputs("fp8"), free: free - (free - kvCache - workspace) - GIB },
    MILLION,
    1000,
  );
});

Deno.test("with the cache in host memory a plan counts two layers here and all of them there", () => {
  const stored = planMemory(inputs("bf16"), MILLION);
  const host = planMemory(inputs("bf16", true), MILLION);
  assert.equal(host.hostKvCache, stored.kvCache);
  assert.equal(host.kvCache, stored.kvCache * 2 / config.layers);
  assert.equal(host.workspace, stored.workspace);
  assert.equal(host.total, host.weights + host.kvCache + host.workspace);
  assert.equal(stored.hostKvCache, 0);
  assert.ok(!host.fits); // 128 GiB are wanted of 100
  const fp8 = planMemory(inputs("fp8", true), MILLION);
  assert.ok(fp8.fits && fp8.fitsOnHost);
  if (device.kind === "cuda") assert.ok(fp8.total < 60 * GIB, `${fp8.total / GIB} GiB`);
});

Deno.test("a prompt that fits with its cache in host memory is told so, and one that does not, what is missing", async () => {
  const half = MILLION / 2; // 64 GiB of keys and values in 16 bits
  const small = (offloaded: boolean): MemoryInputs => {
    return { ...inputs("bf16", offloaded), free: 50 * GIB };
  };
  const error = await failure(() => refuseTooLarge(small(false), half, half));
  assert.equal(error.details.fitsOnHost, device.kind === "cuda"); // the CPU has no other memory
  const advice =
    /with the KV cache in host memory they take .* on the device and 64\.\d+ GiB of host memory, which fits/;
  if (device.kind === "cuda") assert.match(error.message, advice);
  refuseTooLarge(small(true), half, half);
  const hostFree = 60 * GIB;
  const missing = await failure(() => refuseTooLarge({ ...small(true), hostFree }, half, half));
  assert.match(
    missing.message,
    /and 64\.\d+ GiB of host memory .* and 60\.00 GiB of host memory are free/,
  );
  assert.ok(Number(missing.details.hostWanted) > Number(missing.details.hostAvailable));
});
