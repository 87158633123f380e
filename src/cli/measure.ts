/**
 * A prompt, measured: time to the first token, where it went, how sparse it was.
 *
 * @module
 */
import type { GuardOption } from "../attention/guard.ts";
import type { HeadStats } from "../attention/stats.ts";
import type { CallOptions } from "../device/device.ts";
import type { OnProgress } from "../model/progress.ts";
import type { PrefillResult } from "../model/prefill.ts";
import type { Session } from "../model/session.ts";

/** Where the time of a prefill went, in milliseconds. */
export interface TimeSplit {
  /** Finding the sparse index: estimate and selection. */
  readonly index: number;
  /** Attention itself. */
  readonly attention: number;
  /** Linear layers. */
  readonly linear: number;
  /** Norms, rotary embedding, activations, copies, and waiting. */
  readonly other: number;
}

/** What {@linkcode measurePrompt} finds. */
export interface Measured {
  /** Prompt tokens. */
  readonly tokens: number;
  /** Prefill, and drawing the first token. Tokenization not included. */
  readonly ttftMs: number;
  /** Prefill alone. */
  readonly prefillMs: number;
  /** Prompt tokens per second of prefill. */
  readonly tokensPerSecond: number;
  /** Attention tiles computed over those of dense attention. */
  readonly density: number;
  /** Heads that the guard made dense. */
  readonly guarded: number;
  /** Per layer and query head; a layer that ran densely has none. */
  readonly heads: readonly (readonly HeadStats[])[];
  /** Where the time went; needs a device opened with `profile`. */
  readonly split: TimeSplit;
  /** Greedy continuation. */
  readonly answer: string;
}

/** Options of {@linkcode measurePrompt}. */
export interface MeasureOptions extends CallOptions {
  /** Tokens of the answer, at least 1. */
  readonly maxTokens: number;
  /** Texts that end the answer. */
  readonly stop?: readonly string[];
  /** What a head's list must keep. Default as {@linkcode Session.prefill}. */
  readonly guard?: GuardOption;
  /** Prefill progress. */
  readonly onProgress?: OnProgress;
}

/** Where the time of a prefill went. */
function timeSplit({ ms, timings }: PrefillResult): TimeSplit {
  const { estimate = 0, index = 0, attention = 0, linear = 0 } = timings;
  const known = estimate + index + attention + linear;
  return { index: estimate + index, attention, linear, other: Math.max(0, ms - known) };
}

/**
 * Reads a prompt and answers it greedily.
 *
 * @param session An empty session.
 * @param prompt Token ids.
 * @param options See {@linkcode MeasureOptions}.
 */
export async function measurePrompt(
  session: Session,
  prompt: Uint32Array,
  options: MeasureOptions,
): Promise<Measured> {
  const { maxTokens, stop, guard, signal, onProgress } = options;
  onProgress?.({ stage: "prefill", done: 0, total: prompt.length, elapsedMs: 0 });
  const started = performance.now();
  const prefill = await session.prefill(prompt, { guard, signal, onProgress });
  let ttftMs: number | undefined;
  let answer = "";
  for await (const { text } of session.generate(undefined, { maxTokens, stop, signal })) {
    ttftMs ??= performance.now() - started;
    answer += text;
  }
  signal?.throwIfAborted();
  return {
    tokens: prefill.tokens,
    ttftMs: ttftMs ?? performance.now() - started,
    prefillMs: prefill.ms,
    tokensPerSecond: prefill.tokens / prefill.ms * 1000,
    density: prefill.density,
    guarded: prefill.guarded,
    heads: prefill.heads,
    split: timeSplit(prefill),
    answer,
  };
}
