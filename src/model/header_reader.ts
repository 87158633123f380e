/**
 * Bounded little-endian reading from the start of a file.
 *
 * @module
 */
import { checkpointError, fileError } from "./file.ts";

const FIRST_READ = 1 << 16;

/**
 * Reads a file's header front to back and keeps it in one growing buffer.
 *
 * Every length that comes out of the file is compared with what the file still holds *before* memory is
 * taken, so a header of a few bytes that claims 2^63 elements fails at once. Reads are synchronous: a header
 * is some MB, parsing it blocks anyway, and one `await` per value would cost more than the disk.
 */
export class HeaderReader implements Disposable {
  /** The file's path. */
  readonly path: string;
  /** The file's size in bytes. */
  readonly size: number;
  readonly #file: Deno.FsFile;
  readonly #limit: number;
  // ignoreBOM keeps a leading U+FEFF: it is a token of many vocabularies.
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  readonly #utf8Fatal = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
  #bytes = new Uint8Array(FIRST_READ);
  #view = new DataView(this.#bytes.buffer);
  #filled = 0;
  #at = 0;

  /**
   * Opens a file.
   *
   * @param path The file.
   * @param limit Most bytes a header may take.
   * @throws {MInferenceError} `IO` or `PERMISSION`.
   */
  constructor(path: string, limit: number) {
    this.path = path;
    this.#limit = limit;
    try {
      this.#file = Deno.openSync(path, { read: true });
      this.size = this.#file.statSync().size;
    } catch (cause) {
      throw fileError(path, cause);
    }
  }

  /** Position of the next byte. */
  get offset(): number {
    return this.#at;
  }

  /** Bytes of the file behind the position. */
  get remaining(): number {
    return this.size - this.#at;
  }

  /** Makes `count` bytes at the position available and moves past them; returns where they start. */
  #take(count: number, what: string): number {
    const start = this.#at;
    const end = start + count;
    if (end > this.size) {
      throw checkpointError(
        this.path,
        `truncated: ${what} needs ${count} bytes at ${start}, the file ends at ${this.size}`,
        { wanted: count, offset: start, size: this.size },
      );
    }
    if (end > this.#limit) {
      throw checkpointError(this.path, `header larger than the ${this.#limit} bytes allowed`, {
        limit: this.#limit,
      });
    }
    if (end > this.#filled) this.#fill(end);
    this.#at = end;
    return start;
  }

  #fill(end: number): void {
    if (end > this.#bytes.length) {
      const capacity = Math.min(this.#limit, Math.max(end, 2 * this.#bytes.length));
      const grown = new Uint8Array(capacity);
      grown.set(this.#bytes.subarray(0, this.#filled));
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    while (this.#filled < end) {
      let got: number | null;
      try {
        got = this.#file.readSync(this.#bytes.subarray(this.#filled));
      } catch (cause) {
        throw fileError(this.path, cause);
      }
      if (got === null) {
        throw checkpointError(this.path, `file shrank to ${this.#filled} bytes while it was read`);
      }
      this.#filled += got;
    }
  }

  /** Reads bytes; the result is a view that stays valid only until the next read. */
  bytes(count: number, what: string): Uint8Array {
    const start = this.#take(count, what);
    return this.#bytes.subarray(start, start + count);
  }

  /** Reads an unsigned 32-bit integer. */
  u32(what: string): number {
    const start = this.#take(4, what);
    return this.#view.getUint32(start, true);
  }

  /** Reads an unsigned 64-bit integer. */
  u64(what: string): bigint {
    const start = this.#take(8, what);
    return this.#view.getBigUint64(start, true);
  }

  /**
   * Reads an unsigned 64-bit size and checks it against a limit while it is still exact.
   *
   * @param what Name for the error.
   * @param most Largest value allowed, at most 2^53 - 1.
   */
  size64(what: string, most: number): number {
    const value = this.u64(what);
    if (value > BigInt(most)) {
      throw checkpointError(this.path, `${what} is ${value}, at most ${most} is possible`, {
        value: value.toString(),
        limit: most,
      });
    }
    return Number(value);
  }

  /** Reads `count` bytes as UTF-8; with `fatal`, malformed UTF-8 is an error. */
  text(count: number, what: string, fatal = false): string {
    const bytes = this.bytes(count, what);
    if (!fatal) return this.#utf8.decode(bytes);
    try {
      return this.#utf8Fatal.decode(bytes);
    } catch (cause) {
      throw checkpointError(this.path, `${what} is not valid UTF-8`, {}, cause);
    }
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file.close();
  }
}
