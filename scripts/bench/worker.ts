/**
 * What every measuring process shares. Each reading is taken in a process of its own, so that peak memory
 * belongs to one engine; the process gets its job as JSON and prints its report as the last line.
 *
 * @module
 */
import type { Load } from "./load.ts";

/** One prompt read by one engine. */
export interface PrefillJob {
  /** GGUF file. */
  readonly model: string;
  /** File with the prompt's token ids, a JSON array. Every engine gets the same ids. */
  readonly ids: string;
  /** The prompt's text, to compare the peer's own tokenizer with ours. */
  readonly text: string;
  /** Threads. */
  readonly threads: number;
  /** Readings in this process. */
  readonly readings: number;
  /** Tokens to generate greedily after the prompt. */
  readonly generate: number;
  /** Ours: which attention. */
  readonly patterns?: "dense" | "auto";
  /** Peer: folder of its node_modules. */
  readonly peer?: string;
  /** Peer: tokens per batch. */
  readonly batch?: number;
}

/** One reading of a {@linkcode PrefillJob}. */
export interface PrefillReading extends Load {
  /** Milliseconds from the token ids to the first generated token. */
  readonly ttftMs: number;
  /** Mean milliseconds of each further token. */
  readonly decodeMs: number;
  /** Generated ids. */
  readonly output: readonly number[];
  /** Ours: mean fraction of attention tiles computed. */
  readonly density?: number;
}

/** Report of a {@linkcode PrefillJob}. */
export interface PrefillReport {
  /** Readings in the order taken. */
  readonly readings: readonly PrefillReading[];
  /** Peak resident set of the process, bytes. */
  readonly peakResident: number;
  /** Ours: bytes of weights, of the KV cache, and the most that tensors took in all. */
  readonly device?: { readonly weights: number; readonly kvCache: number; readonly peak: number };
  /** What computed: instruction set, library variant, options. */
  readonly details: Readonly<Record<string, unknown>>;
}

/** The job this process was started for. */
export function readJob<J>(): J {
  return JSON.parse(Deno.args[0]);
}

/** Hands the report to {@linkcode runWorker}. */
export function writeReport(report: unknown): void {
  console.log(JSON.stringify(report));
}

/**
 * Runs a worker and returns its report.
 *
 * @param script File name beside this one.
 * @param job Goes to {@linkcode readJob}.
 * @param flags Further arguments of `deno run`.
 * @throws {Error} With the worker's output if it fails.
 */
export async function runWorker<R>(
  script: string,
  job: unknown,
  flags: readonly string[] = [],
): Promise<R> {
  const file = new URL(script, import.meta.url).pathname;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", ...flags, file, JSON.stringify(job)],
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder().decode(stdout).trim();
  if (!success) throw new Error(`${script} failed\n${text}\n${new TextDecoder().decode(stderr)}`);
  return JSON.parse(text.slice(text.lastIndexOf("\n") + 1));
}
