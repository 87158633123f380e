// Memory, queue order, cancel, errors of a device.
import fc from "fast-check";
import assert from "node:assert/strict";
import { deviceCount, openDevice } from "../../src/device/open.ts";
import { convertCopy } from "../../src/device/ops.ts";
import { fromBf16, toBf16 } from "../../src/device/dtype.ts";
import { device, failure, gaussians } from "../support.ts";

Deno.test("the CPU is always there; CUDA answers 0 instead of failing where there is none", () => {
  assert.equal(deviceCount("cpu"), 1);
  assert.ok(deviceCount("cuda") >= 0);
});

Deno.test("device information is plausible", () => {
  const info = device.info();
  assert.equal(info.kind, device.kind);
  assert.ok(info.name.length > 0);
  assert.ok(info.units >= 1);
  assert.ok(info.totalMemory > 1e8 && info.freeMemory > 0 && info.freeMemory <= info.totalMemory);
});

Deno.test("tensors keep what is written, in every dtype", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom("f32", "f16", "bf16"),
      fc.integer({ min: 1, max: 300 }),
      fc.integer(),
      async (dtype, length, seed) => {
        const values = gaussians(length, seed);
        using tensor = device.tensor([length], { dtype: dtype as "f32", data: values });
        const expected = dtype === "f32"
          ? values
          : dtype === "f16"
          ? Float32Array.from(new Float16Array(values))
          : fromBf16(toBf16(values));
        assert.deepEqual(await tensor.read(), expected);
      },
    ),
    { numRuns: 50 },
  );
});

Deno.test("bf16 rounds to nearest even, keeps infinities and NaN", () => {
  const cases = new Float32Array([1, 1.00390625, 1.01171875, -Infinity, NaN, 3.4e38, 1e-40]);
  const back = fromBf16(toBf16(cases));
  assert.deepEqual([...back.subarray(0, 4)], [1, 1, 1.015625, -Infinity]);
  assert.ok(Number.isNaN(back[4]));
  assert.equal(back[5], Infinity);
});

Deno.test("shapes, dtypes and sizes that make no sense are refused with the numbers", async () => {
  for (const shape of [[], [0], [2, -1], [1.5], [NaN]]) {
    assert.equal((await failure(() => device.tensor(shape))).code, "SHAPE");
  }
  assert.equal((await failure(() => device.tensor([33], { dtype: "q8_0" }))).code, "SHAPE");
  const wrong = await failure(() => device.tensor([3], { data: new Float32Array(4) }));
  assert.equal(wrong.code, "SHAPE");
  assert.match(wrong.message, /16 bytes given for tensor \[3\] f32 of 12/);
  for (const dtype of ["u8", "q8_0"] as const) { // what is not given would be what lay there
    const short = { dtype, data: new Uint8Array(3) };
    const error = await failure(() => device.tensor([4096], short));
    assert.equal(error.code, "SHAPE");
    assert.match(error.message, /3 bytes given for tensor \[4096\]/);
  }
  const dtype = await failure(() => device.tensor([3], { dtype: "f64" as "f32" }));
  assert.match(dtype.message, /dtype must be f32 or .*, got f64/);
  const type = await failure(() => device.tensor([3], { dtype: "i32", data: new Float32Array(3) }));
  assert.equal(type.code, "INVALID_ARGUMENT");
});

Deno.test("memory beyond the limit is refused with bytes wanted and available", async () => {
  await using small = await openDevice({ kind: device.kind, threads: 1, memoryLimit: 1 << 20 });
  using half = small.tensor([1 << 17]);
  const error = await failure(() => small.tensor([1 << 18]));
  assert.equal(error.code, "OUT_OF_MEMORY");
  assert.equal(error.details.wanted, 1 << 20);
  assert.equal(error.details.available, (1 << 20) - half.byteLength);
  half.dispose();
  using all = small.tensor([1 << 18]);
  assert.equal(small.info().allocated, all.byteLength);
  assert.equal(small.info().peak, 1 << 20);
});

Deno.test("memory nobody has is refused, not overcommitted", async () => {
  const error = await failure(() => device.tensor([2 ** 44], { dtype: "u8" }));
  assert.equal(error.code, "OUT_OF_MEMORY");
  assert.equal(error.details.wanted, 2 ** 44);
  assert.ok((error.details.available as number) > 0);
});

Deno.test("a disposed tensor refuses use; disposal is idempotent", async () => {
  const tensor = device.tensor([4], { data: new Float32Array(4) });
  tensor.dispose();
  tensor.dispose();
  assert.ok(tensor.disposed);
  assert.equal((await failure(() => tensor.read())).code, "DISPOSED");
  assert.equal((await failure(() => tensor.ref())).code, "DISPOSED");
});

Deno.test("reads and writes outside a tensor are refused", async () => {
  using tensor = device.tensor([8], { data: new Float32Array(8) });
  assert.equal((await failure(() => tensor.read(4, 8))).code, "SHAPE");
  assert.equal((await failure(() => tensor.write(new Float32Array(8), 1))).code, "SHAPE");
});

