/**
 * The GPU benchmark: this library beside PyTorch's cuDNN attention and the published MInference kernels, in
 * one run. `deno task bench:gpu --help` says how.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { openDevice } from "../src/device/open.ts";
import { runGpuPeer } from "./bench/gpu_peer.ts";
import * as ours from "./bench/gpu_sections.ts";
import { gpuMarkdown, type GpuResults } from "./bench/gpu_report.ts";

const HELP = `deno task bench:gpu [options]

Times attention, the index and a whole layer on the GPU, then the peers with the same inputs, and writes
docs/bench/gpu-DATE.json and its table.

  --only LIST           of dense,launch,layer,blocks,automatic,cost  (default: all)
  --most-tokens N       longest prompt                     (default: 1048576)
  --upstream DIR        checkout of microsoft/MInference, for its kernels
  --no-peer             this library alone
  --device KIND         cuda (default) or cpu, to try the benchmark itself
  --out FILE            results                            (default: docs/bench/gpu-DATE.json)
  --report              print FILE's table, measure nothing`;

const ROOT = new URL("../", import.meta.url).pathname;

const { values: flags } = parseArgs({
  allowNegative: true,
  options: {
    only: { type: "string", default: "dense,launch,layer,blocks,automatic,cost" },
    "most-tokens": { type: "string", default: `${1 << 20}` },
    upstream: { type: "string" },
    peer: { type: "boolean", default: true },
    device: { type: "string", default: "cuda" },
    out: { type: "string" },
    report: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

async function measureOurs(): Promise<GpuResults["ours"]> {
  await using device = await openDevice({ kind: flags.device as "cuda" | "cpu", profile: true });
  const most = Number(flags["most-tokens"]);
  const upTo = (lengths: readonly number[]): number[] => lengths.filter((n) => n <= most);
  const long = upTo([131_072, 1_048_576]);
  const sections: Record<string, () => Promise<unknown>> = {
    cost: () => ours.launchCost(device),
    automatic: () => ours.automatic(device, upTo([512, 1024, 2048, 4096, 8192, 16_384, 32_768])),
    dense: () => ours.dense(device, upTo([8192, 32_768, 131_072, 262_144, 1_048_576])),
    layer: () => ours.layer(device, upTo([8192, 32_768, 131_072, 1_048_576])),
    launch: () =>
      ours.launch(device, long, [{ vertical: 1000, slash: 6096 }, { vertical: 3500, slash: 100 }]),
    blocks: () => ours.blocks(device, long),
  };
  const results: Record<string, unknown> = { gpu: device.info().name };
  for (const [name, measure] of Object.entries(sections)) {
    if (!flags.only.split(",").includes(name)) continue;
    const start = performance.now();
    results[name] = await measure();
    console.log(`-- ${name}: ${((performance.now() - start) / 1000).toFixed(1)} s`);
  }
  return results;
}

async function measurePeers(): Promise<unknown> {
  const upstream = flags.upstream ? ["--upstream", flags.upstream] : [];
  const { success, results } = await runGpuPeer([
    ...["--most-tokens", flags["most-tokens"]],
    ...["--only", "dense,launch,layer,blocks", ...upstream],
  ]);
  if (!success) console.error("the peers' run failed; what it measured is kept");
  return results;
}

async function main(): Promise<void> {
  if (flags.help) return console.log(HELP);
  const date = new Date().toISOString();
  const path = flags.out ?? `${ROOT}docs/bench/gpu-${date.slice(0, 10)}.json`;
  if (flags.report) return console.log(gpuMarkdown(JSON.parse(await Deno.readTextFile(path))));
  const results: GpuResults = { schema: 1, date, ours: await measureOurs(), peers: null };
  const save = async (): Promise<void> => {
    await Deno.mkdir(path.replace(/[^/]*$/, "") || ".", { recursive: true });
    await Deno.writeTextFile(path, `${JSON.stringify(results, null, 1)}\n`);
  };
  await save();
  if (flags.peer) {
    results.peers = await measurePeers();
    await save();
  }
  console.log(gpuMarkdown(results));
}

await main();
