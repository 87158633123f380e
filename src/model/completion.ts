/**
 * From tokens to text: the loop of a generation, where it stops and what it shows.
 *
 * @module
 */
import type { SampleOptions } from "../device/ops.ts";
import { checkNumber, MOST_COUNT } from "../native/checks.ts";
import type { FinishReason, GenerateOptions, TokenChunk } from "./generation.ts";
import type { Detokenizer } from "./detokenizer.ts";

/** How every token of a generation is drawn. */
export type Sampling = Omit<SampleOptions, "step">;

/**
 * Fills in the defaults; without a seed a random one.
 *
 * @throws {MInferenceError} `INVALID_ARGUMENT` naming what is out of range, `maxTokens` included.
 */
export function resolveSampling(options: GenerateOptions): Sampling {
  const positive = { least: 1e-6, whole: false };
  const { maxTokens = 1, seed = crypto.getRandomValues(new Uint32Array(1))[0] } = options;
  checkNumber("maxTokens", maxTokens, { most: Infinity, whole: maxTokens !== Infinity });
  return {
    temperature: checkNumber("temperature", options.temperature ?? 0, {
      most: 1e30, // of an f32, with room
      whole: false,
    }),
    topK: checkNumber("topK", options.topK ?? 0, { most: MOST_COUNT }),
    topP: checkNumber("topP", options.topP ?? 1, { ...positive, most: 1 }),
    minP: checkNumber("minP", options.minP ?? 0, { most: 1, whole: false }),
    repetitionPenalty: checkNumber("repetitionPenalty", options.repetitionPenalty ?? 1, {
      ...positive,
      most: 1e30,
    }),
    seed: BigInt(checkNumber("seed", seed)),
  };
}

/** Where tokens come from. */
export interface TokenSource {
  /** Tokens that still fit. */
  room(): number;
  /** Draws token `step`; null if it ends the text. With `more`, another one follows. */
  draw(step: number, more: boolean): Promise<number | null>;
}

/** What a loop came to. */
export interface Completion {
  /** Tokens drawn, one that ended the text included. */
  readonly completionTokens: number;
  /** Why it ended. */
  readonly finishReason: FinishReason;
  /** When the first token was there, `performance.now()`; undefined without one. */
  readonly firstAt?: number;
}

/** Draws tokens and yields their text until one ends it, a stop text is met, the room is used up or on abort. */
export async function* complete(
  source: TokenSource,
  detokenizer: Detokenizer,
  { maxTokens = 512, stop = [], signal }: GenerateOptions,
): AsyncGenerator<TokenChunk, Completion> {
  const stops = new StopMatcher(stop);
  let finishReason: FinishReason = "length";
  let completionTokens = 0;
  let firstAt: number | undefined;
  let stopped = false;
  try {
    while (completionTokens < maxTokens && source.room() > 0) {
      const more = completionTokens + 1 < maxTokens && source.room() > 1;
      const token = await source.draw(completionTokens, more);
      completionTokens++;
      firstAt ??= performance.now();
      if (token === null) {
        finishReason = "stop";
        break;
      }
      const piece = stops.push(detokenizer.add(token));
      yield { text: piece.text, tokens: [token] };
      if (piece.stopped) {
        finishReason = "stop";
        stopped = true;
        break;
      }
    }
  } catch (error) {
    if (!signal?.aborted) throw error;
    finishReason = "abort";
  }
  const rest = stopped ? "" : stops.push(detokenizer.flush()).text + stops.flush();
  if (rest) yield { text: rest, tokens: [] };
  return { completionTokens, finishReason, firstAt };
}

/** Watches streamed text for stop strings, holding back what may become one. */
class StopMatcher {
  #held = "";

  /** @param stops Texts that end the generation. */
  constructor(readonly stops: readonly string[]) {}

  /** Adds text; returns what may be shown, and whether a stop string was met. */
  push(text: string): { text: string; stopped: boolean } {
    this.#held += text;
    let cut = -1;
    for (const stop of this.stops) {
      const at = stop ? this.#held.indexOf(stop) : -1;
      if (at >= 0 && (cut < 0 || at < cut)) cut = at;
    }
    if (cut >= 0) {
      const shown = this.#held.slice(0, cut);
      this.#held = "";
      return { text: shown, stopped: true };
    }
    let hold = 0;
    for (const stop of this.stops) {
      for (let n = Math.min(stop.length - 1, this.#held.length); n > hold; n--) {
        if (this.#held.endsWith(stop.slice(0, n))) hold = n;
      }
    }
    const shown = this.#held.slice(0, this.#held.length - hold);
    this.#held = this.#held.slice(this.#held.length - hold);
    return { text: shown, stopped: false };
  }

  /** What was held back, at the end. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }
}
