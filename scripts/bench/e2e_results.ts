/**
 * The results file of the end-to-end benchmark.
 *
 * @module
 */
import type { ModelConfig } from "../../src/model/config.ts";
import type { KvPlace } from "../../src/model/kv_shape.ts";
import type { Budget } from "./gpu_inputs.ts";
import type { Machine } from "./machine.ts";

/** A prompt read to its first token. */
export interface PrefillRow {
  /** Tokens of the prompt. */
  readonly tokens: number;
  /** Wall time to the first token, median, milliseconds. */
  readonly ms: number;
  /** Every reading. */
  readonly readings: readonly number[];
  /** Device time of the linear layers in the median reading, milliseconds. */
  readonly linearMs: number;
  /** Of the attention kernels. */
  readonly attentionMs: number;
  /** Of estimate and index. */
  readonly indexMs: number;
  /** Wall time that is none of them. */
  readonly restMs: number;
  /** Device time by operation. */
  readonly timings: Readonly<Record<string, number>>;
  /** Rate of the linear layers, 10^12 floating-point operations a second. */
  readonly linearTflops: number;
  /** Mean fraction of attention tiles computed, of the layers that run over every row. */
  readonly density: number;
  /** Most bytes in tensors during the run: weights, cache, workspace. */
  readonly peakBytes: number;
  /** What planMemory() says of that. */
  readonly plannedBytes: number;
  /** Bytes of the device that are not free after the run, with whatever else lives there. */
  readonly usedBytes: number;
  /**
   * `all` layers' keys and values were kept in 16 bits, or in `fp8`, where those do not fit. Files older than
   * the fp8 cache have only `one` layer's then.
   */
  readonly kv: "all" | "fp8" | "one";
}

/** Attention of one layer, where a dense run would take too long. */
export interface DenseAttentionRow {
  /** Tokens of the prompt. */
  readonly tokens: number;
  /** Groups of query heads on one key head that were timed. */
  readonly groups: number;
  /** Median device time of these, milliseconds. */
  readonly ms: number;
  /** Every reading. */
  readonly readings: readonly number[];
  /** Rate. */
  readonly tflops: number;
}

/** Generation, one token at a time. */
export interface DecodeRow {
  /** Tokens held. */
  readonly tokens: number;
  /** Tokens generated after the warm-up. */
  readonly steps: number;
  /** Median wall time of a token, milliseconds. */
  readonly ms: number;
  /** Mean device time of a token, its operations launched one by one. */
  readonly deviceMs: number;
  /** Device time by operation, of all steps. */
  readonly timings: Readonly<Record<string, number>>;
  /** Weights and keys and values read for a token. */
  readonly bytes: number;
  /** Those of them that come from host memory. */
  readonly hostBytes?: number;
}

/** Weights read from a file that the page cache holds. */
export interface LoadRow {
  /** Bytes of the file. */
  readonly bytes: number;
  /** Median time of loading it onto the device, milliseconds. */
  readonly loadMs: number;
  /** Median time of reading it into one new buffer in the same process. */
  readonly readMs: number;
  /** Every reading of the first. */
  readonly loads: readonly number[];
  /** Every reading of the second. */
  readonly reads: readonly number[];
}

/** A step that failed. */
export interface Failure {
  /** Which. */
  readonly step: string;
  /** Why. */
  readonly error: string;
}

/** A results file of `bench:e2e`. */
export interface E2eResults {
  /** Format of this file. */
  readonly schema: 1;
  /** When the run began. */
  readonly date: string;
  /** Where. */
  readonly machine: Machine & { device: string };
  /** Name of the shape. */
  readonly shape: string;
  /** The model. */
  readonly config: ModelConfig;
  /** Columns and slashes by heads of a layer. */
  readonly budgets: readonly Budget[];
  /** How the matrices of the decoder layers are kept; bf16 where a file does not say. */
  readonly weights?: "bf16" | "fp8";
  /** Where keys and values are kept; on the device where a file does not say. */
  readonly kvPlace?: KvPlace;
  /** Bytes of weights. */
  weightBytes?: number;
  /** Sparse runs. */
  sparse: PrefillRow[];
  /** Dense runs. */
  dense: PrefillRow[];
  /** One layer's dense attention at longer prompts. */
  denseAttention: DenseAttentionRow[];
  /** Bytes read and written in a second by a copy on the device. */
  copyBytesPerSecond?: number;
  /** Bytes that come from host memory in a second. */
  hostBytesPerSecond?: number;
  /** Generation. */
  decode?: DecodeRow;
  /** The same with an fp8 cache. */
  decodeFp8?: DecodeRow;
  /** Loading weights. */
  load?: LoadRow;
  /** gpu_peer.py's results. */
  peer?: unknown;
  /** Steps that failed. */
  failures: Failure[];
  /** Steps for which no time was left. */
  skipped: string[];
}
