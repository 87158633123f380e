// Reads a prompt with llama.cpp's CPU build, through node-llama-cpp. Started without this project's
// configuration, so that the package resolves inside its own folder.
import { peakResident, underLoad } from "./load.ts";
import {
  type PrefillJob,
  type PrefillReading,
  type PrefillReport,
  readJob,
  writeReport,
} from "./worker.ts";

/** What is used of node-llama-cpp 3.22.1. */
interface Sequence {
  evaluate(ids: number[], options: { temperature: 0; yieldEogToken: true }): AsyncGenerator<number>;
}
interface Context {
  getSequence(): Sequence;
  readonly batchSize: number;
  readonly flashAttention: boolean;
  readonly currentThreads: number;
  dispose(): Promise<void>;
}
interface LlamaModel {
  createContext(options: {
    contextSize: number;
    batchSize: number;
    flashAttention: true;
    threads: { ideal: number; min: number };
  }): Promise<Context>;
  tokenize(text: string, specialTokens: boolean): number[];
  dispose(): Promise<void>;
}
interface Llama {
  loadModel(options: { modelPath: string }): Promise<LlamaModel>;
  readonly systemInfo: string;
  readonly llamaCppRelease: { repo: string; release: string };
  dispose(): Promise<void>;
}

const WARM_UP_TOKENS = 512;

const job = readJob<PrefillJob>();
const { peer = "", batch = 512 } = job;
const { getLlama } = await import(`file://${peer}/node_modules/node-llama-cpp/dist/index.js`);
const llama: Llama = await getLlama({
  gpu: false,
  build: "never",
  skipDownload: true,
  maxThreads: job.threads,
  logLevel: "error",
});
const model = await llama.loadModel({ modelPath: job.model });
const ids: number[] = JSON.parse(await Deno.readTextFile(job.ids));

async function read(
  context: Context,
  prompt: number[],
  generate: number,
): Promise<Omit<PrefillReading, "ownCpu" | "disturbance">> {
  const output: number[] = [];
  const start = performance.now();
  let first = 0;
  for await (
    const id of context.getSequence().evaluate(prompt, { temperature: 0, yieldEogToken: true })
  ) {
    if (output.length === 0) first = performance.now();
    output.push(id);
    if (output.length >= generate) break;
  }
  const decodeMs = (performance.now() - first) / Math.max(1, output.length - 1);
  return { ttftMs: first - start, decodeMs, output };
}

const readings: PrefillReading[] = [];
let settings = {};
for (let i = -1; i < job.readings; i++) {
  const warmUp = i < 0;
  const context = await model.createContext({
    contextSize: ids.length + job.generate,
    batchSize: batch,
    flashAttention: true,
    threads: { ideal: job.threads, min: job.threads },
  });
  if (warmUp) await read(context, ids.slice(0, WARM_UP_TOKENS), 2);
  else readings.push(await underLoad(() => read(context, ids, job.generate)));
  settings = {
    batch: context.batchSize,
    flashAttention: context.flashAttention,
    threads: context.currentThreads,
  };
  await context.dispose();
}

// Begin-of-text is the one id that the text does not hold.
const tokenized = model.tokenize(job.text, true);
const agrees = tokenized.length === ids.length - 1 && tokenized.every((id, k) => id === ids[k + 1]);
const library = /libggml-cpu-(\w+)\.so/.exec(await Deno.readTextFile("/proc/self/maps"))?.[1];
const report: PrefillReport = {
  readings,
  peakResident: peakResident(),
  details: {
    ...settings,
    variant: library ?? "unknown",
    systemInfo: llama.systemInfo,
    llamaCpp: llama.llamaCppRelease.release,
    tokenizerAgrees: agrees,
  },
};
writeReport(report);
await model.dispose();
await llama.dispose();
