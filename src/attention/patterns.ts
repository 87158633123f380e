/**
 * Sparse attention patterns of a head (arXiv 2407.02490, section 3.2).
 *
 * @module
 */
import { checkChoice, checkNumber } from "../native/checks.ts";
import { MInferenceError } from "../native/errors.ts";

/** Every key up to the query. */
export interface DensePattern {
  /** Discriminator. */
  readonly kind: "dense";
}

/** A-shape: the first `sink` keys and the last `local` keys of each query (StreamingLLM's shape). */
export interface AShapePattern {
  /** Discriminator. */
  readonly kind: "a_shape";
  /** Keys at the start that every query sees. */
  readonly sink: number;
  /** Most recent keys that a query sees, itself included. */
  readonly local: number;
}

/**
 * Vertical-slash: columns and diagonals chosen for each prompt from its last 64 queries.
 *
 * Either counts (`vertical`, `slash`), as upstream, or `mass`: the fraction of the estimated attention
 * mass to cover with as few tiles as possible; counts given beside `mass` are upper bounds.
 */
export interface VerticalSlashPattern {
  /** Discriminator. */
  readonly kind: "vertical_slash";
  /** Columns to keep. The first 30 keys are always among them. */
  readonly vertical?: number;
  /** Diagonals to keep. The nearest 100 are always among them. */
  readonly slash?: number;
  /** Fraction of the estimated attention mass to cover, in (0, 1]. */
  readonly mass?: number;
  /** `exact`: single diagonals, upstream's semantics. `banded`: 64-wide bands by mass. Default `banded` with `mass`, else `exact`. */
  readonly selection?: "exact" | "banded";
}

/** Block-sparse: for each 64-query block the `topK` 64-key blocks with the highest pooled score. */
export interface BlockSparsePattern {
  /** Discriminator. */
  readonly kind: "block_sparse";
  /** Key blocks per query block. */
  readonly topK: number;
  /** Always visit the first key block. Default false, as upstream. */
  readonly forceSink?: boolean;
  /** Always visit the query block's own block. Default false, as upstream. */
  readonly forceDiagonal?: boolean;
  /** `pooled`: mean-pooled queries and keys. `antidiagonal`: strided antidiagonal sums (arXiv 2503.16428). Default `pooled`. */
  readonly score?: "pooled" | "antidiagonal";
}

/** One query head's pattern. */
export type HeadPattern =
  | DensePattern
  | AShapePattern
  | VerticalSlashPattern
  | BlockSparsePattern;

/** The pattern upstream gives a head that its file does not name. */
export const DEFAULT_PATTERN: VerticalSlashPattern = {
  kind: "vertical_slash",
  vertical: 1000,
  slash: 6096,
};

/** Beyond any sequence: a budget that large keeps everything. */
const MOST = 2 ** 30;

/**
 * Checks a pattern and fills its defaults.
 *
 * @param pattern The pattern.
 * @param head Index of the head, for error messages.
 * @returns The same pattern with every optional field set but `mass`, whose absence means counts.
 * @throws {MInferenceError} `INVALID_ARGUMENT` naming the head and the value.
 */
export function resolvePattern(pattern: HeadPattern, head: number): HeadPattern {
  const count = (name: string, value: number, least: number): number =>
    checkNumber(name, value, { least, most: MOST }, { head });
  const choice = <const T extends string | boolean>(
    name: string,
    value: T,
    choices: readonly T[],
  ): T => checkChoice(name, value, choices, { head });
  switch (pattern.kind) {
    case "dense":
      return pattern;
    case "a_shape":
      return {
        kind: "a_shape",
        sink: count("sink", pattern.sink, 0),
        local: count("local", pattern.local, 1),
      };
    case "vertical_slash": {
      const { mass } = pattern;
      if (mass !== undefined && !(typeof mass === "number" && mass > 0 && mass <= 1)) {
        throw new MInferenceError(
          "INVALID_ARGUMENT",
          `head ${head}: mass must be in (0, 1], got ${mass}`,
          { details: { head, mass } },
        );
      }
      if (mass === undefined && (pattern.vertical === undefined || pattern.slash === undefined)) {
        throw new MInferenceError(
          "INVALID_ARGUMENT",
          `head ${head}: vertical_slash needs vertical and slash, or mass`,
          { details: { head } },
        );
      }
      return {
        kind: "vertical_slash",
        vertical: count("vertical", pattern.vertical ?? 0, 0),
        slash: count("slash", pattern.slash ?? 0, 0),
        ...(mass !== undefined && { mass }),
        selection: choice(
          "selection",
          pattern.selection ?? (mass === undefined ? "exact" : "banded"),
          ["exact", "banded"],
        ),
      };
    }
    case "block_sparse":
      return {
        kind: "block_sparse",
        topK: count("topK", pattern.topK, 1),
        forceSink: choice("forceSink", pattern.forceSink ?? false, [true, false]),
        forceDiagonal: choice("forceDiagonal", pattern.forceDiagonal ?? false, [true, false]),
        score: choice("score", pattern.score ?? "pooled", ["pooled", "antidiagonal"]),
      };
    default:
      throw new MInferenceError(
        "INVALID_ARGUMENT",
        `head ${head}: unknown pattern ${JSON.stringify(pattern)}`,
        { details: { head } },
      );
  }
}
