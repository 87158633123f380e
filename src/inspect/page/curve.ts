/// <reference lib="dom" />
/**
 * Density against recall: what each way to select keys keeps for what it costs.
 *
 * @module
 */
import * as Plot from "@observablehq/plot";
import { METHOD_NAMES } from "../describe.ts";
import type { Curve, SampleReport } from "../page_data.ts";
import { METHOD_COLORS } from "./colors.ts";
import { percent } from "./dom.ts";

/** A budget of one method. */
interface Point {
  readonly method: string;
  readonly budget: string;
  readonly density: number;
  readonly recall: number;
}

const OWN = "these patterns";

function nameOf(method: Curve["method"]): string {
  return method === "oracle" ? "oracle" : METHOD_NAMES[method];
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;

/** The curves of one head, or of the mean over all of them. */
function points({ curves, layers }: SampleReport, head: number | undefined): {
  curves: Point[];
  own: Point;
} {
  const pick = (values: readonly number[]): number =>
    head === undefined ? mean(values) : values[head];
  const heads = layers.flat();
  return {
    curves: curves.flatMap(({ method, budgets, density, recall }) =>
      budgets.map((budget, b) => ({
        method: nameOf(method),
        budget,
        density: pick(density[b]),
        recall: pick(recall[b]),
      }))
    ),
    own: {
      method: OWN,
      budget: "",
      density: pick(heads.map(({ density }) => density)),
      recall: pick(heads.map(({ recall }) => recall)),
    },
  };
}

const tip = ({ method, budget, density, recall }: Point): string =>
  `${method}${budget && `, ${budget}`}\ndensity ${percent(density)}\nrecall ${percent(recall)}`;

/**
 * The chart.
 *
 * @param sample What was measured.
 * @param head layer * heads + head; the mean over all heads without.
 * @param width In pixels.
 */
export function curveChart(sample: SampleReport, head: number | undefined, width: number): Element {
  const { curves, own } = points(sample, head);
  const place = { x: "density", y: "recall" } as const;
  const names = sample.curves.map(({ method }) => nameOf(method));
  const least = Math.min(own.recall, ...curves.map(({ recall }) => recall));
  // Steps of 5%. Below one half nothing is of use; there the other curves would be squeezed.
  const lowest = Math.min(Math.max(0.5, Math.floor(20 * least) / 20), own.recall, 0.95);
  const shown = curves.filter(({ recall }) => recall >= lowest);
  return Plot.plot({
    width,
    height: 440,
    marginLeft: 56,
    marginRight: 24,
    marginTop: 24,
    marginBottom: 50,
    grid: true,
    style: { fontSize: "12px" },
    x: { type: "log", label: "density: tiles computed", tickFormat: "~%", labelAnchor: "center" },
    y: { label: "recall: mass kept", tickFormat: "~%", domain: [lowest, 1] },
    color: {
      legend: true,
      domain: names,
      range: sample.curves.map(({ method }) => METHOD_COLORS[method]),
    },
    marks: [
      // Curves may coincide: one of the block scores is dashed so that both are seen.
      ...[false, true].map((dashed) =>
        Plot.line(shown.filter(({ method }) => (method === METHOD_NAMES.antidiagonal) === dashed), {
          ...place,
          stroke: "method",
          strokeWidth: 2.5,
          strokeDasharray: dashed ? "6 6" : undefined,
          sort: "density",
        })
      ),
      Plot.dot(shown, { ...place, fill: "method", r: 3.5 }),
      Plot.dot([own], { ...place, symbol: "star", r: 9, fill: "#1a1a1a", stroke: "white" }),
      Plot.text([own], {
        ...place,
        text: "method",
        dx: 10,
        dy: 16,
        textAnchor: "start",
        fontWeight: "bold",
        stroke: "white",
        strokeWidth: 4,
        fill: "#1a1a1a",
      }),
      Plot.tip([...shown, own], Plot.pointer({ ...place, title: tip })),
    ],
  });
}
