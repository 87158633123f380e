/**
 * Sparse attention patterns of a head (arXiv 2407.02490, section 3.2).
 *
 * @module
 */
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

function invalid(head: number, name: string, wanted: string, value: unknown): MInferenceError {
  return new MInferenceError(
    "INVALID_ARGUMENT",
    `head ${head}: ${name} must be ${wanted}, got ${value}`,
    { details: { head, [name]: value } },
  );
}

/** Beyond any sequence: a budget that large keeps everything. */
const MOST = 2 ** 30;

function count(head: number, name: string, value: number, least: number): number {
  if (Number.isInteger(value) && value >= least && value <= MOST) return value;
  throw invalid(head, name, `an integer from ${least} to ${MOST}`, value);
}

function oneOf<T>(head: number, name: string, value: T, choices: readonly T[]): T {
  if (choices.includes(value)) return value;
  throw invalid(head, name, `one of ${choices.join(", ")}`, value);
}

/**
 * Checks a pattern and fills its defaults.
 *
 * @param pattern The pattern.
 * @param head Index of the head, for error messages.
 * @returns The same pattern with every optional field set but `mass`, whose absence means counts.
 * @throws {MInferenceError} `INVALID_ARGUMENT` naming the head and the value.
 */
export function resolvePattern(pattern: HeadPattern, head: number): HeadPattern {
  switch (pattern.kind) {
    case "dense":
      return pattern;
    case "a_shape":
      return {
        kind: "a_shape",
        sink: count(head, "sink", pattern.sink, 0),
        local: count(head, "local", pattern.local, 1),
      };
    case "vertical_slash": {
      const { mass } = pattern;
      if (mass !== undefined && !(typeof mass === "number" && mass > 0 && mass <= 1)) {
        throw invalid(head, "mass", "in (0, 1]", mass);
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
        vertical: count(head, "vertical", pattern.vertical ?? 0, 0),
        slash: count(head, "slash", pattern.slash ?? 0, 0),
        ...(mass !== undefined && { mass }),
        selection: oneOf(
          head,
          "selection",
          pattern.selection ?? (mass === undefined ? "exact" : "banded"),
          ["exact", "banded"],
        ),
      };
    }
    case "block_sparse":
      return {
        kind: "block_sparse",
        topK: count(head, "topK", pattern.topK, 1),
        forceSink: oneOf(head, "forceSink", pattern.forceSink ?? false, [true, false]),
        forceDiagonal: oneOf(head, "forceDiagonal", pattern.forceDiagonal ?? false, [true, false]),
        score: oneOf(head, "score", pattern.score ?? "pooled", ["pooled", "antidiagonal"]),
      };
    default:
      throw new MInferenceError(
        "INVALID_ARGUMENT",
        `head ${head}: unknown pattern ${JSON.stringify(pattern)}`,
        { details: { head } },
      );
  }
}
