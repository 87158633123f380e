/**
 * Ratios and the table of a benchmark run.
 *
 * @module
 */
import { median } from "../../src/cli/format.ts";
import { DISTURBED_ABOVE, type Load, quiet } from "./load.ts";
import { table } from "./markdown.ts";
import type { Engine, PrefillSample, Results } from "./results.ts";
import type { PrefillReading } from "./worker.ts";

function samplesOf(results: Results, prompt: string, engine: Engine): readonly PrefillSample[] {
  return results.prefill.filter((s) => s.prompt === prompt && s.engine === engine);
}

/** The peer's batch size that read this prompt fastest. */
export function bestBatch(results: Results, prompt: string): number | undefined {
  const byBatch = Map.groupBy(samplesOf(results, prompt, "peer"), ({ batch }) => batch);
  const times = [...byBatch].map(([batch, samples]) => ({
    batch,
    ms: median(quiet(samples.flatMap(({ readings }) => readings)).map(({ ttftMs }) => ttftMs)),
  }));
  return times.toSorted((a, b) => a.ms - b.ms)[0]?.batch;
}

/** Readings that count for an engine at a prompt: of the peer, those of its best batch size. */
function readingsOf(results: Results, prompt: string, engine: Engine): readonly PrefillReading[] {
  const batch = engine === "peer" ? bestBatch(results, prompt) : undefined;
  const samples = samplesOf(results, prompt, engine).filter((s) => s.batch === batch);
  return quiet(samples.flatMap(({ readings }) => readings));
}

function seconds(ms: number): string {
  return Number.isNaN(ms)
    ? "-"
    : ms < 10000
    ? `${(ms / 1000).toFixed(2)} s`
    : `${(ms / 1000).toFixed(1)} s`;
}

function times(ratio: number): string {
  return Number.isNaN(ratio) ? "-" : `${ratio.toFixed(2)}x`;
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}

/** How many leading ids two outputs share. */
function sharedPrefix(a: readonly number[], b: readonly number[]): number {
  const end = a.findIndex((id, i) => id !== b[i]);
  return end < 0 ? a.length : end;
}

/** Whether an engine's greedy output gives the answer. */
function answers(results: Results, prompt: string, engine: Engine): string {
  const wanted = results.prompts[prompt].answerIds;
  const [reading] = readingsOf(results, prompt, engine);
  if (!reading) return "-";
  return sharedPrefix(wanted, reading.output) === wanted.length ? "right" : "wrong";
}

function prefillTable(results: Results): string {
  const rows = Object.entries(results.prompts).map(([prompt, { tokens }]) => {
    const ms = (engine: Engine): number =>
      median(readingsOf(results, prompt, engine).map(({ ttftMs }) => ttftMs));
    const [peer, dense, sparse] = [ms("peer"), ms("dense"), ms("sparse")];
    const density = readingsOf(results, prompt, "sparse")[0]?.density ?? NaN;
    return [
      String(tokens),
      seconds(peer),
      seconds(dense),
      times(peer / dense),
      seconds(sparse),
      times(peer / sparse),
      times(dense / sparse),
      Number.isNaN(density) ? "-" : `${(density * 100).toFixed(1)}%`,
      (["peer", "dense", "sparse"] as const).map((e) => answers(results, prompt, e)).join(", "),
    ];
  });
  return table([
    "tokens",
    "llama.cpp",
    "dense",
    "dense vs llama.cpp",
    "sparse",
    "sparse vs llama.cpp",
    "sparse vs dense",
    "tiles computed",
    "answers (llama.cpp, dense, sparse)",
  ], rows);
}

function decodeTable(results: Results): string {
  const rows = Object.entries(results.prompts).map(([prompt, { tokens }]) => {
    const ms = (engine: Engine): number =>
      median(readingsOf(results, prompt, engine).map(({ decodeMs }) => decodeMs));
    const [peer, dense] = [ms("peer"), ms("dense")];
    const cell = (value: number): string => Number.isNaN(value) ? "-" : `${value.toFixed(1)} ms`;
    return [String(tokens), cell(peer), cell(dense), times(peer / dense)];
  });
  return table(["context", "llama.cpp, a token", "ours, a token", "ours vs llama.cpp"], rows);
}

