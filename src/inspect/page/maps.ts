/// <reference lib="dom" />
/**
 * Layer x head maps of pattern, budget, density and recall.
 *
 * @module
 */
import * as Plot from "@observablehq/plot";
import { budgetSize, budgetText, type Method, METHOD_NAMES, methodOf } from "../describe.ts";
import type { HeadReport } from "../patterns.ts";
import { inkOn, METHOD_COLORS, mix } from "./colors.ts";
import { element, figure, percent } from "./dom.ts";

/** One cell of the maps. */
interface Cell extends HeadReport {
  readonly layer: number;
  readonly head: number;
}

/** How a map paints and labels a cell. */
interface Look {
  readonly fill: (cell: Cell) => string;
  readonly text: (cell: Cell) => string;
}

const PAPER = "#ffffff";
const DENSITY_INK = "#08306b";
const LOSS_INK = "#a63603";
const UNKNOWN = "#eeeeee";

/** Cells narrower than this have no text in them; the tip tells. */
const TEXT_FROM = 26;

/** Few heads get large cells, many get small ones. */
function cellSize(heads: number): { width: number; height: number } {
  const width = Math.max(11, Math.min(58, Math.floor(468 / heads)));
  return { width, height: Math.min(width, 34) };
}

function tip({ layer, head, pattern, density, recall }: Cell): string {
  const name = `${METHOD_NAMES[methodOf(pattern)]} ${budgetText(pattern)}`;
  return [
    `layer ${layer}, head ${head}`,
    name,
    `density ${percent(density)}`,
    `recall ${percent(recall)}`,
  ].join("\n");
}

function map(cells: readonly Cell[], heads: number, layers: number, look: Look): Element {
  const size = cellSize(heads);
  const place = { x: "head", y: "layer" } as const;
  const every = (count: number): number[] => {
    const step = count > 16 ? 4 : 1;
    return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
  };
  return Plot.plot({
    width: size.width * heads + 40,
    height: size.height * layers + 42,
    marginLeft: 38,
    marginRight: 2,
    marginTop: 2,
    marginBottom: 40,
    padding: 0.06,
    style: { fontSize: "11px" },
    x: { type: "band", label: "head", ticks: every(heads), tickSize: 0, labelAnchor: "center" },
    y: { type: "band", label: "layer", ticks: every(layers), tickSize: 0, labelAnchor: "center" },
    marks: [
      Plot.cell(cells, { ...place, fill: look.fill, rx: 2 }),
      ...(size.width < TEXT_FROM ? [] : [
        Plot.text(cells, {
          ...place,
          text: look.text,
          fontSize: (cell: Cell) => look.text(cell).length > 7 ? 9.5 : 11,
          fill: (cell: Cell) => inkOn(look.fill(cell)),
        }),
      ]),
      Plot.tip(cells, Plot.pointer({ ...place, title: tip })),
    ],
  });
}

/** A position in [0, 1] for each budget: its rank among the budgets of its method. */
function budgetRanks(cells: readonly Cell[]): (cell: Cell) => number {
  const sizes = new Map<Method, number[]>();
  for (const { pattern } of cells) {
    const known = sizes.get(methodOf(pattern)) ?? [];
    if (!known.includes(budgetSize(pattern))) known.push(budgetSize(pattern));
    sizes.set(methodOf(pattern), known);
  }
  for (const known of sizes.values()) known.sort((a, b) => a - b);
  return ({ pattern }) => {
    const known = sizes.get(methodOf(pattern))!;
    return known.length === 1 ? 0.5 : known.indexOf(budgetSize(pattern)) / (known.length - 1);
  };
}

const LETTERS: Readonly<Record<Method, string>> = {
  dense: "all",
  a_shape: "A",
  counts: "V",
  mass: "V%",
  pooled: "P",
  antidiagonal: "D",
};

/** Colours and letters of the methods in use, with the heads that use them. */
function legend(cells: readonly Cell[]): HTMLElement {
  const list = element("ul.legend");
  for (const method of Object.keys(METHOD_NAMES) as Method[]) {
    const count = cells.filter(({ pattern }) => methodOf(pattern) === method).length;
    if (count === 0) continue;
    const swatch = element("span.swatch", LETTERS[method]);
    swatch.style.background = METHOD_COLORS[method];
    swatch.style.color = inkOn(METHOD_COLORS[method]);
    list.append(
      element("li", swatch, `${METHOD_NAMES[method]}, ${count} ${count === 1 ? "head" : "heads"}`),
    );
  }
  return list;
}

/**
 * The four maps.
 *
 * @param layers [layer][head].
 * @param onSelect Called with the head that is clicked, as layer * heads + head.
 */
export function headMaps(
  layers: readonly (readonly HeadReport[])[],
  onSelect: (index: number) => void,
): HTMLElement {
  const heads = layers[0].length;
  const cells = layers.flatMap((row, layer) => row.map((head, h) => ({ ...head, layer, head: h })));
  const rank = budgetRanks(cells);
  const share = (value: number | undefined): string =>
    value === undefined ? "" : (100 * value).toFixed(value < 0.0995 ? 1 : 0);
  const worst = Math.min(0.8, ...cells.map(({ recall = 1 }) => recall));
  const views: [title: string, caption: string, look: Look][] = [
    ["Pattern", "How the head chooses the keys it looks at.", {
      fill: ({ pattern }) => METHOD_COLORS[methodOf(pattern)],
      text: ({ pattern }) => LETTERS[methodOf(pattern)],
    }],
    [
      "Budget",
      "First + last keys, columns + diagonals, share of the mass, or blocks. Darker: more than other heads of the same pattern.",
      {
        fill: (cell) => mix(PAPER, METHOD_COLORS[methodOf(cell.pattern)], 0.2 + 0.65 * rank(cell)),
        text: ({ pattern }) => budgetText(pattern),
      },
    ],
    ["Density, %", "Attention tiles computed, of those that dense attention computes.", {
      fill: ({ density }) =>
        density === undefined ? UNKNOWN : mix(PAPER, DENSITY_INK, 0.06 + 0.94 * Math.sqrt(density)),
      text: ({ density }) => share(density),
    }],
    [
      "Recall, %",
      "Attention mass that falls on the computed cells, mean over the queries. Dark: lost.",
      {
        fill: ({ recall }) =>
          recall === undefined
            ? UNKNOWN
            : mix(PAPER, LOSS_INK, 0.06 + 0.9 * (1 - recall) / (1 - worst)),
        text: ({ recall }) => share(recall),
      },
    ],
  ];
  const figures = views.map(([title, caption, look]) => {
    const chart = map(cells, heads, layers.length, look);
    chart.addEventListener("click", () => {
      const cell: Cell | null = (chart as Element & { value?: Cell }).value ?? null;
      if (cell) onSelect(cell.layer * heads + cell.head);
    });
    return figure(title, chart, caption);
  });
  return element("div", legend(cells), element("div.maps", ...figures));
}