Deno.test("queued work sees memory in order, also memory freed behind it", async () => {
  const rows = 256;
  const dim = 1024;
  const values = gaussians(rows * dim, 7);
  using last = device.tensor([rows, dim], { dtype: "f32" });
  let source = device.tensor([rows, dim], { data: values });
  for (let i = 0; i < 20; i++) {
    const next = device.tensor([rows, dim]);
    convertCopy(device, source.view(), next.view(), { rows, heads: 1, dim });
    source.dispose();
    source = next;
  }
  convertCopy(device, source.view(), last.view(), { rows, heads: 1, dim });
  source.dispose();
  assert.deepEqual(await last.read(), values);
});

Deno.test("an aborted sync rejects with the reason and leaves the device usable", async () => {
  using a = device.tensor([4096, 1024], { data: new Float32Array(4096 * 1024) });
  using b = device.tensor([4096, 1024]);
  const copies = device.kind === "cpu" ? 200 : 20_000; // a fifth of a second or more
  for (let i = 0; i < copies; i++) {
    convertCopy(device, a.view(), b.view(), { rows: 4096, heads: 1, dim: 1024 });
  }
  const controller = new AbortController();
  const reason = new Error("enough");
  setTimeout(() => controller.abort(reason), 5);
  const started = performance.now();
  await assert.rejects(device.sync({ signal: controller.signal }), reason);
  assert.ok(performance.now() - started < 500);
  await device.sync();
  await b.write(new Float32Array(4096 * 1024).fill(3));
  assert.equal((await b.read(0, 1))[0], 3);
});

Deno.test("another device's tensor is refused, whatever its number", async () => {
  await using other = await openDevice({ kind: device.kind });
  const data = new Float32Array(64).fill(1);
  using a = device.tensor([64], { data });
  using b = other.tensor([64], { data });
  const copy = (): void => convertCopy(device, a.view(), b.view(), { rows: 1, heads: 1, dim: 64 });
  const error = await failure(copy);
  assert.match(error.message, /no such buffer on this device/);
});

Deno.test("who waits for a device that is closed is told", async () => {
  const other = await openDevice({ kind: device.kind });
  const a = other.tensor([4096, 1024]);
  for (let i = 0; i < 200; i++) {
    convertCopy(other, a.view(), a.view(), { rows: 4096, heads: 1, dim: 1024 });
  }
  const waiting = failure(() => other.sync());
  await other.dispose();
  assert.equal((await waiting).code, "DISPOSED");
});

Deno.test("numbers that a device cannot be opened with are refused", async () => {
  for (const options of [{ threads: 1.5 }, { threads: 0 }, { index: -1 }, { memoryLimit: -1 }]) {
    const error = await failure(() => openDevice({ kind: "cpu", ...options }));
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.match(error.message, /must be a whole number from \d+ to \d+, got/);
  }
});

Deno.test("files stream into tensors; missing files and short files say so", async () => {
  const path = await Deno.makeTempFile();
  try {
    const bytes = new Uint8Array(100_000).map((_, i) => i * 7);
    await Deno.writeFile(path, bytes);
    using tensor = device.tensor([100_000], { dtype: "u8" });
    await device.load(tensor, 16, path, 1000, 5000);
    assert.deepEqual(await tensor.readBytes(16, 5000), bytes.slice(1000, 6000));
    const short = await failure(() => device.load(tensor, 0, path, 99_000, 5000));
    assert.equal(short.code, "IO");
    assert.match(short.message, /end of file after 1000 of 5000/);
    const missing = await failure(() => device.load(tensor, 0, path + ".missing", 0, 1));
    assert.match(missing.message, /No such file/);
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("exclusive bodies run one at a time, in call order, also after a failure", async () => {
  const order: number[] = [];
  const body = (n: number) => async (): Promise<void> => {
    order.push(n);
    await new Promise((resolve) => setTimeout(resolve, 5));
    order.push(n);
    if (n === 1) throw new Error("one");
  };
  const all = await Promise.allSettled([1, 2, 3].map((n) => device.exclusive(body(n))));
  assert.deepEqual(order, [1, 1, 2, 2, 3, 3]);
  assert.deepEqual(all.map((r) => r.status), ["rejected", "fulfilled", "fulfilled"]);
});

Deno.test("an abort leaves the queue of exclusive bodies at once, and the order stays", async () => {
  const order: number[] = [];
  const first = device.exclusive(async () => {
    await new Promise((resolve) => setTimeout(resolve, 50));
    order.push(1);
  });
  const controller = new AbortController();
  const reason = new Error("enough");
  const second = device.exclusive(() => Promise.resolve(order.push(2)), controller);
  const third = device.exclusive(() => Promise.resolve(order.push(3)));
  controller.abort(reason);
  await assert.rejects(second, reason);
  assert.deepEqual(order, []);
  await Promise.all([first, third]);
  assert.deepEqual(order, [1, 3]);
});
