/**
 * Streamed text of one generation.
 *
 * @module
 */
import type { GuardOption } from "../attention/guard.ts";
import type { CallOptions } from "../device/device.ts";
import { MInferenceError } from "../native/errors.ts";
import type { OnProgress } from "./progress.ts";

/** How a token is drawn. */
export interface SamplingOptions {
  /** 0 (the default) takes the most likely token. */
  temperature?: number;
  /** Keep the k most likely tokens. Default 0: all. */
  topK?: number;
  /** Keep the likeliest tokens up to this probability. Default 1: all. */
  topP?: number;
  /** Drop tokens less likely than this fraction of the likeliest. Default 0. */
  minP?: number;
  /** Penalty of tokens seen before; 1 (the default) is off. */
  repetitionPenalty?: number;
  /** Seed; equal seeds draw equal tokens. Default random. */
  seed?: number;
}

/** Options of generation. */
export interface GenerateOptions extends SamplingOptions, CallOptions {
  /** Most tokens to generate. Default 512. */
  maxTokens?: number;
  /** Texts that end the generation; not part of the output. */
  stop?: readonly string[];
  /** Go on past end-of-text tokens. Default false. */
  ignoreEos?: boolean;
  /** Guard of the prefill; see {@linkcode PrefillOptions.guard}. Default true. */
  guard?: GuardOption;
  /** Prefill progress. */
  onProgress?: OnProgress;
}

/** One streamed piece. */
export interface TokenChunk {
  /** Complete UTF-8 text, never half a code point. May be empty. */
  readonly text: string;
  /** Token ids behind it. */
  readonly tokens: readonly number[];
}

/** Why a generation ended. */
export type FinishReason = "stop" | "length" | "abort";

/** Totals of a generation. */
export interface GenerationStats {
  /** Prompt tokens. */
  readonly promptTokens: number;
  /** Of which the session held already. */
  readonly cachedTokens: number;
  /** Generated tokens. */
  readonly completionTokens: number;
  /** Milliseconds to the first token, tokenization included. */
  readonly ttftMs: number;
  /** Prefilled tokens per second. */
  readonly prefillTps: number;
  /** Generated tokens per second after the first. */
  readonly decodeTps: number;
  /** Why it ended. */
  readonly finishReason: FinishReason;
}

/**
 * A generation: an async iterable of pieces, with promises of the whole. It starts when it is first
 * iterated or one of the promises is asked for; leaving the loop stops it.
 *
 * @example
 * ```ts ignore
 * for await (const { text } of session.generate("Once")) await write(text);
 * ```
 */
export class Generation implements AsyncIterable<TokenChunk> {
  readonly #source: AsyncGenerator<TokenChunk, GenerationStats>;
  #started = false;
  readonly #text = Promise.withResolvers<string>();
  readonly #stats = Promise.withResolvers<GenerationStats>();

  /**
   * Wraps a generator.
   *
   * @param source Yields the pieces and returns the totals.
   */
  constructor(source: AsyncGenerator<TokenChunk, GenerationStats>) {
    this.#source = source;
    // Whoever iterates sees the failure there; the promises must not fail unheard beside it.
    this.#text.promise.catch(() => {});
    this.#stats.promise.catch(() => {});
  }

  /** The pieces. A generation can be iterated once. */
  async *[Symbol.asyncIterator](): AsyncGenerator<TokenChunk, void> {
    if (this.#started) {
      throw new MInferenceError("INVALID_ARGUMENT", "a generation can be iterated only once");
    }
    this.#started = true;
    let text = "";
    let ended = false;
    try {
      for (;;) {
        const { value, done } = await this.#source.next();
        if (done) {
          ended = true;
          this.#text.resolve(text);
          this.#stats.resolve(value);
          return;
        }
        text += value.text;
        yield value;
      }
    } catch (error) {
      ended = true;
      this.#text.reject(error);
      this.#stats.reject(error);
      throw error;
    } finally {
      if (!ended) { // the consumer left the loop
        await this.#source.return(undefined as never);
        this.#text.resolve(text);
        this.#stats.reject(
          new MInferenceError("INVALID_ARGUMENT", "the generation was left before its end"),
        );
      }
    }
  }

  async #drain(): Promise<void> {
    try {
      for await (const _ of this);
    } catch {
      // The promises carry it.
    }
  }

  /** The whole text, once finished. Starts the generation if nobody iterates it. */
  get text(): Promise<string> {
    if (!this.#started) this.#drain();
    return this.#text.promise;
  }

  /** The totals, once finished. Starts the generation if nobody iterates it. */
  get stats(): Promise<GenerationStats> {
    if (!this.#started) this.#drain();
    return this.#stats.promise;
  }

  /** The text as bytes, e.g. for `new Response(...)`. Cancelling the stream stops the generation. */
  toReadableStream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    const encoder = new TextEncoder();
    const pieces = this[Symbol.asyncIterator]();
    return new ReadableStream({
      async pull(controller): Promise<void> {
        const { value, done } = await pieces.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value.text));
      },
      async cancel(): Promise<void> {
        await pieces.return();
      },
    });
  }
}
