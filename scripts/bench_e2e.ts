/**
 * The end-to-end benchmark: a model of a known shape from prompt to first token and beyond, beside the same
 * decoder in PyTorch, in one run. `deno task bench:e2e --help` says how.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { openDevice } from "../src/device/open.ts";
import { measureLoad } from "./bench/e2e_load.ts";
import { randomParameters, SHAPES } from "./bench/e2e_model.ts";
import { decodeSplit, e2eMarkdown, loadText } from "./bench/e2e_report.ts";
import type { E2eResults } from "./bench/e2e_results.ts";
import { copyRate, E2eModel, hostRate } from "./bench/e2e_sections.ts";
import { BUDGETS } from "./bench/gpu_inputs.ts";
import { runGpuPeer } from "./bench/gpu_peer.ts";
import { describeMachine } from "./bench/machine.ts";

const HELP = `deno task bench:e2e [options]

Times prompts to their first token, sparse and dense, then decoding, on a model of random weights, then the
peer (PyTorch with cuDNN attention), and writes docs/bench/e2e-DATE.json after every step, and its tables.

  --shape NAME          ${Object.keys(SHAPES).join(" or ")}          (default: llama-3-8b)
  --layers N            fewer decoder layers than the shape has
  --lengths LIST        tokens                      (default: 8192,32768,131072,262144,524288,1048576)
  --weights FORMAT      bf16, or fp8 in the decoder layers  (default: bf16)
  --kv-place PLACE      device, or host: keys and values in host memory  (default: device)
  --dense-up-to N       longest dense run; beyond it one layer's attention is timed (default: 131072)
  --decode-at N         tokens held while decoding  (default: 131072)
  --only LIST           of sparse,dense,decode,peer (default: these) and load: the weights from a file of their size,
                        which the folder for temporary files and the page cache must hold
  --budget SECONDS      start nothing after this    (default: no limit)
  --device KIND         cuda (default) or cpu, to try the benchmark itself
  --out FILE            results                     (default: docs/bench/e2e-DATE.json, with fp8 weights e2e-fp8-DATE.json)
  --report              print FILE's tables, measure nothing`;

const ROOT = new URL("../", import.meta.url).pathname;
const WARM_UP_TOKENS = 4096;
const DECODE_STEPS = 32;

const { values: flags } = parseArgs({
  options: {
    shape: { type: "string", default: "llama-3-8b" },
    layers: { type: "string" },
    lengths: { type: "string", default: "8192,32768,131072,262144,524288,1048576" },
    weights: { type: "string", default: "bf16" },
    "kv-place": { type: "string", default: "device" },
    "dense-up-to": { type: "string", default: `${1 << 17}` },
    "decode-at": { type: "string", default: `${1 << 17}` },
    only: { type: "string", default: "sparse,dense,decode,peer" },
    budget: { type: "string", default: "Infinity" },
    device: { type: "string", default: "cuda" },
    out: { type: "string" },
    report: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

/** Runs steps one after the other; what fails or finds no time left is noted, and the next one runs. */
class Run {
  readonly #start = performance.now();

  constructor(readonly results: E2eResults, readonly path: string) {}

