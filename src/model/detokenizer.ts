/**
 * Text from tokens that arrive one by one.
 *
 * @module
 */

/** Bytes that stay incomplete for so many tokens are no text: a code point has four. */
const MAX_PENDING = 64;

/**
 * Decodes a stream of tokens and never emits half a code point.
 *
 * A token may hold part of a character, so a few tokens are decoded together: the last one whose text was complete, as
 * context, and those after it. A trailing U+FFFD may yet become a character and is held back.
 *
 * @example
 * ```ts
 * import { Detokenizer } from "./detokenizer.ts";
 *
 * const bytes = [..."né"].flatMap((c) => [...new TextEncoder().encode(c)]);
 * const detokenizer = new Detokenizer((ids) => new TextDecoder().decode(Uint8Array.from(ids)));
 * console.log(bytes.map((id) => detokenizer.add(id)), detokenizer.flush()); // ["n", "", "é"] ""
 * ```
 */
export class Detokenizer {
  readonly #decode: (ids: readonly number[]) => string;
  #window: number[] = [];
  /** Characters of the window's text that have been emitted. */
  #emitted = 0;

  /** Starts a stream. `decode` decodes a run of tokens. */
  constructor(decode: (ids: readonly number[]) => string) {
    this.#decode = decode;
  }

  /**
   * Takes a token.
   *
   * @param id The token.
   * @returns The text that is certain now; often empty within a character of several bytes.
   */
  add(id: number): string {
    this.#window.push(id);
    const text = this.#decode(this.#window);
    const complete = !text.endsWith("\uFFFD") || this.#window.length > MAX_PENDING;
    const end = complete ? text.length : text.length - 1;
    const piece = text.slice(this.#emitted, end);
    this.#emitted = Math.max(this.#emitted, end);
    if (complete) {
      this.#window = [id];
      this.#emitted = this.#decode(this.#window).length;
    }
    return piece;
  }

  /** Returns what was held back, as U+FFFD, and starts afresh. */
  flush(): string {
    const text = this.#window.length === 0 ? "" : this.#decode(this.#window);
    const piece = text.slice(this.#emitted);
    this.#window = [];
    this.#emitted = 0;
    return piece;
  }
}
