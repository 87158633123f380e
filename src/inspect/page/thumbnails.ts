/// <reference lib="dom" />
/**
 * Attention of single heads seen from afar: all of it, and what the pattern computes of it.
 *
 * @module
 */
import { budgetText, METHOD_NAMES, methodOf } from "../describe.ts";
import type { ByteMap, PageData, Thumbnail } from "../page_data.ts";
import { channels, mix } from "./colors.ts";
import { element, percent } from "./dom.ts";

const PAPER = "#ffffff";
const FUTURE = "#f3f1ec"; // cells after the query, which it never sees
const INK = "#08306b";
const COMPUTED = "#7fcdbb";
const MISSED = "#d7301f";

function bytes({ bytes }: ByteMap): Uint8Array {
  return Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0));
}

/** A canvas of one pixel a cell, scaled up by the style. */
function canvas(size: number, colorOf: (cell: number) => string, label: string): HTMLCanvasElement {
  const made = document.createElement("canvas");
  made.width = made.height = size;
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  const context = made.getContext("2d")!;
  const image = context.createImageData(size, size);
  for (let cell = 0; cell < size * size; cell++) {
    const future = cell % size > Math.floor(cell / size);
    image.data.set([...channels(future ? FUTURE : colorOf(cell)), 255], 4 * cell);
  }
  context.putImageData(image, 0, 0);
  return made;
}

function pair({ layer, head, reason, mass, missed, mask }: Thumbnail, data: PageData): HTMLElement {
  const { pattern } = data.layers[layer][head];
  const { density, recall } = data.sample.layers[layer][head];
  const masses = bytes(mass);
  const shares = bytes(mask);
  const where = `layer ${layer}, head ${head}`;
  const dense = canvas(
    mass.size,
    (cell) => mix(PAPER, INK, masses[cell] / 255),
    `dense attention of ${where}`,
  );
  const left = bytes(missed);
  const computed = canvas(mask.size, (cell) => {
    const share = shares[cell] / 255;
    const ground = mix(PAPER, COMPUTED, share === 0 ? 0 : 0.25 + 0.75 * share);
    return mix(ground, MISSED, left[cell] / 255);
  }, `cells computed for ${where}`);
  return element(
    "figure.pair",
    element("h3", `Layer ${layer}, head ${head}`, element("span.reason", reason)),
    element("div.canvases", dense, computed),
    element(
      "figcaption",
      `${METHOD_NAMES[methodOf(pattern)]} ${budgetText(pattern)} · density ${
        percent(density)
      } · recall ${percent(recall)}`,
    ),
  );
}

/** All chosen heads, and a key to their colours. */
export function thumbnails(data: PageData): HTMLElement {
  const key = element("ul.legend");
  const entries: [string, string][] = [
    [INK, "attention mass, logarithmic"],
    [COMPUTED, "computed"],
    [MISSED, "mass that is not computed"],
    [FUTURE, "after the query"],
  ];
  for (const [color, label] of entries) {
    const swatch = element("span.swatch");
    swatch.style.background = color;
    key.append(element("li", swatch, label));
  }
  const pairs = data.sample.thumbnails.map((thumbnail) => pair(thumbnail, data));
  return element("div", key, element("div.pairs", ...pairs));
}
