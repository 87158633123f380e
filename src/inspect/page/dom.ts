/// <reference lib="dom" />
/**
 * Making elements.
 *
 * @module
 */

/**
 * An element with its contents.
 *
 * @param tag What it is; `p.note` gives it a class.
 * @param children Elements and text.
 */
export function element(tag: string, ...children: readonly (Node | string)[]): HTMLElement {
  const [name, className] = tag.split(".");
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A chart with its title above and what one sees below. */
export function figure(title: string, chart: Element, caption: string): HTMLElement {
  const label = chart.querySelector(":scope > svg") ?? chart; // beside a legend, or all there is
  label.setAttribute("role", "img");
  label.setAttribute("aria-label", `${title}. ${caption}`);
  return element("figure", element("h3", title), chart, element("figcaption", caption));
}

/** `12.4%`; a dash for what was not measured. */
export function percent(fraction: number | undefined): string {
  return fraction === undefined ? "–" : `${(100 * fraction).toFixed(1)}%`;
}
