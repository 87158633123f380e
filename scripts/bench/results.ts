/**
 * The results file of a benchmark run: raw readings, written after each of them, so that a run that was
 * stopped goes on where it was.
 *
 * @module
 */
import type { LengthReport } from "./lengths_worker.ts";
import type { LinearReport } from "./linear_worker.ts";
import type { Machine } from "./machine.ts";
import type { PrefillReport } from "./worker.ts";

/** Who read a prompt. */
export type Engine = "dense" | "sparse" | "peer";

/** One process's readings of one prompt. */
export interface PrefillSample extends PrefillReport {
  /** Label of the prompt. */
  readonly prompt: string;
  /** Who read it. */
  readonly engine: Engine;
  /** Peer: tokens per batch. */
  readonly batch?: number;
  /** Turn of the interleaved run. */
  readonly round: number;
}

/** A prompt of the run. */
export interface PromptInfo {
  /** Tokens, begin-of-text included. */
  readonly tokens: number;
  /** What the model should answer. */
  readonly answer: string;
  /** Ids of the answer, as the model writes it after the prompt. */
  readonly answerIds: readonly number[];
}

/** Everything measured. */
export interface Results {
  /** Format of this file. */
  readonly schema: 1;
  /** When the run began. */
  readonly date: string;
  /** Where. */
  readonly machine: Machine;
  /** Version of node-llama-cpp, null without a peer. */
  readonly peer: string | null;
  /** Threads of every engine. */
  readonly threads: number;
  /** By label. */
  prompts: Record<string, PromptInfo>;
  /** Prefill, decode and memory. */
  prefill: PrefillSample[];
  /** Linear layers against the multiply-add peak. */
  linear?: LinearReport;
  /** Dense and sparse at short lengths. */
  lengths: LengthReport[];
}

/** Reads a results file; null where there is none. */
export async function readResults(path: string): Promise<Results | null> {
  try {
    return JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Replaces a results file in one step. */
export async function writeResults(path: string, results: Results): Promise<void> {
  await Deno.mkdir(path.replace(/[^/]*$/, "") || ".", { recursive: true });
  await Deno.writeTextFile(`${path}.part`, `${JSON.stringify(results, null, 1)}\n`);
  await Deno.rename(`${path}.part`, path);
}
