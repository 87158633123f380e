// Operations submitted together, and reads that wait in the queue.
import assert from "node:assert/strict";
import { convertCopy, linear, siluMul } from "../../src/device/ops.ts";
import { Scratch } from "../../src/device/scratch.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import { device, failure, randomTensor } from "../support.ts";

const DIM = 72;

interface Layer {
  readonly weight: Tensor;
  readonly y: Tensor;
  readonly features: number;
}

async function layers(features: readonly number[]): Promise<Layer[]> {
  return await Promise.all(features.map(async (n, i) => ({
    weight: (await randomTensor([n, DIM], "bf16", 10 + i)).tensor,
    y: (await randomTensor([3, n], "bf16", 20 + i)).tensor,
    features: n,
  })));
}

/** Layers of one input (more than share a launch), then one of their outputs, then a sum onto it. */
function queue(scratch: Scratch, x: Tensor, all: readonly Layer[], rows: number): void {
  const apply = (from: Tensor, { weight, y, features }: Layer, accumulate = false): void => {
    const w = { view: weight.view(), rows: features, columns: DIM };
    const options = { precision: "bf16", accumulate } as const;
    linear(device, scratch, from.view(), w, y.view(), rows, options);
  };
  for (const layer of all) apply(x, layer);
  siluMul(device, all[0].y.view(), all[1].y.view(), all[1].y.view(), rows, DIM);
  apply(all[1].y, all[0]);
  apply(x, all[0], true);
  apply(x, all[0], true);
}

Deno.test("a batch gives, each time it runs, what its operations give one by one", async () => {
  using scratch = new Scratch(device);
  const all = await layers([DIM, DIM, 8, 21, 160]);
  for (const [seed, rows] of [[1, 1], [2, 1], [3, 1], [4, 3], [5, 3], [6, 3], [7, 1]]) {
    const { tensor: x } = await randomTensor([3, DIM], "bf16", seed);
    queue(scratch, x, all, rows);
    const expected = await Promise.all(all.map(({ y }) => y.read(0, rows * y.shape[1])));
    for (const { y } of all) await y.write(new Float32Array(y.length));
    device.batch(() => queue(scratch, x, all, rows));
    const actual = await Promise.all(all.map(({ y }) => y.read(0, rows * y.shape[1])));
    assert.deepEqual(actual, expected, `${rows} rows`);
    x.dispose();
  }
  for (const { weight, y } of all) [weight, y].forEach((tensor) => tensor.dispose());
});

Deno.test("nothing of a batch is queued if one operation is refused or its making fails", async () => {
  using a = device.tensor([4], { data: new Float32Array([1, 2, 3, 4]) });
  using b = device.tensor([4], { data: new Float32Array(4) });
  const size = { rows: 1, heads: 1, dim: 4 };
  const before = device.progress().submitted;
  const refused = await failure(() =>
    device.batch(() => {
      convertCopy(device, a.view(), b.view(), size);
      convertCopy(device, a.view(), b.view(), { ...size, dim: 5 });
    })
  );
  assert.equal(refused.code, "SHAPE");
  const error = new Error("no more");
  assert.throws(() =>
    device.batch(() => {
      convertCopy(device, a.view(), b.view(), size);
      throw error;
    }), error);
  device.batch(() => {});
  assert.equal(device.progress().submitted, before);
  convertCopy(device, a.view(), b.view(), size); // no batch is being made any more
  assert.deepEqual(await b.read(), await a.read());
});

Deno.test("a tensor disposed while a batch is made lives until the batch has run", async () => {
  using to = device.tensor([4]);
  const from = device.tensor([4], { data: new Float32Array([1, 2, 3, 4]) });
  device.batch(() => {
    convertCopy(device, from.view(), to.view(), { rows: 1, heads: 1, dim: 4 });
    from.dispose();
  });
  assert.deepEqual(await to.read(), new Float32Array([1, 2, 3, 4]));
  assert.ok(from.disposed);
});

Deno.test("a queued read sees what was queued before it, and nothing after", async () => {
  const size = { rows: 1, heads: 1, dim: 8 };
  using cell = device.tensor([8]);
  const sources = Array.from({ length: 20 }, (_, i) => {
    return device.tensor([8], { data: new Float32Array(8).fill(i) });
  });
  const reads = sources.map((source) => {
    convertCopy(device, source.view(), cell.view(), size);
    return device.readQueued(cell, 4, 8);
  });
  const values = (await Promise.all(reads)).map(({ buffer }) => [...new Float32Array(buffer)]);
  assert.deepEqual(values, sources.map((_, i) => [i, i]));
  for (const source of sources) source.dispose();
});

Deno.test("queued reads outside the tensor, of nothing or of too much are refused", async () => {
  using tensor = device.tensor([2000]);
  for (const [offset, bytes] of [[7996, 8], [8000, 4], [0, 0], [0, 4097]]) {
    const { code } = await failure(() => device.readQueued(tensor, offset, bytes));
    assert.ok(code === "SHAPE" || code === "INVALID_ARGUMENT", code);
  }
  assert.equal((await device.readQueued(tensor, 0, 4096)).length, 4096);
});

Deno.test("profiling can be turned on and off", async () => {
  using a = device.tensor([1 << 16], { data: new Float32Array(1 << 16) });
  using b = device.tensor([1 << 16]);
  const once = async (): Promise<number> => {
    device.timings();
    device.batch(() => {
      convertCopy(device, a.view(), b.view(), { rows: 1, heads: 1, dim: 1 << 16 });
    });
    await device.sync();
    return device.timings().copy ?? 0;
  };
  assert.equal(await once(), 0);
  device.profile(true);
  assert.ok(await once() > 0);
  device.profile(false);
  assert.equal(await once(), 0);
});
