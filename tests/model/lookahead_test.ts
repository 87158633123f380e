// Steps queued ahead of a device, on a device whose steps end when the test says so.
import assert from "node:assert/strict";
import type { Device } from "../../src/device/device.ts";
import { Lookahead } from "../../src/model/lookahead.ts";

interface Stub {
  readonly device: Device;
  /** Ends of the steps queued so far. */
  readonly syncs: PromiseWithResolvers<void>[];
}

function stub(): Stub {
  const syncs: PromiseWithResolvers<void>[] = [];
  const sync = (): Promise<void> => {
    syncs.push(Promise.withResolvers<void>());
    return syncs.at(-1)!.promise;
  };
  return { device: { sync } as unknown as Device, syncs };
}

Deno.test("one step is queued behind the one that runs, not more", async () => {
  const { device, syncs } = stub();
  const ahead = new Lookahead(device, {});
  await ahead.step();
  let queued = false;
  const second = ahead.step().then(() => queued = true);
  assert.equal(syncs.length, 2);
  await Promise.resolve();
  assert.equal(queued, false);
  syncs[0].resolve();
  await second;
  const end = ahead.finish();
  syncs[1].resolve();
  await Promise.resolve();
  syncs[2].resolve();
  await end;
});

Deno.test("a step's failure is reported once nothing is queued any more", async () => {
  const { device, syncs } = stub();
  const ahead = new Lookahead(device, {});
  await ahead.step();
  let reported = false;
  const second = assert.rejects(ahead.step(), /first/).then(() => reported = true);
  syncs[0].reject(new Error("first"));
  await new Promise((resolve) => setTimeout(resolve));
  assert.equal(reported, false);
  syncs[1].reject(new Error("second"));
  await second;
});
