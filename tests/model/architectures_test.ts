// Every supported architecture against the reference implementation: tiny random checkpoints with the logits
// that transformers computes in float32 (scripts/fixtures/make.py).
import assert from "node:assert/strict";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { Decoder } from "../../src/model/decoder.ts";
import { KvCache } from "../../src/model/kv_cache.ts";
import { loadParameters } from "../../src/model/parameters.ts";
import { device } from "../support.ts";

const folder = new URL("../fixtures/models/", import.meta.url);
const names = [...Deno.readDirSync(folder)].map((entry) => entry.name).sort();

for (const name of names) {
  Deno.test(`${name}: logits of all positions agree with the reference`, async () => {
    const path = new URL(`${name}/`, folder);
    const { ids, logits: expected } = JSON.parse(
      await Deno.readTextFile(new URL("logits.json", path)),
    ) as { ids: number[]; logits: number[][] };
    const cpu = device.kind === "cpu";
    const checkpoint = await openCheckpoint(path);
    const { config } = checkpoint;
    using parameters = await loadParameters(device, checkpoint);
    using decoder = new Decoder(device, config, parameters, "f32");
    using cache = new KvCache(device, { ...config, dtype: cpu ? "f32" : "bf16" });
    using logits = device.tensor([ids.length, config.vocabSize]);
    await cache.reserve(ids.length, 0);
    await decoder.forward(new Uint32Array(ids), cache, 0, logits, { logits: "all" });
    const actual = await logits.read();
    let worst = 0;
    expected.forEach((row, position) => {
      const mine = actual.subarray(position * row.length, (position + 1) * row.length);
      row.forEach((value, i) => worst = Math.max(worst, Math.abs(value - mine[i])));
      if (cpu) return;
      // bf16: the top token must agree wherever the reference's margin exceeds the rounding error.
      const sorted = [...row].sort((a, b) => b - a);
      if (sorted[0] - sorted[1] > 0.15) {
        assert.equal(mine.indexOf(Math.max(...mine)), row.indexOf(sorted[0]), `row ${position}`);
      }
    });
    if (cpu) assert.ok(worst < 1e-3, `largest difference ${worst}`);
  });
}

Deno.test("fixtures of every architecture are there", () => {
  for (
    const name of ["llama", "llama31", "mistral", "qwen2", "qwen3", "phi3-long", "glm", "glm4"]
  ) {
    assert.ok(names.includes(name), name);
  }
});
