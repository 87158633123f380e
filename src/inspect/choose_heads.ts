/**
 * Which heads are shown as pictures.
 *
 * @module
 */
import { METHOD_NAMES, methodOf } from "./describe.ts";
import type { HeadFigures, HeadReport } from "./patterns.ts";

/** A head and why it is shown. */
export interface ChosenHead {
  /** Layer. */
  readonly layer: number;
  /** Query head. */
  readonly head: number;
  /** Why it is shown; empty where the user asked for it. */
  readonly reason: string;
}

/**
 * The densest head, the least dense, and the densest of each method in use.
 *
 * @param patterns What each head computes, [layer][head].
 * @param figures What was measured of it, [layer][head].
 */
export function chooseHeads(
  patterns: readonly (readonly HeadReport[])[],
  figures: readonly (readonly HeadFigures[])[],
): ChosenHead[] {
  const all = patterns.flatMap((row, layer) =>
    row.map(({ pattern }, head) => {
      return { layer, head, method: methodOf(pattern), density: figures[layer][head].density };
    })
  ).sort((a, b) => b.density - a.density);
  const chosen = new Map<string, ChosenHead>();
  const choose = ({ layer, head }: { layer: number; head: number }, reason: string): void => {
    const name = `${layer}:${head}`;
    if (!chosen.has(name)) chosen.set(name, { layer, head, reason });
  };
  choose(all[0], "most dense");
  choose(all[all.length - 1], "least dense");
  for (const method of new Set(all.map((head) => head.method))) {
    choose(all.find((head) => head.method === method)!, `densest of ${METHOD_NAMES[method]}`);
  }
  return [...chosen.values()];
}
