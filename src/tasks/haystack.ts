/**
 * Prose to hide things in.
 *
 * @module
 */
import type { Random } from "./random.ts";

/** Farther than this from the wanted place, a line break is taken instead of a sentence's end. */
const SENTENCE_REACH = 400;

/**
 * Takes a passage out of a text, from a random word on, starting over where the text ends.
 *
 * @param text The text.
 * @param length UTF-16 units wanted.
 * @param random Where the choice comes from; one draw, so that passages of two lengths begin alike.
 * @returns Exactly `length` units.
 */
export function passage(text: string, length: number, random: Random): string {
  const start = text.indexOf(" ", random.below(text.length)) + 1;
  let taken = text.slice(start, start + length);
  while (taken.length < length) taken += text.slice(0, length - taken.length);
  return taken;
}

/** The end of the sentence, else of the line, at or after a position. */
function breakAfter(text: string, position: number): number {
  const sentence = text.indexOf(". ", position);
  if (sentence >= 0 && sentence - position <= SENTENCE_REACH) return sentence + 2;
  const line = text.indexOf("\n", position);
  return line < 0 ? text.length : line + 1;
}

/** Something to hide. */
export interface Item {
  /** Its text. */
  readonly text: string;
  /** Where, as a fraction of the prose in [0, 1]. */
  readonly depth: number;
}

/**
 * Puts items between the sentences of a prose.
 *
 * @param prose The prose.
 * @param items What to hide; items of equal depth keep their order.
 * @returns The prose with the items in it.
 */
export function hide(prose: string, items: readonly Item[]): string {
  const parts: string[] = [];
  let last = 0;
  for (const { text, depth } of items.toSorted((a, b) => a.depth - b.depth)) {
    const at = Math.max(breakAfter(prose, Math.floor(depth * prose.length)), last);
    const before = prose.slice(last, at);
    parts.push(before, /[^\s]$/.test(before) ? " " : "", text, " ");
    last = at;
  }
  parts.push(prose.slice(last));
  return parts.join("");
}
