/**
 * Numbers and choices that a caller gives.
 *
 * @module
 */
import { MInferenceError } from "./errors.ts";

/** Limits of a number. */
export interface Limits {
  /** Smallest value. Default 0. */
  readonly least?: number;
  /** Largest value. Default the largest safe integer. */
  readonly most?: number;
  /** Whole numbers alone. Default true. */
  readonly whole?: boolean;
}

/** Largest value of the native library's 32-bit counts. */
export const MOST_COUNT = 0x7fffffff;

/**
 * Checks a number.
 *
 * @param name What the caller knows it as.
 * @param value What was given.
 * @param limits Limits.
 * @returns The number.
 * @throws {MInferenceError} `INVALID_ARGUMENT` with the number and its limits.
 */
export function checkNumber(name: string, value: number, limits: Limits = {}): number {
  const { least = 0, most = Number.MAX_SAFE_INTEGER, whole = true } = limits;
  const isOne = typeof value === "number" && (!whole || Number.isSafeInteger(value));
  if (isOne && value >= least && value <= most) return value;
  const kind = whole ? "a whole number" : "a number";
  throw new MInferenceError(
    "INVALID_ARGUMENT",
    `${name} must be ${kind} from ${least} to ${most}, got ${value}`,
    { details: { [name]: value, least, most } },
  );
}

/**
 * Checks a choice.
 *
 * @param name What the caller knows it as.
 * @param value What was given.
 * @param allowed What there is.
 * @returns The choice.
 * @throws {MInferenceError} `INVALID_ARGUMENT` with the value and the choices.
 */
export function checkChoice<T extends string>(
  name: string,
  value: T,
  allowed: readonly T[],
): T {
  if (allowed.includes(value)) return value;
  throw new MInferenceError(
    "INVALID_ARGUMENT",
    `${name} must be ${allowed.join(" or ")}, got ${value}`,
    { details: { [name]: value, allowed } },
  );
}
