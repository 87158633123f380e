/**
 * Ctrl-C: the first asks for an orderly end, the second ends at once.
 *
 * @module
 */

/** Listens for SIGINT until disposed. */
export class Interrupt implements Disposable {
  readonly #controller = new AbortController();
  readonly #onSignal: () => void;

  /** @param onFirst Called at the first Ctrl-C. */
  constructor(onFirst: () => void) {
    this.#onSignal = () => {
      if (this.signal.aborted) Deno.exit(130);
      onFirst();
      this.#controller.abort(new DOMException("interrupted", "AbortError"));
    };
    Deno.addSignalListener("SIGINT", this.#onSignal);
  }

  /** Aborts at the first Ctrl-C. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Stops listening. */
  [Symbol.dispose](): void {
    Deno.removeSignalListener("SIGINT", this.#onSignal);
  }
}
