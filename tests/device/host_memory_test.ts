// Tensors in host memory, and the copies that run beside the queue.
import fc from "fast-check";
import assert from "node:assert/strict";
import type { Device } from "../../src/device/device.ts";
import { openDevice } from "../../src/device/open.ts";
import { convertCopy } from "../../src/device/ops.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import { device, failure } from "../support.ts";

const LENGTH = 48;
const BYTES = 4 * LENGTH;

function numbers(seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: LENGTH }, (_, i) => seed * 1000 + i);
}

function move(from: Tensor, to: Tensor): void {
  convertCopy(device, from.view(), to.view(), { rows: 1, heads: 1, dim: LENGTH });
}

Deno.test("copies and operations give what they give one after the other, in any order", async () => {
  // Tensor 0 to 2 on the device, 3 to 5 in host memory; a step copies between two of them.
  const step = fc.record({ to: fc.nat(5), from: fc.nat(5), half: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      const tensors = await Promise.all(Array.from({ length: 6 }, (_, i) => {
        return i < 3 ? device.tensor([LENGTH]) : device.hostTensor([LENGTH]);
      }));
      using input = device.tensor([LENGTH]);
      const expected: Float32Array<ArrayBuffer>[] = [];
      for (const [i, tensor] of tensors.entries()) {
        expected[i] = numbers(i + 1);
        await input.write(expected[i]);
        device.copy(tensor, 0, input, 0, BYTES);
      }
      for (const { to, from, half } of steps) {
        if (to === from) continue;
        if (to < 3 && from < 3 && !half) {
          move(tensors[from], tensors[to]); // a kernel
          expected[to] = expected[from].slice();
          continue;
        }
        const [at, bytes] = half ? [BYTES / 2, BYTES / 2] : [0, BYTES];
        device.copy(tensors[to], at, tensors[from], at, bytes);
        expected[to] = expected[to].slice();
        expected[to].set(expected[from].subarray(at / 4), at / 4);
      }
      using output = device.tensor([LENGTH]);
      for (const [i, tensor] of tensors.entries()) {
        device.copy(output, 0, tensor, 0, BYTES);
        assert.deepEqual(await output.read(), expected[i], `tensor ${i}`);
        tensor.dispose();
      }
    }),
    { numRuns: 100 },
  );
});

Deno.test("memory freed right behind a copy lives until the copy has run", async () => {
  using kept = device.tensor([LENGTH]);
  for (let round = 0; round < 5; round++) {
    const host = await device.hostTensor([LENGTH]);
    {
      using source = device.tensor([LENGTH], { data: numbers(round) });
      device.copy(host, 0, source, 0, BYTES);
    }
    using other = device.tensor([LENGTH], { data: numbers(77) }); // where the source was
    const back = device.tensor([LENGTH]);
    device.copy(back, 0, host, 0, BYTES);
    host.dispose();
    move(back, kept);
    back.dispose();
    assert.deepEqual(await kept.read(), numbers(round));
    assert.deepEqual(await other.read(), numbers(77));
  }
});

Deno.test("a batch waits for copies, and a copy for the batch before it", async () => {
  using host = await device.hostTensor([LENGTH]);
  using a = device.tensor([LENGTH]);
  using b = device.tensor([LENGTH]);
  for (let round = 0; round < 5; round++) {
    await a.write(numbers(round));
    device.copy(host, 0, a, 0, BYTES);
    await b.write(numbers(99));
    device.copy(b, 0, host, 0, BYTES);
    device.batch(() => move(b, a));
    device.copy(host, 0, a, 0, BYTES);
    device.batch(() => move(a, b));
    assert.deepEqual(await b.read(), numbers(round));
  }
});

Deno.test("host memory is counted apart, and limited with the rest", async () => {
  await using small: Device = await openDevice({ kind: device.kind, memoryLimit: 1 << 20 });
  assert.ok(small.info().hostFreeMemory > 1e8);
  using host = await small.hostTensor([1 << 17]);
  using _rest = small.tensor([1 << 10]);
  const { allocated, hostAllocated, peak } = small.info();
  assert.deepEqual([allocated, hostAllocated, peak], [1 << 12, host.byteLength, 1 << 12]);
  for (const more of [() => small.tensor([1 << 17]), () => small.hostTensor([1 << 17])]) {
    const error = await failure(async () => await more());
    assert.equal(error.code, "OUT_OF_MEMORY");
    assert.equal(error.details.available, (1 << 20) - host.byteLength - (1 << 12));
  }
  host.dispose();
  assert.equal(small.info().hostAllocated, 0);
  const much = await failure(() => device.hostTensor([2 ** 45], { dtype: "u8" }));
  assert.equal(much.code, "OUT_OF_MEMORY");
  assert.ok(Number(much.details.available) < 2 ** 45);
});

Deno.test("operations, reads, writes and loads of host memory are refused", async () => {
  using host = await device.hostTensor([LENGTH]);
  using other = device.tensor([LENGTH]);
  const attempts = [
    () => move(host, other),
    () => move(other, host),
    () => host.read(),
    () => host.write(numbers(1)),
    () => device.readQueued(host, 0, 4),
    () => device.load(host, 0, "LICENSE", 0, 4),
  ];
  for (const attempt of attempts) {
    const error = await failure(async () => await attempt());
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.match(error.message, /host memory/);
  }
});
