/**
 * A seeded generator of random numbers: the same seed gives the same tasks on every machine.
 *
 * @module
 */

/** PCG32 (O'Neill 2014): 64 bits of state, 32 bits of output. */
export class Random {
  #state: bigint;

  /** Starts a sequence. `seed` is any safe integer. */
  constructor(seed: number) {
    this.#state = BigInt.asUintN(64, BigInt(seed) * 2n + 1n);
    this.u32();
    this.u32();
  }

  /** A uniform 32-bit integer. */
  u32(): number {
    const old = this.#state;
    this.#state = BigInt.asUintN(64, old * 6364136223846793005n + 1442695040888963407n);
    const bits = Number(BigInt.asUintN(32, ((old >> 18n) ^ old) >> 27n));
    const turn = Number(old >> 59n);
    return ((bits >>> turn) | (bits << (-turn & 31))) >>> 0;
  }

  /** A uniform number in [0, 1). */
  unit(): number {
    return this.u32() / 2 ** 32;
  }

  /** A uniform integer in [0, below). */
  below(below: number): number {
    return Math.floor(this.unit() * below);
  }

  /** One of the items. */
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }

  /** A string of `count` characters out of `alphabet`. */
  text(alphabet: string, count: number): string {
    let text = "";
    for (let i = 0; i < count; i++) text += alphabet[this.below(alphabet.length)];
    return text;
  }
}
