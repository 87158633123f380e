/**
 * One at a time, in call order.
 *
 * @module
 */

/** A queue of asynchronous bodies, of which one runs at a time. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /**
   * Runs `body` when those before it have ended, however they did.
   *
   * @param body What to run.
   * @param signal Leaves the queue; once it runs, `body` itself sees to the signal.
   * @throws `signal.reason` on an abort before its turn, and whatever `body` throws.
   */
  take<T>(body: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const turn = Promise.withResolvers<void>();
    const leave = (): void => turn.reject(signal!.reason);
    if (signal?.aborted) leave();
    signal?.addEventListener("abort", leave, { once: true });
    this.#last.then(() => turn.resolve());
    const run = turn.promise.finally(() => signal?.removeEventListener("abort", leave)).then(body);
    this.#last = Promise.allSettled([this.#last, run]).then(() => {}); // holds no result
    return run;
  }
}