  async step(name: string, body: () => Promise<string>): Promise<void> {
    const spent = (): number => (performance.now() - this.#start) / 1000;
    const before = spent();
    if (before >= Number(flags.budget)) {
      this.results.skipped.push(name);
    } else {
      try {
        const text = await body();
        console.log(`${name}: ${text} [${(spent() - before).toFixed(1)} s]`);
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        console.error(`${name}: FAILED: ${text}`);
        this.results.failures.push({ step: name, error: text });
      }
    }
    await this.save();
  }

  async save(): Promise<void> {
    await Deno.mkdir(this.path.replace(/[^/]*$/, "") || ".", { recursive: true });
    await Deno.writeTextFile(`${this.path}.part`, `${JSON.stringify(this.results, null, 1)}\n`);
    await Deno.rename(`${this.path}.part`, this.path);
  }
}

async function measureOurs(run: Run, only: ReadonlySet<string>): Promise<void> {
  const { results } = run;
  const { config } = results;
  await using device = await openDevice({ kind: flags.device as "cuda" | "cpu", profile: true });
  results.machine.device = device.info().name;
  const lengths = flags.lengths.split(",").map(Number);
  const longest = Number(flags["dense-up-to"]);
  const weights = results.weights === "fp8" ? "fp8" : "stored";
  const parameters = await randomParameters(device, config, weights);
  results.weightBytes = parameters.byteLength;
  using model = new E2eModel(device, config, parameters, weights, results.kvPlace);

  const prefill = async (tokens: number, mode: "sparse" | "dense"): Promise<string> => {
    const row = await model.prefill(tokens, mode);
    results[mode].push(row);
    const parts = [row.linearMs, row.attentionMs, row.indexMs, row.restMs];
    const gib = (row.peakBytes / 2 ** 30).toFixed(1);
    return `${row.ms.toFixed(0)} ms (linear, attention, index, rest: ` +
      `${parts.map((ms) => ms.toFixed(0)).join(", ")}), linear ${row.linearTflops.toFixed(0)} ` +
      `TFLOP/s, density ${row.density.toFixed(4)}, ${gib} GiB${
        row.kv === "fp8" ? ", fp8 cache" : ""
      }`;
  };

  const warmUp = Math.min(WARM_UP_TOKENS, ...lengths);
  await run.step(`warm-up of ${warmUp} tokens`, async () => {
    const [sparse, dense] = [
      await model.prefill(warmUp, "sparse"),
      await model.prefill(warmUp, "dense"),
    ];
    return `${sparse.ms.toFixed(0)} and ${dense.ms.toFixed(0)} ms`;
  });
  if (only.has("sparse")) {
    for (const tokens of lengths) {
      await run.step(`sparse ${tokens}`, () => prefill(tokens, "sparse"));
    }
  }
  if (only.has("dense")) {
    for (const tokens of lengths.filter((n) => n <= longest)) {
      await run.step(`dense ${tokens}`, () => prefill(tokens, "dense"));
    }
  }
  if (only.has("decode")) {
    model.trim();
    await run.step("copy", async () => {
      results.copyBytesPerSecond = await copyRate(device);
      const onDevice = `${(results.copyBytesPerSecond / 1e12).toFixed(2)} TB/s`;
      if (results.kvPlace !== "host") return onDevice;
      results.hostBytesPerSecond = await hostRate(device);
      return `${onDevice}, from the host ${(results.hostBytesPerSecond / 1e9).toFixed(1)} GB/s`;
    });
    const held = Number(flags["decode-at"]);
    const decode = async (kv: "stored" | "fp8", field: "decode" | "decodeFp8"): Promise<string> => {
      const row = await model.decode(held, DECODE_STEPS, kv);
      results[field] = row;
      const device = `device ${row.deviceMs.toFixed(2)} ms (${decodeSplit(row)})`;
      const bound = row.bytes / (results.copyBytesPerSecond ?? NaN) * 1000;
      const share = `${(100 * bound / row.ms).toFixed(0)}% of ${bound.toFixed(2)} ms`;
      return `${(1000 / row.ms).toFixed(1)} tokens/s, ${row.ms.toFixed(2)} ms, ${share}, ${device}`;
    };
    await run.step(`decode at ${held}`, () => decode("stored", "decode"));
    await run.step(`decode at ${held}, fp8 cache`, () => decode("fp8", "decodeFp8"));
  }
  if (only.has("dense")) {
    for (const tokens of lengths.filter((n) => n > longest)) {
      await run.step(`dense attention of one layer, ${tokens}`, async () => {
        const row = await model.denseAttention(tokens);
        results.denseAttention.push(row);
        return `${row.ms.toFixed(0)} ms, ${row.groups} groups, ${row.tflops.toFixed(0)} TFLOP/s`;
      });
    }
  }
}

/** The peer's figures; it writes them all at its end. */
async function measurePeer(results: E2eResults): Promise<string> {
  const most = Math.max(...flags.lengths.split(",").map(Number));
  const peer = await runGpuPeer(["--only", "decoder", "--most-tokens", `${most}`]);
  if (peer.results) results.peer = peer.results;
  if (!peer.success || !peer.results) throw new Error("gpu_peer.py failed");
  return "done";
}

/** Loads weights from a file, in bf16, as stored. */
async function measureLoading(results: E2eResults): Promise<string> {
  await using device = await openDevice({ kind: flags.device as "cuda" | "cpu" });
  results.machine.device = device.info().name;
  results.load = await measureLoad(device, results.config);
  return loadText(results.load);
}

async function main(): Promise<void> {
  if (flags.help) return console.log(HELP);
  const date = new Date().toISOString();
  const path = flags.out ??
    `${ROOT}docs/bench/e2e-${flags.weights === "fp8" ? "fp8-" : ""}${date.slice(0, 10)}.json`;
  if (flags.report) return console.log(e2eMarkdown(JSON.parse(await Deno.readTextFile(path))));
  const shape = SHAPES[flags.shape];
  if (!shape) throw new Error(`no shape ${flags.shape}`);
  const { weights } = flags;
  if (weights !== "bf16" && weights !== "fp8") throw new Error(`no weights ${weights}`);
  const kvPlace = flags["kv-place"];
  if (kvPlace !== "device" && kvPlace !== "host") throw new Error(`no place ${kvPlace}`);
  const results: E2eResults = {
    schema: 1,
    date,
    machine: { ...await describeMachine(), device: flags.device },
    shape: flags.shape,
    config: { ...shape, layers: Number(flags.layers ?? shape.layers) },
    budgets: BUDGETS,
    weights,
    kvPlace,
    sparse: [],
    dense: [],
    denseAttention: [],
    failures: [],
    skipped: [],
  };
  const run = new Run(results, path);
  const only = new Set(flags.only.split(","));
  const own = ["sparse", "dense", "decode"].some((name) => only.has(name));
  try {
    if (only.has("load")) await run.step("load", () => measureLoading(results));
    if (own) await measureOurs(run, only);
  } catch (error) {
    results.failures.push({ step: "this library", error: String(error) });
    console.error(error);
  }
  // The device is closed: the peer gets its memory.
  if (only.has("peer")) await run.step("peer", () => measurePeer(results));
  await run.save();
  console.log(e2eMarkdown(results));
}

await main();
