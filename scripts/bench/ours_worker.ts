// Reads a prompt with this library.
import { loadModel, type Model, openDevice } from "../../mod.ts";
import { peakResident, underLoad } from "./load.ts";
import {
  type PrefillJob,
  type PrefillReading,
  type PrefillReport,
  readJob,
  writeReport,
} from "./worker.ts";

const WARM_UP_TOKENS = 512;

async function read(
  model: Model,
  ids: Uint32Array,
  job: PrefillJob,
): Promise<Omit<PrefillReading, "ownCpu" | "disturbance">> {
  await using session = await model.createSession();
  const start = performance.now();
  const { density } = await session.prefill(ids);
  const output: number[] = [];
  let first = 0;
  for await (
    const { tokens } of session.generate(undefined, { maxTokens: job.generate, ignoreEos: true })
  ) {
    if (output.length === 0) first = performance.now();
    output.push(...tokens);
  }
  const decodeMs = (performance.now() - first) / Math.max(1, output.length - 1);
  return { ttftMs: first - start, decodeMs, output, density };
}

const job = readJob<PrefillJob>();
const ids = Uint32Array.from(JSON.parse(await Deno.readTextFile(job.ids)) as number[]);
await using device = await openDevice({ kind: "cpu", threads: job.threads });
await using model = await loadModel(job.model, { device, patterns: job.patterns });
await read(model, ids.subarray(0, WARM_UP_TOKENS), { ...job, generate: 2 });
const readings: PrefillReading[] = [];
for (let i = 0; i < job.readings; i++) readings.push(await underLoad(() => read(model, ids, job)));
const { weights, kvCache } = model.planMemory(ids.length + job.generate);
const { name, path, units, peak } = device.info();
const report: PrefillReport = {
  readings,
  peakResident: peakResident(),
  device: { weights, kvCache, peak },
  details: { cpu: name, isa: path, threads: units },
};
writeReport(report);
