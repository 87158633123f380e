/**
 * What other ways to select keys compute where they keep as much.
 *
 * @module
 */
import type { Curve, SampleReport } from "./page_data.ts";
import { meanFigure } from "./patterns.ts";

/** A method with the density it needs. */
export interface EqualRecall {
  /** How keys are selected, for all heads alike. */
  readonly method: Curve["method"];
  /** Mean density where the mean recall is that of the patterns; undefined outside the budgets measured. */
  readonly density: number | undefined;
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;

/** Mean density at which a curve has a mean recall, linear between its budgets. */
export function densityAt({ density, recall }: Curve, wanted: number): number | undefined {
  const points = density.map((heads, b) => ({ density: mean(heads), recall: mean(recall[b]) }))
    .sort((a, b) => a.recall - b.recall);
  const above = points.findIndex((point) => point.recall >= wanted);
  if (above < 0) return undefined;
  if (points[above].recall === wanted) return points[above].density;
  if (above === 0) return undefined;
  const [low, high] = [points[above - 1], points[above]];
  const part = (wanted - low.recall) / (high.recall - low.recall);
  return low.density + part * (high.density - low.density);
}

/** Every method of a sample at the recall of the model's patterns on it. */
export function atEqualRecall({ layers, curves }: SampleReport): EqualRecall[] {
  const recall = meanFigure(layers, "recall")!;
  return curves.map((curve) => ({ method: curve.method, density: densityAt(curve, recall) }));
}
