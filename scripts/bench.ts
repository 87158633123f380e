/**
 * The CPU benchmark: this library, dense and sparse, beside llama.cpp on the same file and the same tokens.
 * `deno task bench --help` says how.
 *
 * @module
 */
import { parseArgs } from "node:util";
import type { LengthReport, LengthsJob } from "./bench/lengths_worker.ts";
import type { LinearJob, LinearReport } from "./bench/linear_worker.ts";
import { buildPeakLoop, describeMachine } from "./bench/machine.ts";
import { findPeer, installPeer, PEER_VERSION, runPeer } from "./bench/peer.ts";
import { makePrompts, type Prompt } from "./bench/prompts.ts";
import { bestBatch, markdown } from "./bench/report.ts";
import { undisturbed, waitForQuiet } from "./bench/load.ts";
import {
  type Engine,
  type PrefillSample,
  readResults,
  type Results,
  writeResults,
} from "./bench/results.ts";
import { type PrefillJob, type PrefillReport, runWorker } from "./bench/worker.ts";

const HELP = `deno task bench [options]

Measures prefill, decode, memory, linear layers and the automatic choice, and writes every reading to
docs/bench/cpu-DATE.json. Stopped and started again, it goes on where it was.

  --install-peer        install llama.cpp (npm node-llama-cpp ${PEER_VERSION}, 85 MB) into .peers/ first
  --only LIST           of prefill,linear,lengths          (default: all)
  --engines LIST        of sparse,dense,peer               (default: all that are installed)
  --lengths LIST        prefill: tokens                    (default: 2048,6912,28000)
  --short LIST          automatic choice: tokens           (default: 256,512,1024,2048,4096,8192,16384)
  --repeat N            undisturbed readings wanted        (default: 3)
  --rounds N            most rounds to get them in         (default: twice as many)
  --patience SECONDS    wait so long for an idle machine before each reading (default: 20)
  --batch LIST          peer: tokens per batch to try      (default: 512,2048)
  --threads N           of every engine                    (default: 2)
  --out FILE            results                            (default: docs/bench/cpu-DATE.json)
  --fresh               start over instead of going on with FILE
  --report              print FILE's table, measure nothing`;

const ROOT = new URL("../", import.meta.url).pathname;
const MODEL = `${ROOT}models/needle-27m/needle-27m-q8_0.gguf`;
const HAYSTACK = `${ROOT}models/needle-27m/haystack.txt`;
const GENERATE = 24;
const LINEAR_ROWS = 2048;
/** Prompts up to this length are read several times by one process: a single reading is too short. */
const SHORT_PROMPT = 4096;

