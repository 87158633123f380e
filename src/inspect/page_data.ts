/**
 * What the command line hands to the page: JSON in the page's own file.
 *
 * @module
 */
import type { Method } from "./describe.ts";
import type { HeadFigures, HeadReport } from "./patterns.ts";

/** Square maps are sent with one byte a cell, base64. */
export interface ByteMap {
  /** Cells along a side: query blocks down, key blocks across. */
  readonly size: number;
  /** size x size bytes, row by row. */
  readonly bytes: string;
}

/** Attention of one head, seen from afar. */
export interface Thumbnail {
  /** Layer. */
  readonly layer: number;
  /** Query head. */
  readonly head: number;
  /** Why it is shown, e.g. `most dense`. */
  readonly reason: string;
  /** Mean attention mass per cell of a query; logarithmic, see {@linkcode MASS_DECADES}. */
  readonly mass: ByteMap;
  /** The part of {@linkcode Thumbnail.mass} that is not computed, on the same scale. */
  readonly missed: ByteMap;
  /** Share of each cell's causal pairs that are computed; 255 is all of them. */
  readonly mask: ByteMap;
}

/** A byte of 1 in {@linkcode Thumbnail.mass} is 10^-MASS_DECADES of the mass, 255 is all of it. */
export const MASS_DECADES = 4;

/** One way to select keys, over a range of budgets. */
export interface Curve {
  /** `oracle` takes the key blocks of largest true mass until a share of each query block's mass is kept. */
  readonly method: Method | "oracle";
  /** What each budget is called. */
  readonly budgets: readonly string[];
  /** [budget][layer * heads + head]. */
  readonly density: readonly (readonly number[])[];
  /** [budget][layer * heads + head]. */
  readonly recall: readonly (readonly number[])[];
}

/** What was computed on the sample prompt. */
export interface SampleReport {
  /** What the sample is. */
  readonly name: string;
  /** Its tokens. */
  readonly tokens: number;
  /** The model's patterns on this sample, [layer][head]. */
  readonly layers: readonly (readonly HeadFigures[])[];
  /** Density against recall. */
  readonly curves: readonly Curve[];
  /** Chosen heads. */
  readonly thumbnails: readonly Thumbnail[];
}

/** Everything the page shows. */
export interface PageData {
  /** The model. */
  readonly modelName: string;
  /** Name of the pattern file; null for the safe default. */
  readonly file: string | null;
  /** Patterns and what the file says of them, [layer][head]. */
  readonly layers: readonly (readonly HeadReport[])[];
  /** Measured for this page. */
  readonly sample: SampleReport;
}
