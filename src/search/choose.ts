/**
 * Picks each head's pattern from its measurements.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";
import { allocate } from "./allocate.ts";
import type { Measurement } from "./measure.ts";

/** What every head must keep. */
export interface Thresholds {
  /** Least mean recall (retained attention mass). */
  readonly recallMean: number;
  /** Least recall of the 5th percentile of rows. */
  readonly recallLow: number;
  /** Least recall of any of the last 64 rows. */
  readonly recallProbe: number;
}

/**
 * Cheapest patterns whose recall passes the thresholds at every length (Qwen2.5-1M's refinement, arXiv 2501.15383),
 * and of those the cheapest together that keep a mean over all heads.
 */
export interface RecallObjective {
  /** Discriminator. */
  readonly kind: "recall";
  /** What every head must keep. */
  readonly thresholds: Thresholds;
  /** Least mean recall over the heads that count, at every length. Default 0: each head keeps to its thresholds. */
  readonly mean?: number;
}

/** Objectives of the search. */
export type Objective =
  | RecallObjective
  /** Least output error within a cost budget relative to dense (the paper's algorithm 1). */
  | { readonly kind: "error"; readonly budget: number }
  /** Most retained mass within a cost budget (upstream's shipped code). */
  | { readonly kind: "mass"; readonly budget: number };

/** Default: of the mass a mean of 95% over the heads that count, and half of every row of the probe in each head. */
export const DEFAULT_OBJECTIVE: RecallObjective = {
  kind: "recall",
  thresholds: { recallMean: 0, recallLow: 0, recallProbe: 0.5 },
  mean: 0.95,
};

/**
 * Checks an objective.
 *
 * @throws {MInferenceError} `INVALID_ARGUMENT` for a threshold outside [0, 1] or a negative budget.
 */
export function checkObjective(objective: Objective): Objective {
  const numbers: [string, number, number][] = objective.kind === "recall"
    ? Object.entries({ ...objective.thresholds, mean: objective.mean ?? 0 })
      .map(([name, value]) => [name, value, 1])
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

/** Measurements of one head, [length][candidate]: the same candidates at every length, dense attention among them. */
export type HeadMeasurements = readonly (readonly Measurement[])[];

/** Candidates by number that pass at every length. */
function passing(lengths: HeadMeasurements, thresholds: Thresholds): number[] {
  const { recallMean, recallLow, recallProbe } = thresholds;
  const passes = (m: Measurement): boolean =>
    m.recallMean >= recallMean && m.recallLow >= recallLow && m.recallProbe >= recallProbe;
  return [...lengths[0].keys()].filter((c) => lengths.every((at) => passes(at[c])));
}

function chooseByRecall(
  heads: readonly HeadMeasurements[],
  { thresholds, mean = 0 }: RecallObjective,
  counted: number,
): Measurement[] {
  const allowed = heads.map((lengths) => passing(lengths, thresholds));
  const offers = heads.map((lengths, head) =>
    allowed[head].map((c) => ({
      cost: lengths[lengths.length - 1][c].ms,
      recall: Math.min(...lengths.map((at) => at[c].recallMean)),
    }))
  );
  return allocate(offers, mean, counted).map((offer, head) => {
    const lengths = heads[head];
    return lengths[lengths.length - 1][allowed[head][offer]];
  });
}

/** Best of what costs no more than the budget; the cheapest where nothing does. */
function chooseWithin(
  longest: readonly Measurement[],
  { kind, budget }: Exclude<Objective, RecallObjective>,
): Measurement {
  const dense = longest.find((m) => m.pattern.kind === "dense")!;
  const affordable = longest.filter((m) => m.ms <= budget * dense.ms);
  if (affordable.length === 0) return cheapest(longest);
  return affordable.reduce((best, m) => {
    const better = kind === "error" ? m.error < best.error : m.recallMean > best.recallMean;
    return better ? m : best;
  });
}

/**
 * Picks a candidate for every head.
 *
 * @param heads Measurements of each head; the last length is the longest, its cost counts.
 * @param objective What to optimise.
 * @param counted How many of the heads, the first ones, a mean over heads is of. Default all.
 * @returns The choices, as measured at the longest length. Dense attention is always among the candidates, so
 * there is always one.
 */
export function choose(
  heads: readonly HeadMeasurements[],
  objective: Objective,
  counted = heads.length,
): Measurement[] {
  if (objective.kind === "recall") return chooseByRecall(heads, objective, counted);
  return heads.map((lengths) => chooseWithin(lengths[lengths.length - 1], objective));
}