function memoryTable(results: Results): string {
  const rows = Object.entries(results.prompts).flatMap(([prompt, { tokens }]) => {
    const dense = samplesOf(results, prompt, "dense")[0]?.device;
    return (["dense", "sparse", "peer"] as const).flatMap((engine) => {
      const samples = samplesOf(results, prompt, engine);
      if (samples.length === 0 || !dense) return [];
      const resident = Math.min(...samples.map(({ peakResident }) => peakResident));
      const { device } = samples[0];
      const held = dense.weights + dense.kvCache;
      return [[
        String(tokens),
        engine === "peer" ? "llama.cpp" : engine,
        mib(resident),
        mib(held),
        mib(resident - held),
        device ? mib(device.peak - device.weights - device.kvCache) : "-",
        device && engine === "sparse" ? mib(device.peak - dense.peak) : "-",
      ]];
    });
  });
  return table([
    "tokens",
    "engine",
    "peak resident, MiB",
    "model + KV",
    "beyond them",
    "of it tensors",
    "of it index",
  ], rows);
}

function linearTable({ linear }: Results): string {
  if (!linear) return "";
  const readings = quiet(linear.readings);
  const rows = (["bf16", "f32"] as const).map((precision) => [
    `${linear.weights} weights, ${precision}`,
    `${median(readings.map((r) => r[precision])).toFixed(0)} GFLOP/s`,
    `${median(readings.map((r) => r.peak)).toFixed(0)} GFLOP/s`,
    `${(median(readings.map((r) => r[precision] / r.peak)) * 100).toFixed(0)}%`,
  ]);
  return table(["linear layers, 2048 rows", "rate", "f32 FMA peak", "of the peak"], rows);
}

function lengthsTable({ lengths }: Results): string {
  const rows = lengths.map(({ tokens, dense, sparse, density }) => {
    const [d, s] = [dense, sparse].map((r) => median(quiet(r).map(({ ms }) => ms)));
    return [
      String(tokens),
      `${d.toFixed(1)} ms`,
      `${s.toFixed(1)} ms`,
      `${((s / d - 1) * 100).toFixed(1)}%`,
      `${(density * 100).toFixed(1)}%`,
    ];
  });
  return table(["tokens", "dense", "automatic", "difference", "tiles computed"], rows);
}

/** How many readings were taken, and how many were set aside. */
function readingsNote(results: Results): string {
  const all: Load[] = [
    ...results.prefill.flatMap(({ readings }) => readings),
    ...results.linear?.readings ?? [],
    ...results.lengths.flatMap(({ dense, sparse }) => [...dense, ...sparse]),
  ];
  const disturbed = all.filter(({ disturbance }) => disturbance > DISTURBED_ABOVE).length;
  return `${all.length} readings, ${disturbed} of them disturbed (over ` +
    `${
      DISTURBED_ABOVE * 100
    }% of the machine's processor time went elsewhere); medians of the others.`;
}

/** The run as Markdown. */
export function markdown(results: Results): string {
  const { machine, threads, peer, date } = results;
  const details = results.prefill.find((s) => s.engine === "peer")?.details;
  const parts = [
    `${machine.cpu}, ${threads} threads, ${machine.vector}; Deno ${machine.deno}, ` +
    `commit ${machine.commit}, ${date.slice(0, 10)}`,
    peer
      ? `llama.cpp ${details?.llamaCpp ?? ""} (node-llama-cpp ${peer}, ${
        details?.variant ?? ""
      }), ` +
        "flash attention on, its best batch size"
      : "llama.cpp is not installed: `deno task bench --install-peer`",
  ];
  if (results.prefill.length > 0) {
    parts.push(prefillTable(results), decodeTable(results), memoryTable(results));
  }
  if (results.linear) parts.push(linearTable(results));
  if (results.lengths.length > 0) parts.push(lengthsTable(results));
  parts.push(readingsNote(results));
  return parts.join("\n\n");
}
