/**
 * The relative error in the norm, of numbers that come piece by piece.
 *
 * @module
 */

/** Sums of squares: of a difference, and of what it is measured against. */
export class RelativeError {
  #difference = 0;
  #norm = 0;

  /** Takes more numbers. */
  add(actual: Float32Array, expected: Float32Array): void {
    for (let i = 0; i < expected.length; i++) {
      this.#difference += (actual[i] - expected[i]) ** 2;
      this.#norm += expected[i] ** 2;
    }
  }

  /** ‖actual - expected‖ / ‖expected‖ of all numbers taken. */
  get value(): number {
    return this.#difference === 0 ? 0 : Math.sqrt(this.#difference / this.#norm);
  }
}
