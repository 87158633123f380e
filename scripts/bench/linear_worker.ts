// Times the linear layers of the model's decoder against the machine's multiply-add peak, in turns.
import { loadModel, openDevice } from "../../mod.ts";
import { FORMAT } from "../../src/device/dtype.ts";
import { linear, type Weight } from "../../src/device/ops.ts";
import { Scratch } from "../../src/device/scratch.ts";
import { activationDtype } from "../../src/model/pass.ts";
import { engineOf } from "../../src/model/model.ts";
import { type Load, underLoad } from "./load.ts";
import { readJob, writeReport } from "./worker.ts";

/** Linear layers of one decoder layer. */
export interface LinearJob {
  /** GGUF file. */
  readonly model: string;
  /** Threads, of the peak loop as well. */
  readonly threads: number;
  /** Rows of the activations. */
  readonly rows: number;
  /** Readings of each kind. */
  readonly readings: number;
  /** The compiled peak loop. */
  readonly peakLoop: string;
}

/** One turn: the peak loop, then every linear layer in both precisions. GFLOP/s. */
export interface LinearReading extends Load {
  readonly peak: number;
  readonly bf16: number;
  readonly f32: number;
}

/** Report of a {@linkcode LinearJob}. */
export interface LinearReport {
  /** Element type of the weights. */
  readonly weights: string;
  /** Turns. */
  readonly readings: readonly LinearReading[];
}

const PEAK_MS = 400;
const WORK_MS = 300;

const job = readJob<LinearJob>();
await using device = await openDevice({ kind: "cpu", threads: job.threads });
await using model = await loadModel(job.model, { device });
using scratch = new Scratch(device);
const dtype = activationDtype(device);
const { q, k, v, output, gate, up, down } = engineOf(model).decoder.parameters.layers[0];
const weights: Weight[] = [q, k, v, output, gate, up, down].map(({ weight }) => weight);
const flop = weights.reduce((sum, { rows, columns }) => sum + 2 * job.rows * rows * columns, 0);

const widest = Math.max(...weights.flatMap(({ rows, columns }) => [rows, columns]));
const values = Float32Array.from({ length: job.rows * widest }, (_, i) => Math.sin(i * 0.7));
using x = device.tensor([job.rows, widest], { dtype, data: values });
using y = device.tensor([job.rows, widest], { dtype });

async function pass(precision: "bf16" | "f32"): Promise<void> {
  for (const weight of weights) {
    const input = x.view({ rowStride: weight.columns });
    const result = y.view({ rowStride: weight.rows });
    linear(device, scratch, input, weight, result, job.rows, { precision });
  }
  await device.sync();
}

async function rate(precision: "bf16" | "f32"): Promise<number> {
  const start = performance.now();
  let passes = 0;
  while (performance.now() - start < WORK_MS) {
    await pass(precision);
    passes++;
  }
  return passes * flop / (performance.now() - start) * 1e-6;
}

/** The peak loop's rate and the fraction of its time that it did not get. */
async function peakRate(): Promise<{ peak: number; missed: number }> {
  const args = [String(job.threads), String(PEAK_MS)];
  const { stdout } = await new Deno.Command(job.peakLoop, { args }).output();
  const [peak, share] = new TextDecoder().decode(stdout).split(" ").map(Number);
  return { peak, missed: 1 - share };
}

await pass("bf16");
await pass("f32");
const readings: LinearReading[] = [];
for (let i = 0; i < job.readings; i++) {
  const { peak, missed } = await peakRate();
  const rates = await underLoad(async () => ({ bf16: await rate("bf16"), f32: await rate("f32") }));
  readings.push({ peak, ...rates, disturbance: Math.max(missed, rates.disturbance) });
}
const stored = Object.entries(FORMAT).find(([, { code }]) => code === q.weight.view.dtype)?.[0];
const report: LinearReport = { weights: stored ?? "unknown", readings };
writeReport(report);
