/**
 * The one error class of this package.
 *
 * @module
 */

/** Stable machine-readable error codes. */
export type ErrorCode =
  | "LIBRARY_NOT_FOUND"
  | "LIBRARY_ABI_MISMATCH"
  | "PERMISSION"
  | "NO_DEVICE"
  | "UNSUPPORTED_DEVICE"
  | "DEVICE_LOST"
  | "OUT_OF_MEMORY"
  | "CUDA"
  | "INVALID_ARGUMENT"
  | "SHAPE"
  | "UNSUPPORTED"
  | "UNSUPPORTED_MODEL"
  | "CHECKPOINT"
  | "CONTEXT_OVERFLOW"
  | "CANCELLED"
  | "DISPOSED"
  | "NETWORK"
  | "IO"
  | "BUILD"
  | "INTERNAL";

/** Options of {@linkcode MInferenceError}. */
export interface MInferenceErrorOptions extends ErrorOptions {
  /** Extra facts, e.g. bytes wanted and free. */
  details?: Record<string, unknown>;
}

/**
 * Every error this package throws. An aborted call throws its `signal.reason` instead.
 *
 * @example
 * ```ts
 * import { MInferenceError } from "./errors.ts";
 *
 * const error = new MInferenceError("SHAPE", "q has 3 dimensions, 4 are needed", {
 *   details: { dimensions: 3 },
 * });
 * console.log(error.code, error.details.dimensions);
 * ```
 */
export class MInferenceError extends Error {
  /** Always `"MInferenceError"`. */
  override readonly name: string = "MInferenceError";
  /** Code to switch on. */
  readonly code: ErrorCode;
  /** Extra facts, e.g. bytes wanted and free. */
  readonly details: Readonly<Record<string, unknown>>;

  /** Makes one; `options.cause` is kept. */
  constructor(code: ErrorCode, message: string, options?: MInferenceErrorOptions) {
    super(message, options);
    this.code = code;
    this.details = options?.details ?? {};
  }
}
