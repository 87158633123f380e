/**
 * What the index builder reports of each head.
 *
 * @module
 */
import { headStats, PATTERN_KINDS } from "../native/params.ts";
import type { HeadPattern } from "./patterns.ts";

/** One query head's work, as computed. */
export interface HeadStats {
  /** Pattern after the automatic choice and the guard: a head that would not pay, or keeps too little, is `dense`. */
  readonly kind: HeadPattern["kind"];
  /** 64 x 64 tiles computed over those of dense causal attention. */
  readonly density: number;
  /** Attention mass on the computed cells, mean over the probe rows; 1 for dense, NaN if not measured. */
  readonly retainedMean: number;
  /** The same for the probe row that keeps least. */
  readonly retainedMin: number;
  /** Merged diagonal bands. */
  readonly bands: number;
  /** Single columns. */
  readonly columns: number;
  /** Tiles computed. */
  readonly tiles: number;
  /** Tiles of dense causal attention. */
  readonly causalTiles: number;
  /** Where the guard made the head dense: what the list kept that it had. */
  readonly guarded?: Retained;
}

/** Attention mass that a list keeps on the probe rows. */
export interface Retained {
  /** Mean over the rows. */
  readonly mean: number;
  /** The row that keeps least. */
  readonly min: number;
}

/** What a head does that is computed densely, without an index. */
export function denseStats(tiles: number): HeadStats {
  return {
    kind: "dense",
    density: 1,
    retainedMean: 1,
    retainedMin: 1,
    bands: 0,
    columns: 0,
    tiles,
    causalTiles: tiles,
  };
}

/** Bytes of the statistics of `heads` heads. */
export function statsBytes(heads: number): number {
  return heads * headStats.size;
}

/** Reads `mi_head_stats[]`. */
export function decodeStats(bytes: Uint8Array<ArrayBuffer>): HeadStats[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { offsets, size } = headStats;
  return Array.from({ length: bytes.byteLength / size }, (_, head) => {
    const at = head * size;
    return {
      kind: PATTERN_KINDS[view.getUint32(at + offsets.kind, true)],
      density: view.getFloat32(at + offsets.density, true),
      retainedMean: view.getFloat32(at + offsets.retained_mean, true),
      retainedMin: view.getFloat32(at + offsets.retained_min, true),
      bands: view.getUint32(at + offsets.bands, true),
      columns: view.getUint32(at + offsets.columns, true),
      tiles: Number(view.getBigUint64(at + offsets.tiles, true)),
      causalTiles: Number(view.getBigUint64(at + offsets.causal_tiles, true)),
      ...(view.getUint32(at + offsets.guarded, true) !== 0 && {
        guarded: {
          mean: view.getFloat32(at + offsets.unguarded_mean, true),
          min: view.getFloat32(at + offsets.unguarded_min, true),
        },
      }),
    };
  });
}
