// Times dense and sparse prefill of short prompts, in turns on one model: what the automatic choice costs.
import { loadModel, type Model, openDevice } from "../../mod.ts";
import { type Load, underLoad } from "./load.ts";
import { readJob, writeReport } from "./worker.ts";

/** Prefixes of one prompt, each read densely and sparsely. */
export interface LengthsJob {
  /** GGUF file. */
  readonly model: string;
  /** File with token ids, at least as many as the longest length. */
  readonly ids: string;
  /** Threads. */
  readonly threads: number;
  /** Prompt lengths in tokens. */
  readonly lengths: readonly number[];
  /** Fewest readings of each kind at a length; short prompts get more. */
  readonly readings: number;
}

/** One reading, milliseconds. */
export interface TimedLoad extends Load {
  readonly ms: number;
}

/** Readings at one length. Taken in turns. */
export interface LengthReport {
  readonly tokens: number;
  readonly dense: readonly TimedLoad[];
  readonly sparse: readonly TimedLoad[];
  /** Mean fraction of attention tiles computed by the sparse readings. */
  readonly density: number;
}

const BUDGET_MS = 3000; // of readings of one kind at one length
const MOST_READINGS = 51;

async function prefill(
  model: Model,
  ids: Uint32Array,
  patterns: "dense" | "auto",
): Promise<{ ms: number; density: number }> {
  await using session = await model.createSession({ patterns });
  const start = performance.now();
  const { density } = await session.prefill(ids);
  return { ms: performance.now() - start, density };
}

const job = readJob<LengthsJob>();
const ids = Uint32Array.from(JSON.parse(await Deno.readTextFile(job.ids)) as number[]);
await using device = await openDevice({ kind: "cpu", threads: job.threads });
await using model = await loadModel(job.model, { device });
const reports: LengthReport[] = [];
for (const tokens of job.lengths) {
  const prompt = ids.subarray(0, tokens);
  const { ms } = await prefill(model, prompt, "dense");
  const { density } = await prefill(model, prompt, "auto");
  const readings = Math.max(job.readings, Math.min(MOST_READINGS, Math.ceil(BUDGET_MS / ms)));
  const dense: TimedLoad[] = [];
  const sparse: TimedLoad[] = [];
  for (let i = 0; i < readings; i++) {
    // The order alternates: neither kind always runs on the other's caches.
    const kinds = i % 2 === 0 ? ["dense", "auto"] as const : ["auto", "dense"] as const;
    for (const kind of kinds) {
      const { ms, ownCpu, disturbance } = await underLoad(() => prefill(model, prompt, kind));
      (kind === "dense" ? dense : sparse).push({ ms, ownCpu, disturbance });
    }
  }
  reports.push({ tokens, dense, sparse, density });
}
writeReport(reports);
