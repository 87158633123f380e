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

/** Where a value stands, e.g. `{ head: 3 }`: said before its name. */
export type Place = Readonly<Record<string, number>>;

const said = (place: Place): string =>
  Object.entries(place).map(([what, index]) => `${what} ${index}: `).join("");

/** Largest value of the native library's 32-bit counts. */
export const MOST_COUNT = 0x7fffffff;

/**
 * Checks a number.
 *
 * @param name What the caller knows it as.
 * @param value What was given.
 * @param limits Limits.
 * @param place Where it stands.
 * @returns The number.
 * @throws {MInferenceError} `INVALID_ARGUMENT` with the number, its limits and its place.
 */
export function checkNumber(
  name: string,
  value: number,
  limits: Limits = {},
  place: Place = {},
): number {
  const { least = 0, most = Number.MAX_SAFE_INTEGER, whole = true } = limits;
  const isOne = typeof value === "number" && (!whole || Number.isSafeInteger(value));
  if (isOne && value >= least && value <= most) return value;
  const kind = whole ? "a whole number" : "a number";
  throw new MInferenceError(
    "INVALID_ARGUMENT",
    `${said(place)}${name} must be ${kind} from ${least} to ${most}, got ${value}`,
    { details: { ...place, [name]: value, least, most } },
  );
}

/**
 * Checks a choice.
 *
 * @param name What the caller knows it as.
 * @param value What was given.
 * @param allowed What there is.
 * @param place Where it stands.
 * @returns The choice.
 * @throws {MInferenceError} `INVALID_ARGUMENT` with the value, the choices and its place.
 */
export function checkChoice<T extends string | boolean>(
  name: string,
  value: T,
  allowed: readonly T[],
  place: Place = {},
): T {
  if (allowed.includes(value)) return value;
  throw new MInferenceError(
    "INVALID_ARGUMENT",
    `${said(place)}${name} must be ${allowed.join(" or ")}, got ${value}`,
    { details: { ...place, [name]: value, allowed } },
  );
}