const { values: flags } = parseArgs({
  options: {
    "install-peer": { type: "boolean", default: false },
    only: { type: "string", default: "prefill,linear,lengths" },
    engines: { type: "string", default: "sparse,dense,peer" },
    lengths: { type: "string", default: "2048,6912,28000" },
    short: { type: "string", default: "256,512,1024,2048,4096,8192,16384" },
    repeat: { type: "string", default: "3" },
    rounds: { type: "string" },
    patience: { type: "string", default: "20" },
    batch: { type: "string", default: "512,2048" },
    threads: { type: "string", default: "2" },
    out: { type: "string" },
    fresh: { type: "boolean", default: false },
    report: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

/** Undisturbed readings wanted of everything. */
const REPEAT = Number(flags.repeat);

const numbers = (list: string): number[] => list.split(",").map(Number);

/** Reads every prompt with every engine in turns; what the results hold already is not read again. */
async function measurePrefill(
  results: Results,
  prompts: ReadonlyMap<string, Prompt>,
  peer: string | null,
  save: () => Promise<void>,
): Promise<void> {
  const wanted = new Set(flags.engines.split(","));
  const batches = peer ? numbers(flags.batch) : [];
  const rounds = Number(flags.rounds ?? 2 * REPEAT);
  const samples = (prompt: string, engine: Engine, batch?: number): PrefillSample[] =>
    results.prefill.filter((s) => s.prompt === prompt && s.engine === engine && s.batch === batch);
  const undisturbedSamples = (prompt: string, engine: Engine, batch?: number): number =>
    samples(prompt, engine, batch).filter((s) => undisturbed(s.readings).length > 0).length;
  for (let round = 0; round < rounds; round++) {
    for (const [prompt, { ids, text, tokens }] of prompts) {
      const job: PrefillJob = {
        model: MODEL,
        ids,
        text,
        threads: results.threads,
        readings: tokens <= SHORT_PROMPT ? 3 : 1,
        generate: GENERATE,
      };
      const take = async (
        engine: Engine,
        batch: number | undefined,
        run: () => Promise<PrefillReport>,
      ): Promise<void> => {
        if (!wanted.has(engine) || undisturbedSamples(prompt, engine, batch) >= REPEAT) return;
        if (samples(prompt, engine, batch).some((s) => s.round === round)) return;
        await waitForQuiet(Number(flags.patience));
        const report = await run();
        results.prefill.push({ prompt, engine, batch, round, ...report });
        await save();
        const { ttftMs, disturbance } = report.readings[0];
        console.error(
          `round ${round}, ${tokens} tokens, ${engine}${batch ? ` (batch ${batch})` : ""}: ` +
            `${(ttftMs / 1000).toFixed(2)} s, ${(disturbance * 100).toFixed(0)}% disturbed`,
        );
      };
      await take(
        "sparse",
        undefined,
        () => runWorker("ours_worker.ts", { ...job, patterns: "auto" }),
      );
      // Every batch size until it had one fair reading; from then on the best.
      const best = bestBatch(results, prompt);
      for (const batch of batches) {
        if (batch !== best && undisturbedSamples(prompt, "peer", batch) > 0) continue;
        await take("peer", batch, () => runPeer({ ...job, peer: peer ?? "", batch }));
      }
      await take(
        "dense",
        undefined,
        () => runWorker("ours_worker.ts", { ...job, patterns: "dense" }),
      );
    }
  }
}

async function measureLinear(results: Results): Promise<void> {
  const peakLoop = await buildPeakLoop();
  try {
    await waitForQuiet(Number(flags.patience));
    const { threads } = results;
    const readings = Math.max(5, REPEAT);
    const job: LinearJob = { model: MODEL, threads, rows: LINEAR_ROWS, readings, peakLoop };
    results.linear = await runWorker<LinearReport>("linear_worker.ts", job);
  } finally {
    await Deno.remove(peakLoop);
  }
}

async function measureLengths(
  results: Results,
  ids: string,
  save: () => Promise<void>,
): Promise<void> {
  for (const length of numbers(flags.short)) {
    if (results.lengths.some(({ tokens }) => tokens === length)) continue;
    const { threads } = results;
    const job: LengthsJob = { model: MODEL, ids, threads, lengths: [length], readings: REPEAT };
    await waitForQuiet(Number(flags.patience));
    results.lengths.push(...await runWorker<LengthReport[]>("lengths_worker.ts", job));
    await save();
    console.error(`automatic choice at ${length} tokens: done`);
  }
}

async function main(): Promise<void> {
  if (flags.help) return console.log(HELP);
  if (flags["install-peer"]) await installPeer();
  const date = new Date().toISOString();
  const out = flags.out ?? `${ROOT}docs/bench/cpu-${date.slice(0, 10)}.json`;
  const held = flags.fresh ? null : await readResults(out);
  if (flags.report) return console.log(held ? markdown(held) : `${out}: no such file`);
  const peer = await findPeer();
  if (!peer) console.error("llama.cpp is not installed (--install-peer): measuring ours alone");
  const results: Results = held ?? {
    schema: 1,
    date,
    machine: await describeMachine(),
    peer: peer && PEER_VERSION,
    threads: Number(flags.threads),
    prompts: {},
    prefill: [],
    lengths: [],
  };
  const save = (): Promise<void> => writeResults(out, results);
  const sections = new Set(flags.only.split(","));
  const folder = await Deno.makeTempDir({ prefix: "minference_bench_" });
  try {
    const haystack = await Deno.readTextFile(HAYSTACK);
    if (sections.has("prefill")) {
      const prompts = await makePrompts(MODEL, haystack, numbers(flags.lengths), folder);
      for (const [label, { tokens, answer, answerIds }] of prompts) {
        results.prompts[label] = { tokens, answer, answerIds };
      }
      await measurePrefill(results, prompts, peer, save);
    }
    if (sections.has("linear") && !results.linear) await measureLinear(results);
    if (sections.has("lengths")) {
      const longest = Math.max(...numbers(flags.short));
      // Prefixes of one prompt: a little longer than the longest, so that it certainly suffices.
      const length = Math.ceil(longest * 1.02) + 64;
      const [prompt] = (await makePrompts(MODEL, haystack, [length], folder)).values();
      await measureLengths(results, prompt.ids, save);
    }
    await save();
    console.log(markdown(results));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

await main();
