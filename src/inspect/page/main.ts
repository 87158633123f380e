/// <reference lib="dom" />
/**
 * The page: title and totals, maps, thumbnails, curve.
 *
 * @module
 */
import type { HeadReport } from "../patterns.ts";
import type { PageData } from "../page_data.ts";
import { curveChart } from "./curve.ts";
import { element, figure, percent } from "./dom.ts";
import { headMaps } from "./maps.ts";
import { thumbnails } from "./thumbnails.ts";

const data: PageData = JSON.parse(document.getElementById("data")!.textContent!);
const { modelName, file, layers, sample } = data;
const heads = layers[0].length;

function meanOf(of: readonly (readonly HeadReport[])[], figure: "density" | "recall"): string {
  const values = of.flat().map((head) => head[figure] ?? NaN);
  const mean = values.reduce((a, b) => a + b) / values.length;
  return percent(Number.isNaN(mean) ? undefined : mean);
}

/** The same heads with the figures measured on the sample. */
const onSample: HeadReport[][] = layers.map((row, layer) =>
  row.map(({ pattern }, head) => ({ pattern, ...sample.layers[layer][head] }))
);
const searched = layers.flat().every(({ density, recall }) =>
  density !== undefined && recall !== undefined
);
const sampleText = `${sample.tokens.toLocaleString("en-US")} tokens, ${sample.name}`;

function header(): HTMLElement {
  const source = file === null ? "the safe default, no pattern file" : file;
  const total = (label: string, of: readonly (readonly HeadReport[])[]): HTMLElement =>
    element(
      "div.total",
      element("b", meanOf(of, "density")),
      " of attention computed, ",
      element("b", meanOf(of, "recall")),
      " of its mass kept",
      element("small", label),
    );
  return element(
    "header",
    element("h1", `Sparse patterns of ${modelName}`),
    element("p", `${layers.length} layers of ${heads} heads · ${source}`),
    element(
      "div.totals",
      ...(searched ? [total("as the search measured them", layers)] : []),
      total(`on the sample: ${sampleText}`, onSample),
    ),
  );
}

function curveSection(): { section: HTMLElement; select: (index: number | undefined) => void } {
  const choice = document.createElement("select");
  choice.append(new Option("mean of all heads", ""));
  layers.forEach((row, layer) =>
    row.forEach((_, head) =>
      choice.append(new Option(`layer ${layer}, head ${head}`, `${layer * heads + head}`))
    )
  );
  const place = element("div");
  const select = (index: number | undefined): void => {
    choice.value = index === undefined ? "" : `${index}`;
    place.replaceChildren(figure(
      "Density against recall",
      curveChart(sample, index, 1040),
      "Up and left is better. A-shape, counts and blocks have one budget for all heads on each point; a share of " +
        "the mass adapts to head and prompt. The oracle knows each query block's true mass and takes its largest " +
        "key blocks. The star: the patterns shown on this page.",
    ));
  };
  choice.addEventListener("change", () => select(choice.value ? Number(choice.value) : undefined));
  select(undefined);
  const label = element("label", "Shown: ", choice);
  const section = element(
    "section",
    element("h2", "What a budget buys"),
    element("p", `Measured on the sample (${sampleText}). Click a cell of a map to see one head.`),
    label,
    place,
  );
  return { section, select };
}

function mapSection(onSelect: (index: number) => void): HTMLElement {
  const place = element("div");
  const show = (of: readonly (readonly HeadReport[])[]): void =>
    place.replaceChildren(headMaps(of, onSelect));
  const section = element("section", element("h2", "What each head computes"));
  if (searched) {
    const choices: [string, readonly (readonly HeadReport[])[]][] = [
      ["as searched", layers],
      ["on the sample", onSample],
    ];
    const labels = choices.map(([name, of], i) => {
      const radio = document.createElement("input");
      radio.type = "radio";
      radio.name = "figures";
      radio.checked = i === 0;
      radio.addEventListener("change", () => show(of));
      return element("label", radio, ` ${name}`);
    });
    section.append(element("p.choice", "Density and recall: ", ...labels));
  }
  show(searched ? layers : onSample);
  section.append(place);
  return section;
}

const curve = curveSection();
const selectAndShow = (index: number): void => {
  curve.select(index);
  curve.section.scrollIntoView({ behavior: "smooth" });
};
document.querySelector("main")!.append(
  header(),
  mapSection(selectAndShow),
  element(
    "section",
    element("h2", "Where attention goes, and what is computed"),
    element(
      "p",
      `Queries run down, keys across, the sample's first token top left. Left: dense attention. Right: the cells ` +
        `that the pattern computes, and in red the attention it leaves out.`,
    ),
    thumbnails(data),
  ),
  curve.section,
);
