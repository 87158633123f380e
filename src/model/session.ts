/**
 * A conversation with a model: the tokens held, their keys and values, and generation from them.
 *
 * @module
 */
import { resolveGuard } from "../attention/guard.ts";
import type { HeadPattern } from "../attention/patterns.ts";
import { decodeStats, statsBytes } from "../attention/stats.ts";
import type { Device } from "../device/device.ts";
import type { Tensor } from "../device/tensor.ts";
import { Turns } from "../device/turns.ts";
import { checkChoice } from "../native/checks.ts";
import { MInferenceError } from "../native/errors.ts";
import type { Decoder } from "./decoder.ts";
import { complete, resolveSampling, type Sampling } from "./completion.ts";
import {
  type GenerateOptions,
  Generation,
  type GenerationStats,
  type TokenChunk,
} from "./generation.ts";
import type { KvCache } from "./kv_cache.ts";
import { type MemoryInputs, refuseTooLarge } from "./memory.ts";
import { checkPrompt, meanDensity, type PrefillOptions, type PrefillResult } from "./prefill.ts";
import { Reporter } from "./progress.ts";
import { rotatesAlike } from "./rope.ts";
import { TokenHistory } from "./token_history.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** What a session needs of its model. */
export interface SessionParts {
  /** Runs the tokens. Shared by the model's sessions, which take turns. */
  readonly decoder: Decoder;
  /** Text to ids and back. */
  readonly tokenizer: Tokenizer;
  /** Empty cache of its own. */
  readonly cache: KvCache;
  /** Patterns, [layer][head]; null for dense attention. */
  readonly patterns: readonly (readonly HeadPattern[])[] | null;
  /** Most tokens it may hold. */
  readonly contextLength: number;
  /** What its memory depends on, now. */
  readonly memory: () => MemoryInputs;
}

const caches = new WeakMap<Session, KvCache>();

/** The cache of a session, for logits of every position of what follows its prompt; no public interface. */
export function cacheOf(session: Session): KvCache {
  return caches.get(session)!;
}

/** A KV cache and the tokens in it. Made by {@linkcode Model.createSession}. */
export class Session implements AsyncDisposable {
  readonly #parts: SessionParts;
  readonly #cache: KvCache;
  readonly #logits: Tensor; // f32 [vocabulary], of the last computed token
  readonly #prompts = new Turns(); // a prompt's tokens depend on what is before it
  readonly #history: TokenHistory;
  // The device's cancellations when the last pass was queued, if it may not have run yet.
  #aheadSince: number | undefined;
  #disposed = false;
  #atWork = 0; // prompts and draws under way

  /** @ignore Use {@linkcode Model.createSession}. */
  constructor(parts: SessionParts, history: TokenHistory = new TokenHistory(parts.cache)) {
    this.#parts = parts;
    this.#cache = parts.cache;
    this.#history = history;
    this.#logits = parts.decoder.device.tensor([parts.decoder.config.vocabSize]);
    caches.set(this, parts.cache);
  }

  /** Tokens held. */
  get length(): number {
    return this.#history.length;
  }

  /** Most tokens it may hold. */
  get capacity(): number {
    return this.#parts.contextLength;
  }

  /** Ids of the tokens held. */
  get tokens(): Uint32Array<ArrayBuffer> {
    return this.#history.ids();
  }

  #check(): void {
    if (this.#disposed) throw new MInferenceError("DISPOSED", "the session was disposed");
    // A pass that was queued ahead may have been dropped with the work of whoever cancelled.
    const since = this.#aheadSince ?? this.#device.cancellations;
    if (since === this.#device.cancellations) return;
    this.#history.resumeFrom(this.length - 1);
    this.#aheadSince = undefined;
  }

  get #device(): Device {
    return this.#parts.decoder.device;
  }

