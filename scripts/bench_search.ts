// Times the pattern search on a model of a known shape and random weights, whose attention is nearly even: no mass
// budget stays small there, so no trained model of the shape takes longer.
// `deno task bench:search --help` says how.
import { parseArgs } from "node:util";
import { openDevice } from "../src/device/open.ts";
import type { Checkpoint } from "../src/model/checkpoint.ts";
import { kvShape, usualKvDtype } from "../src/model/kv_shape.ts";
import { Model } from "../src/model/model.ts";
import type { Tokenizer } from "../src/model/tokenizer.ts";
import { searchPatterns } from "../src/search/search.ts";
import { randomParameters, SHAPES } from "./bench/e2e_model.ts";

const HELP = `deno task bench:search [options]

  --shape NAME   ${Object.keys(SHAPES).join(", ")}   (default: llama-3-8b)
  --layers N     fewer than the shape has
  --tokens N     length of the sample   (default: 30000)`;

const { values } = parseArgs({
  options: {
    help: { type: "boolean", default: false },
    shape: { type: "string", default: "llama-3-8b" },
    layers: { type: "string" },
    tokens: { type: "string", default: "30000" },
  },
});
if (values.help) {
  console.log(HELP);
  Deno.exit();
}
const shape = SHAPES[values.shape];
const layers = Number(values.layers ?? shape?.layers);
const tokens = Number(values.tokens);
if (!shape || !(layers >= 1 && layers <= shape.layers) || !(tokens >= 1)) {
  console.error(
    `--shape is one of ${Object.keys(SHAPES).join(", ")}; --layers and --tokens are at least 1`,
  );
  Deno.exit(2);
}
const config = { ...shape, layers };

await using device = await openDevice({ profile: true });
const usual = usualKvDtype(device);
const parameters = await randomParameters(device, config, "stored");
// The search asks for nothing else of a checkpoint, and for no text.
await using model = new Model(device, { config } as Checkpoint, {} as Tokenizer, null, {
  parameters,
  kv: kvShape(config, usual, usual),
  precision: "bf16",
  weights: "stored",
  contextLength: config.maxPositions,
  ownsDevice: false,
});
const sample = Uint32Array.from(
  { length: tokens },
  () => Math.floor(Math.random() * config.vocabSize),
);
device.timings(); // from here on
const started = performance.now();
let layerStarted = started;
const { choices } = await searchPatterns(model, [sample], {
  onProgress: ({ done, total }) => {
    const now = performance.now();
    console.error(`layer ${done} of ${total}: ${((now - layerStarted) / 1000).toFixed(2)} s`);
    layerStarted = now;
  },
});
const seconds = (performance.now() - started) / 1000;
const parts = Object.entries(device.timings()).filter(([, ms]) => ms > 1)
  .sort((a, b) => b[1] - a[1]).map(([name, ms]) => `${name} ${(ms / 1000).toFixed(1)} s`);
const all = choices.flat();
const density = all.reduce((sum, choice) => sum + choice.density, 0) / all.length;
const { name, peak } = device.info();
console.log(
  `${values.shape}, ${layers} layers, ${tokens} tokens, ${name}: searched in ${
    seconds.toFixed(1)
  } s ` +
    `(${parts.join(", ")}), density ${density.toFixed(3)}, peak ${(peak / 2 ** 30).toFixed(1)} GiB`,
);
