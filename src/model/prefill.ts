/**
 * Reading a prompt: what is asked, what is refused, what it came to.
 *
 * @module
 */
import type { GuardOption } from "../attention/guard.ts";
import type { ReviseEstimate } from "../attention/revise.ts";
import type { HeadStats } from "../attention/stats.ts";
import type { CallOptions } from "../device/device.ts";
import { MInferenceError } from "../native/errors.ts";
import type { ModelConfig } from "./config.ts";
import type { OnProgress } from "./progress.ts";

/** Options of {@linkcode Session.prefill}. */
export interface PrefillOptions extends CallOptions {
  /**
   * `append` (the default) adds the prompt to what the session holds. `replace` makes the prompt the
   * whole content: the longest prefix it shares with what is held is reused, the rest is dropped.
   */
  mode?: "append" | "replace";
  /** Treat text of special tokens in the prompt as those tokens. Default true. */
  parseSpecial?: boolean;
  /** Measure retained attention mass per head. Default false. */
  measureMass?: boolean;
  /**
   * What a head's list must keep of the attention of the prompt's last 64 tokens; a head that keeps less is
   * computed densely for this prompt. Default true: {@linkcode DEFAULT_GUARD}.
   */
  guard?: GuardOption;
  /** Revises what vertical-slash heads select their columns and diagonals by. Default the estimate as it is. */
  reviseEstimate?: ReviseEstimate;
  /** Receives progress of tokenization and prefill. */
  onProgress?: OnProgress;
}

/** Result of {@linkcode Session.prefill}. */
export interface PrefillResult {
  /** Tokens computed by this call. */
  readonly tokens: number;
  /** Tokens of the prompt that the session held already. */
  readonly cachedTokens: number;
  /** Milliseconds on the device, tokenization not included. */
  readonly ms: number;
  /** Mean fraction of attention tiles computed, over all layers and heads that run over the whole prompt. */
  readonly density: number;
  /** Heads that the guard made dense, of all layers. */
  readonly guarded: number;
  /** Per layer and query head; a layer that ran densely has none. */
  readonly heads: readonly (readonly HeadStats[])[];
  /** Milliseconds per operation, if the device was opened with `profile`. */
  readonly timings: Readonly<Record<string, number>>;
}

/**
 * Checks the tokens of a prompt.
 *
 * @param tokens Ids to add.
 * @param held Tokens before them.
 * @param config Says which ids there are.
 * @param capacity Most tokens to hold.
 * @throws {MInferenceError} `INVALID_ARGUMENT` for no token at all or an id outside the vocabulary, `CONTEXT_OVERFLOW`
 * for too many, each with the numbers.
 */
export function checkPrompt(
  tokens: Uint32Array,
  held: number,
  { vocabSize }: Pick<ModelConfig, "vocabSize">,
  capacity: number,
): void {
  if (held + tokens.length === 0) {
    throw new MInferenceError("INVALID_ARGUMENT", "the prompt has no tokens");
  }
  const bad = tokens.findIndex((id) => id >= vocabSize);
  if (bad >= 0) {
    throw new MInferenceError(
      "INVALID_ARGUMENT",
      `token ${bad} has id ${tokens[bad]}, the vocabulary has ${vocabSize}`,
      { details: { index: bad, id: tokens[bad], vocabSize } },
    );
  }
  if (held + tokens.length > capacity) {
    throw new MInferenceError(
      "CONTEXT_OVERFLOW",
      `${held} tokens held and ${tokens.length} more exceed the context of ${capacity}`,
      { details: { held, tokens: tokens.length, capacity } },
    );
  }
}

/** Over the layers that compute attention for every row. A head that ran densely counts 1. */
export function meanDensity(layers: readonly (readonly HeadStats[])[], heads: number): number {
  let sum = 0;
  for (const layer of layers) {
    sum += layer.length === 0 ? heads : layer.reduce((s, head) => s + head.density, 0);
  }
  return layers.length === 0 ? 1 : sum / (layers.length * heads);
}
