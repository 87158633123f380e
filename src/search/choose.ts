/**
 * Picks a head's pattern from its measurements.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";
import type { Measurement } from "./measure.ts";

/** What a head must keep. */
export interface Thresholds {
  /** Least mean recall (retained attention mass). */
  readonly recallMean: number;
  /** Least recall of the 5th percentile of rows. */
  readonly recallLow: number;
  /** Least recall of any of the last 64 rows. */
  readonly recallProbe: number;
}

/** Cheapest pattern whose recall passes the thresholds at every length (Qwen2.5-1M's refinement, arXiv 2501.15383). */
export interface RecallObjective {
  /** Discriminator. */
  readonly kind: "recall";
  /** What must be kept. */
  readonly thresholds: Thresholds;
}

/** Objectives of the search. */
export type Objective =
  | RecallObjective
  /** Least output error within a cost budget relative to dense (the paper's algorithm 1). */
  | { readonly kind: "error"; readonly budget: number }
  /** Most retained mass within a cost budget (upstream's shipped code). */
  | { readonly kind: "mass"; readonly budget: number };

/** Default: the loosest that lost no answer of needle-27m on the prompts of `deno task accuracy`. */
export const DEFAULT_OBJECTIVE: RecallObjective = {
  kind: "recall",
  thresholds: { recallMean: 0.85, recallLow: 0.5, recallProbe: 0.5 },
};

/**
 * Checks an objective.
 *
 * @throws {MInferenceError} `INVALID_ARGUMENT` for a threshold outside [0, 1] or a negative budget.
 */
export function checkObjective(objective: Objective): Objective {
  const numbers: [string, number, number][] = objective.kind === "recall"
    ? Object.entries(objective.thresholds).map(([name, value]) => [name, value, 1])
    : [["budget", objective.budget, Infinity]];
  for (const [name, value, most] of numbers) {
    if (value >= 0 && value <= most) continue;
    throw new MInferenceError(
      "INVALID_ARGUMENT",
      `${name} of the search's objective must be ${
        most === 1 ? "in [0, 1]" : "0 or more"
      }, got ${value}`,
      { details: { [name]: value } },
    );
  }
  return objective;
}

function cheapest(measurements: readonly Measurement[]): Measurement {
  return measurements.reduce((best, m) => m.ms < best.ms ? m : best);
}

/**
 * Picks one candidate.
 *
 * @param lengths Measurements of one head, [length][candidate], the same candidates at every length; the
 * last length is the longest, its cost counts.
 * @param objective What to optimise.
 * @returns The choice, as measured at the longest length. Dense attention is always among the candidates,
 * so there is always one.
 */
export function choose(
  lengths: readonly (readonly Measurement[])[],
  objective: Objective,
): Measurement {
  const longest = lengths[lengths.length - 1];
  const dense = longest.find((m) => m.pattern.kind === "dense")!;
  if (objective.kind === "recall") {
    const { recallMean, recallLow, recallProbe } = objective.thresholds;
    const passes = (m: Measurement): boolean =>
      m.recallMean >= recallMean && m.recallLow >= recallLow && m.recallProbe >= recallProbe;
    return cheapest(longest.filter((_, c) => lengths.every((at) => passes(at[c]))));
  }
  const affordable = longest.filter((m) => m.ms <= objective.budget * dense.ms);
  if (affordable.length === 0) return cheapest(longest);
  return affordable.reduce((best, m) => {
    const better = objective.kind === "error"
      ? m.error < best.error
      : m.recallMean > best.recallMean;
    return better ? m : best;
  });
}
