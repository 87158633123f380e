/**
 * The tokens of a session: which it holds, and of how many the cache has the keys and values.
 *
 * @module
 */
import type { KvCache } from "./kv_cache.ts";

/**
 * Tokens held, the first {@linkcode TokenHistory.computed} of them in the cache. It keeps the books alone: whoever runs
 * the tokens says when they are computed.
 *
 * @example
 * ```ts ignore
 * const history = new TokenHistory(cache);
 * history.append(prompt);
 * await decoder.forward(history.pending(), cache, history.computed, logits);
 * history.markComputed();
 * ```
 */
export class TokenHistory {
  readonly #cache: Pick<KvCache, "resumeAt">;
  #ids: number[] = [];
  #computed = 0;

  /** @param cache Says from which token on a sequence that was cut has to be computed anew. */
  constructor(cache: Pick<KvCache, "resumeAt">) {
    this.#cache = cache;
  }

  /** Tokens held. */
  get length(): number {
    return this.#ids.length;
  }

  /** Tokens whose keys and values are in the cache, or queued to be: never more than are held. */
  get computed(): number {
    return this.#computed;
  }

  /** Ids of the tokens held. */
  ids(): Uint32Array<ArrayBuffer> {
    return new Uint32Array(this.#ids);
  }

  /** Ids of the tokens that have to be computed yet. */
  pending(): Uint32Array<ArrayBuffer> {
    return new Uint32Array(this.#ids.slice(this.#computed));
  }

  /** Tokens at the start that `tokens` begins with, too. */
  commonPrefix(tokens: Uint32Array): number {
    let n = 0;
    while (n < this.length && n < tokens.length && this.#ids[n] === tokens[n]) n++;
    return n;
  }

  /** Holds more tokens, not computed yet. */
  append(tokens: Iterable<number>): void {
    for (const id of tokens) this.#ids.push(id);
  }

  /** All tokens held are computed. */
  markComputed(): void {
    this.#computed = this.length;
  }

  /** Drops the tokens after the first `length`, with their keys and values. */
  truncate(length: number): void {
    this.#ids.length = length;
    if (length < this.#computed) this.#computed = this.#cache.resumeAt(length);
  }

  /** Nothing that the cache holds from token `first` on can be counted on: it is computed anew. */
  resumeFrom(first: number): void {
    this.#computed = this.#cache.resumeAt(Math.max(0, Math.min(this.#computed, first)));
  }

  /** The last token is computed once more: its logits are wanted, and those at hand are of another. */
  repeatLast(): void {
    this.#computed = Math.max(0, Math.min(this.#computed, this.length - 1));
  }

  /** The same history over a copy of the cache. */
  fork(cache: Pick<KvCache, "resumeAt">): TokenHistory {
    const copy = new TokenHistory(cache);
    copy.#ids = this.#ids.slice();
    copy.#computed = this.#computed;
    return copy;
  }
}
