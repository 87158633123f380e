// The element types that weights have on a device.
import assert from "node:assert/strict";
import type { DType } from "../../src/device/dtype.ts";
import type { Checkpoint } from "../../src/model/checkpoint.ts";
import { weightDtype } from "../../src/model/parameters.ts";
import { activationDtype } from "../../src/model/pass.ts";

const STORED: readonly DType[] = ["f32", "f16", "bf16", "q8_0", "q4_k"];

Deno.test("weights: as stored on a CPU, of the activations' type on a GPU, vectors f32", () => {
  for (const dtype of STORED) {
    const source = { dtype, path: "", offset: 0, bytes: 0 };
    const tensors = new Map([
      ["token_embd.weight", { ...source, shape: [32, 256] }],
      ["output_norm.weight", { ...source, shape: [256] }],
    ]);
    const checkpoint = { tensors, config: {} } as unknown as Checkpoint;
    const of = (kind: "cpu" | "cuda", name: string): DType =>
      weightDtype({ kind }, checkpoint, name);
    assert.equal(of("cpu", "token_embd.weight"), dtype);
    assert.equal(of("cuda", "token_embd.weight"), activationDtype({ kind: "cuda" }));
    assert.equal(of("cpu", "output_norm.weight"), "f32");
    assert.equal(of("cuda", "output_norm.weight"), "f32");
  }
});
