/**
 * Colours that readers with any colour vision tell apart (Okabe and Ito's palette).
 *
 * @module
 */
import type { Curve } from "../page_data.ts";

/** One colour for each way to select keys. */
export const METHOD_COLORS: Readonly<Record<Curve["method"], string>> = {
  dense: "#8c8c8c",
  a_shape: "#56b4e9",
  counts: "#e69f00",
  mass: "#009e73",
  pooled: "#cc79a7",
  antidiagonal: "#d55e00",
  oracle: "#1a1a1a",
};

/** Red, green and blue of `#rrggbb`. */
export function channels(color: string): [number, number, number] {
  const value = parseInt(color.slice(1), 16);
  return [value >> 16, value >> 8 & 255, value & 255];
}

/** `t` of the way from one colour to another. */
export function mix(from: string, to: string, t: number): string {
  const a = channels(from);
  const b = channels(to);
  const hex = a.map((value, i) => Math.round(value + (b[i] - value) * t).toString(16));
  return `#${hex.map((digits) => digits.padStart(2, "0")).join("")}`;
}

/** Black or white, whichever is read better on a colour. */
export function inkOn(color: string): string {
  const [r, g, b] = channels(color).map((value) => {
    const c = value / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.22 ? "#1a1a1a" : "#ffffff";
}
