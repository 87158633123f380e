// Hostile parameters: random bytes and mutated valid structs must come back as statuses, never crash.
import fc from "fast-check";
import assert from "node:assert/strict";
import { openLibrary } from "../../src/native/library.ts";
import * as params from "../../src/native/params.ts";
import { newError } from "../../src/native/status.ts";
import { type FieldType, Struct } from "../../src/native/structs.ts";
import { openDevice } from "../../src/device/open.ts";

const native = openLibrary();
const operations = Object.values(params)
  .filter((value) => value instanceof Struct)
  .map((struct) => struct as Struct<Record<string, FieldType>>)
  .filter((struct) => struct.op !== null);

// The device handle is private to Device, so this test opens one by the C functions alone.
async function withHandle(body: (device: bigint) => void): Promise<void> {
  const out = new BigUint64Array(1);
  const options = params.deviceOptions.encode({
    size: params.deviceOptions.size,
    kind: 0,
    index: 0,
    threads: 1,
    memory_limit: 0,
    isa: 0,
    profile: 0,
  });
  const status = await native.mi_device_open(options, new Uint8Array(out.buffer), newError());
  assert.equal(status, 0);
  try {
    body(out[0]);
  } finally {
    assert.equal(await native.mi_device_close(out[0], newError()), 0);
  }
}

/** A header whose size is at least that of the operation's struct, so that reads stay inside `bytes`. */
function hostile(op: number, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const size = operations.find((struct) => struct.op === op)?.size ?? 8;
  const bytes = new Uint8Array(Math.max(size, 8 + body.length));
  bytes.set(body, 8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, op, true);
  return bytes;
}

Deno.test("random parameter bytes are refused with a status and a text", async () => {
  await withHandle((device) => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 20 }),
        fc.uint8Array({ maxLength: 600 }),
        (op, body) => {
          const bytes = hostile(op, body);
          const error = newError();
          const status = native.mi_submit(device, bytes, error);
          assert.ok(status < 0, `operation ${op} was accepted`);
          assert.ok(error[24] !== 0, "no text");
          native.mi_plan(device, bytes, new Uint8Array(16), newError());
        },
      ),
      { numRuns: 3000 },
    );
  });
});

Deno.test("extreme numbers in every integer field are refused, not computed with", async () => {
  const extremes = [0, -1, 1, 0x7fffffff, -0x80000000, 64, 1 << 20];
  await withHandle((device) => {
    const buffer = new BigUint64Array(1);
    const out = new Uint8Array(buffer.buffer);
    assert.equal(native.mi_alloc(device, 4096n, out, newError()), 0);
    fc.assert(
      fc.property(
        fc.constantFrom(...operations),
        fc.array(fc.constantFrom(...extremes), { minLength: 80, maxLength: 80 }),
        (struct, numbers) => {
          let next = 0;
          const pick = (): number => numbers[next++ % numbers.length];
          const values: Record<string, unknown> = {};
          for (const [name, type] of Object.entries(struct.fields)) {
            const ref = { buffer: buffer[0], offset: Math.abs(pick()) };
            if (type === "ref") values[name] = ref;
            else if (type === "view") {
              values[name] = { ...ref, headStride: pick(), rowStride: pick(), dtype: pick() };
            } else values[name] = type === "f32" ? pick() : Math.abs(pick());
            if (type === "i32") values[name] = pick();
          }
          const bytes = struct.encode(values as never);
          const status = native.mi_submit(device, bytes, newError());
          // A few draws are valid by chance (every size 1): those must simply run.
          assert.ok(status <= 0);
        },
      ),
      { numRuns: 5000 },
    );
  });
});

Deno.test("stale, foreign and zero handles are refused", async () => {
  await withHandle((device) => {
    const out = new BigUint64Array(1);
    const error = newError();
    assert.equal(native.mi_alloc(device, 64n, new Uint8Array(out.buffer), error), 0);
    const buffer = out[0];
    assert.equal(native.mi_free(device, buffer, error), 0);
    assert.equal(native.mi_free(device, buffer, error), -3);
    for (const handle of [0n, 1n, buffer, 0xffff_ffff_ffff_ffffn]) {
      assert.equal(native.mi_free(device, handle, error), -3);
      assert.equal(native.mi_cancel(handle === buffer ? 0n : handle + 7n, error), -3);
    }
    // Its slot is taken again, under another generation.
    assert.equal(native.mi_alloc(device, 64n, new Uint8Array(out.buffer), error), 0);
    assert.notEqual(out[0], buffer);
    assert.equal(native.mi_free(device, buffer, error), -3);
  });
});

Deno.test("a closed device refuses every call", async () => {
  const device = await openDevice({ kind: "cpu", threads: 1 });
  const tensor = device.tensor([4]);
  await device.dispose();
  await device.dispose();
  assert.throws(() => device.tensor([4]), { code: "DISPOSED" });
  assert.throws(() => device.info(), { code: "DISPOSED" });
  await assert.rejects(() => device.sync(), { code: "DISPOSED" });
  tensor.dispose();
});
