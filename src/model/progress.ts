/**
 * Progress of long operations.
 *
 * @module
 */

/** Progress of a long operation. */
export interface Progress {
  /** What is running. */
  readonly stage: "load" | "tokenize" | "prefill" | "decode" | "search";
  /** Units done: bytes (load), characters (tokenize), tokens (prefill, decode), layers (search). */
  readonly done: number;
  /** Units in all. */
  readonly total: number;
  /** Milliseconds since the stage began. */
  readonly elapsedMs: number;
}

/** Receives progress. */
export type OnProgress = (progress: Progress) => void;

/** Reports a stage at most every 50 ms, and always its end. */
export class Reporter {
  readonly #start = performance.now();
  #last = -Infinity;

  /** Starts the stage. */
  constructor(
    readonly stage: Progress["stage"],
    readonly total: number,
    readonly onProgress?: OnProgress,
  ) {}

  /** Milliseconds since the stage began. */
  get elapsedMs(): number {
    return performance.now() - this.#start;
  }

  /** Reports `done` of the total. */
  update(done: number): void {
    const now = performance.now();
    if (!this.onProgress || (now - this.#last < 50 && done < this.total)) return;
    this.#last = now;
    const { stage, total, elapsedMs } = this;
    this.onProgress({ stage, done, total, elapsedMs });
  }
}
