/**
 * The quality guard: a head whose list keeps too little of the probe rows' attention is computed densely for
 * this prompt.
 *
 * @module
 */
import { checkNumber } from "../native/checks.ts";

/** What a head's list must keep of the attention of the last 64 queries; fractions in [0, 1], 0 asks nothing. */
export interface Guard {
  /** On average over those rows. Default 0. */
  readonly retained?: number;
  /** Of the row that keeps least. Default 0. */
  readonly retainedMin?: number;
}

/** `true`: {@linkcode DEFAULT_GUARD}. `false` or 0: none. A number: the mean alone. */
export type GuardOption = boolean | number | Guard;

/**
 * The guard of sessions. On needle-27m's file no list is given up at 32K and hardly any at 128K tokens, where lists keep
 * 0.59 and more of the probe rows' attention and 0.07 and more of any row; lists of 16 blocks keep 0.03 of some row there
 * and are. An A-shape of 128 + 1024 keys, which answers no chain of assignments at 12K tokens, keeps under 0.05 of some
 * row in 6 of its 56 heads: with those dense it answers all that dense attention does. A threshold on the mean alone
 * needs 0.85 for that, and gives up searched lists, too: the row that retrieves is one of 64.
 */
export const DEFAULT_GUARD: Required<Guard> = { retained: 0.5, retainedMin: 0.05 };

/**
 * Reads a guard option.
 *
 * @param option What the caller gave.
 * @returns Both thresholds.
 * @throws {MInferenceError} `INVALID_ARGUMENT` for a threshold outside [0, 1].
 */
export function resolveGuard(option: GuardOption): Required<Guard> {
  if (option === true) return DEFAULT_GUARD;
  const { retained = 0, retainedMin = 0 } = typeof option === "object"
    ? option
    : { retained: Number(option) };
  const fraction = { most: 1, whole: false };
  return {
    retained: checkNumber("guard.retained", retained, fraction),
    retainedMin: checkNumber("guard.retainedMin", retainedMin, fraction),
  };
}