  async #encode(
    prompt: string | Uint32Array,
    options: PrefillOptions,
    atStart: boolean,
  ): Promise<Uint32Array> {
    if (typeof prompt !== "string") return prompt;
    const report = new Reporter("tokenize", prompt.length, options.onProgress);
    return await this.#parts.tokenizer.encodeAsync(prompt, {
      addSpecialTokens: atStart,
      parseSpecial: options.parseSpecial ?? true,
      signal: options.signal,
      onProgress: (done) => report.update(done),
    });
  }

  /**
   * Reads a prompt without generating.
   *
   * @param prompt Text (a begin-of-text token is added at position 0 where the model has one) or token ids.
   * @throws {MInferenceError} `CONTEXT_OVERFLOW` or `OUT_OF_MEMORY` with the numbers, before anything is
   * computed; `signal.reason` on abort. The session then holds what it held (with `replace`: the shared prefix).
   */
  async prefill(
    prompt: string | Uint32Array,
    options: PrefillOptions = {},
  ): Promise<PrefillResult> {
    checkChoice("mode", options.mode ?? "append", ["append", "replace"]);
    const read = (): Promise<PrefillResult> => this.#prefill(prompt, options);
    return await this.#working(() => this.#prompts.take(read, options.signal));
  }

  async #working<T>(body: () => Promise<T>): Promise<T> {
    this.#atWork++;
    try {
      return await body();
    } finally {
      this.#atWork--;
    }
  }

  async #prefill(prompt: string | Uint32Array, options: PrefillOptions): Promise<PrefillResult> {
    this.#check();
    const replace = options.mode === "replace";
    const tokens = await this.#encode(prompt, options, replace || this.length === 0);
    return await this.#parts.decoder.device.exclusive(async () => {
      this.#check();
      options.signal?.throwIfAborted();
      const history = this.#history;
      const kept = replace ? history.commonPrefix(tokens) : this.length;
      const added = replace ? tokens.subarray(kept) : tokens;
      checkPrompt(added, kept, this.#parts.decoder.config, this.capacity);
      history.truncate(kept);
      history.append(added);
      const { rope } = this.#parts.decoder.config;
      if (!rotatesAlike(rope, this.#cache.ropeLength, this.length)) history.resumeFrom(0);
      history.repeatLast(); // where nothing is new
      const cachedTokens = Math.min(kept, history.computed);
      try {
        return { ...await this.#advance(options), cachedTokens };
      } catch (error) {
        // Keys and values of the kept prefix were not touched; its logits may have been.
        history.truncate(kept);
        history.resumeFrom(kept - 1);
        throw error;
      }
    }, options);
  }

  /** Runs the tokens that are not in the cache yet, with the device to itself. */
  async #advance(options: PrefillOptions): Promise<Omit<PrefillResult, "cachedTokens">> {
    const { decoder, patterns } = this.#parts;
    const { device, config } = decoder;
    const tokens = this.#history.pending();
    const guard = resolveGuard(options.guard ?? true);
    const { measureMass, reviseEstimate } = options;
    const start = performance.now();
    const since = device.cancellations;
    await this.#makeRoom(tokens.length, options.signal);
    const report = new Reporter("prefill", tokens.length, options.onProgress);
    const bytes = statsBytes(config.heads);
    using stats = device.tensor([config.layers * bytes], { dtype: "u8" });
    await stats.write(new Uint8Array(stats.byteLength));
    device.timings(); // from here on
    await decoder.forward(tokens, this.#cache, this.#history.computed, this.#logits, {
      signal: options.signal,
      sparse: patterns ? { patterns, stats, measureMass, guard, reviseEstimate } : undefined,
      onLayer: (done) => report.update(Math.floor(tokens.length * done / config.layers)),
    });
    const heads = Array.from(
      { length: config.layers },
      (_, layer) => stats.readBytes(layer * bytes, bytes).then(decodeStats),
    );
    const perLayer = (await Promise.all(heads)).map((h) => h[0].causalTiles > 0 ? h : []);
    device.checkUncancelled(since);
    this.#history.markComputed();
    return {
      tokens: tokens.length,
      ms: performance.now() - start,
      density: meanDensity(perLayer.slice(0, -1), config.heads),
      guarded: perLayer.flat().filter((head) => head.guarded).length,
      heads: perLayer,
      timings: device.timings(),
    };
  }

  /** Room for the tokens held, `rows` of them to be run; refused before anything is taken if it is not there. */
  async #makeRoom(rows: number, signal?: AbortSignal): Promise<void> {
    const { decoder, memory } = this.#parts;
    if (this.length > this.#cache.capacity) {
      const inputs = memory();
      const { device, host } = this.#cache.bytes;
      const free = inputs.free + device + decoder.workspaceBytes;
      const hostFree = inputs.hostFree + host;
      refuseTooLarge({ ...inputs, free, hostFree }, this.length, rows);
    }
    await this.#cache.reserve(this.length, this.#history.computed, signal);
  }

  /** Logits after the last token held, f32 [vocabulary]. */
  async logits(): Promise<Float32Array<ArrayBuffer>> {
    this.#check();
    return await this.#parts.decoder.device.exclusive(async () => {
      await this.#decodeHeld();
      return await this.#logits.read();
    });
  }

  /** Brings the cache up to the tokens held: after a generation one drawn token is not in it. */
  async #decodeHeld(signal?: AbortSignal): Promise<void> {
    this.#check();
    signal?.throwIfAborted();
    if (this.length === 0) {
      throw new MInferenceError("INVALID_ARGUMENT", "the session is empty: give a prompt");
    }
    const { computed } = this.#history;
    if (computed === this.length) return;
    await this.#cache.reserve(this.length, computed);
    const since = this.#device.cancellations;
    const tokens = this.#history.pending();
    await this.#parts.decoder.forward(tokens, this.#cache, computed, this.#logits, { signal });
    this.#device.checkUncancelled(since);
    this.#history.markComputed();
  }

  /**
   * Generates from what is held, after `prompt` if one is given.
   *
   * @param prompt Text or ids, appended first.
   * @returns A lazy stream of pieces. On abort it ends with what it has and `finishReason: "abort"`, unless
   * the prompt was not read yet: then it throws `signal.reason`.
   */
  generate(prompt?: string | Uint32Array, options: GenerateOptions = {}): Generation {
    this.#check();
    return new Generation(this.#generate(prompt, options));
  }

  async *#generate(
    prompt: string | Uint32Array | undefined,
    options: GenerateOptions,
  ): AsyncGenerator<TokenChunk, GenerationStats> {
    const started = performance.now();
    const sampling = resolveSampling(options);
    const cachedTokens = this.length;
    const prefill = prompt === undefined ? null : await this.prefill(prompt, options);
    const { decoder, tokenizer } = this.#parts;
    const eos = new Set(options.ignoreEos ? [] : decoder.config.eosIds);
    const promptTokens = this.length;
    const room = (): number => this.capacity - this.length;
    const draw = (step: number, more: boolean): Promise<number | null> =>
      this.#draw(sampling, step, eos, more, options.signal);
    const completed = yield* complete({ room, draw }, tokenizer.detokenizer(), options);
    const { completionTokens, finishReason, firstAt = started } = completed;
    const seconds = (performance.now() - firstAt) / 1000;
    return {
      promptTokens,
      cachedTokens,
      completionTokens,
      ttftMs: firstAt - started,
      prefillTps: prefill ? prefill.tokens / prefill.ms * 1000 : 0,
      decodeTps: completionTokens > 1 ? (completionTokens - 1) / seconds : 0,
      finishReason,
    };
  }

  /** Draws one token and holds it; null if it ends the text. With `more`, another one follows. */
  #draw(
    sampling: Sampling,
    step: number,
    eos: ReadonlySet<number>,
    more: boolean,
    signal?: AbortSignal,
  ): Promise<number | null> {
    const { decoder } = this.#parts;
    return this.#working(() =>
      decoder.device.exclusive(async () => {
        await this.#decodeHeld(signal);
        const { length } = this;
        const options = { ...sampling, step: BigInt(step) };
        const drawn = decoder.draw(this.#logits, options, this.#cache, length);
        drawn.catch(() => {}); // it is awaited below, unless its step is refused
        // The token's pass is queued before the host knows the token, so that the device never waits for the
        // host; one that ends the text was run in vain. A cache that must grow first has it run when wanted.
        const ahead = more && length < this.#cache.capacity;
        const since = this.#device.cancellations;
        if (ahead) {
          decoder.step(this.#cache, length, this.#logits);
          this.#history.resumeFrom(length - 1); // until the token is known to stay
        }
        const token = await drawn;
        if (since !== this.#device.cancellations) this.#history.resumeFrom(length - 1);
        this.#device.checkUncancelled(since);
        this.#aheadSince = ahead ? since : undefined;
        if (eos.has(token)) return null;
        this.#history.append([token]);
        if (ahead) this.#history.markComputed();
        return token;
      }, { signal })
    );
  }

  /**
   * Drops the tokens after the first `length`.
   *
   * @throws {MInferenceError} `INVALID_ARGUMENT` if fewer are held, or while a prompt is read or a token drawn.
   */
  truncate(length: number): void {
    this.#check();
    if (this.#atWork > 0) {
      throw new MInferenceError("INVALID_ARGUMENT", "cannot truncate a session that is at work");
    }
    if (!Number.isInteger(length) || length < 0 || length > this.length) {
      throw new MInferenceError(
        "INVALID_ARGUMENT",
        `cannot truncate ${this.length} tokens to ${length}`,
        { details: { length, held: this.length } },
      );
    }
    if (length === this.length) return;
    this.#history.truncate(length);
    this.#history.repeatLast();
  }

  /** A session of its own that starts with the same tokens, keys and values. */
  fork(): Promise<Session> {
    this.#check();
    return this.#parts.decoder.device.exclusive(async () => {
      this.#check();
      using owned = new DisposableStack();
      const cache = owned.use(await this.#cache.clone(this.#history.computed));
      const fork = new Session({ ...this.#parts, cache }, this.#history.fork(cache));
      owned.use(fork.#logits);
      const device = this.#device;
      const since = device.cancellations;
      device.copy(fork.#logits, 0, this.#logits, 0, this.#logits.byteLength);
      await device.sync();
      device.checkUncancelled(since);
      owned.move();
      return fork;
    });
  }

  /** Waits for the session's turn and frees its memory. Idempotent. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.#parts.decoder.device.exclusive(() => {
      this.#cache[Symbol.dispose]();
      this.#logits.dispose();
      return Promise.resolve();
    });
  }

  /** Same as {@linkcode Session.dispose}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
