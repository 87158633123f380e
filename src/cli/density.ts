/**
 * Realised density, by layer and head group.
 *
 * @module
 */
import type { HeadStats } from "../attention/stats.ts";
import { percent, table } from "./format.ts";

/** Density of the query heads that share a key-value head, by layer. */
export interface LayerDensity {
  /** Mean over each group. */
  readonly groups: readonly number[];
  /** Patterns in use, with the number of query heads. */
  readonly patterns: Readonly<Partial<Record<HeadStats["kind"], number>>>;
}

/**
 * Sums up the statistics of a prefill.
 *
 * @param layers Per layer and query head; a layer without any ran densely. The last layer computes
 * attention for one row alone and is left out.
 * @param heads Query heads of a layer.
 * @param kvHeads Key-value heads: groups of a layer.
 */
export function densityByGroup(
  layers: readonly (readonly HeadStats[])[],
  heads: number,
  kvHeads: number,
): LayerDensity[] {
  const size = heads / kvHeads;
  return layers.slice(0, -1).map((layer) => {
    if (layer.length === 0) {
      return { groups: Array<number>(kvHeads).fill(1), patterns: { dense: heads } };
    }
    const patterns: Partial<Record<HeadStats["kind"], number>> = {};
    for (const { kind } of layer) patterns[kind] = (patterns[kind] ?? 0) + 1;
    const groups = Array.from({ length: kvHeads }, (_, g) => {
      const group = layer.slice(g * size, (g + 1) * size);
      return group.reduce((sum, head) => sum + head.density, 0) / size;
    });
    return { groups, patterns };
  });
}

/** The densities as a table: a row per layer, a column per head group. */
export function densityTable(layers: readonly LayerDensity[], indent = ""): string {
  const groups = layers[0]?.groups.length ?? 0;
  const head = ["layer", ...Array.from({ length: groups }, (_, g) => `group ${g}`), "heads"];
  const rows = layers.map(({ groups, patterns }, layer) => [
    `${layer}`,
    ...groups.map(percent),
    Object.entries(patterns).map(([kind, n]) => `${kind.replaceAll("_", "-")} ${n}`).join(", "),
  ]);
  return table([head, ...rows], indent);
}
