// Models with fp8 weights: every architecture near its stored weights, and what they take.
import assert from "node:assert/strict";
import { measurePrecision } from "../../src/inspect/precision.ts";
import { openDevice } from "../../src/device/open.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { Decoder } from "../../src/model/decoder.ts";
import { KvCache } from "../../src/model/kv_cache.ts";
import { type Engine, loadModel } from "../../src/model/model.ts";
import {
  loadParameters,
  weightBytes,
  weightDtype,
  type WeightFormat,
} from "../../src/model/parameters.ts";
import { device, failure } from "../support.ts";

const folder = new URL("../fixtures/models/", import.meta.url);
const names = [...Deno.readDirSync(folder)].map((entry) => entry.name).sort();

/** The fixtures have no tokenizer: their decoder alone. */
async function load(path: URL, weights: WeightFormat, owned: DisposableStack): Promise<Engine> {
  const checkpoint = await openCheckpoint(path);
  const { config } = checkpoint;
  const parameters = owned.use(await loadParameters(device, checkpoint, { weights }));
  const dtype = device.kind === "cpu" ? "f32" : "bf16";
  return {
    decoder: owned.use(new Decoder(device, config, parameters, "bf16")),
    createCache: () => new KvCache(device, { ...config, dtype }),
  };
}

for (const name of names) {
  Deno.test(`${name}: fp8 weights predict nearly what the stored ones do`, async () => {
    const path = new URL(`${name}/`, folder);
    const { ids } = JSON.parse(await Deno.readTextFile(new URL("logits.json", path)));
    using owned = new DisposableStack();
    const [stored, fp8] = [await load(path, "stored", owned), await load(path, "fp8", owned)];
    const report = await measurePrecision(stored, fp8, new Uint32Array(ids));
    assert.ok(report.matrices.length > 0);
    for (const { layer, kind, weight, output } of report.matrices) {
      // Rounding to 3 mantissa bits: 2.6% in the mean square; of weights and activations, the root of 2 times that.
      assert.ok(weight > 0.01 && weight < 0.04, `layer ${layer}, ${kind}: weights ${weight}`);
      assert.ok(output > 0.01 && output < 0.055, `layer ${layer}, ${kind}: outputs ${output}`);
    }
    const { tokens, logits, topAgreement, klMean, klMax } = report.sample;
    assert.equal(tokens, ids.length);
    // Random weights predict nothing in particular: little moves their logits.
    assert.ok(logits > 1e-4 && logits < 0.25, `logits ${logits}`);
    assert.ok(topAgreement > 0.6 && klMean < 0.05 && klMax >= klMean, `${topAgreement} ${klMean}`);
  });
}

Deno.test("what is loaded takes the bytes that were planned for it", async () => {
  for (const name of names) {
    const path = new URL(`${name}/`, folder);
    const checkpoint = await openCheckpoint(path);
    await using fresh = await openDevice({ kind: device.kind });
    for (const weights of ["stored", "fp8"] as const) {
      using parameters = await loadParameters(fresh, checkpoint, { weights });
      const frequencies = checkpoint.config.rope.rotaryDim / 2 * 4;
      assert.equal(parameters.byteLength - frequencies, weightBytes(fresh, checkpoint, weights));
    }
    const kinds = new Set(
      [...checkpoint.tensors.keys()]
        .map((tensor) => [tensor, weightDtype(fresh, checkpoint, tensor, "fp8")] as const)
        .filter(([, dtype]) => dtype === "e4m3").map(([tensor]) => tensor.split(".")[0]),
    );
    assert.deepEqual([...kinds], ["layers"]);
  }
});

Deno.test("an unknown format is refused", async () => {
  const error = await failure(() =>
    loadModel(new URL(`${names[0]}/`, folder), { device, weights: "int4" as "fp8" })
  );
  assert.equal(error.code, "INVALID_ARGUMENT");
  assert.match(error.message, /weights must be stored or fp8, got int4/);
});
