/**
 * Turns `mi_error` into {@linkcode MInferenceError}.
 *
 * @module
 */
import { type ErrorCode, MInferenceError } from "./errors.ts";

const CODES: Record<number, ErrorCode> = {
  [-1]: "INVALID_ARGUMENT",
  [-2]: "SHAPE",
  [-3]: "DISPOSED",
  [-4]: "OUT_OF_MEMORY",
  [-5]: "NO_DEVICE",
  [-6]: "UNSUPPORTED_DEVICE",
  [-7]: "UNSUPPORTED",
  [-8]: "CANCELLED",
  [-9]: "IO",
  [-10]: "DEVICE_LOST",
  [-11]: "CUDA",
  [-12]: "INTERNAL",
};

/** Bytes of `mi_error`. */
const ERROR_BYTES = 256;

/** A fresh `mi_error`. Calls may overlap, so each has its own. */
export function newError(): Uint8Array<ArrayBuffer> {
  return new Uint8Array(ERROR_BYTES);
}

/** The failure in `bytes`, with the name of the call that failed. */
function toError(call: string, status: number, bytes: Uint8Array): MInferenceError {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.indexOf(0, 24);
  const text = new TextDecoder().decode(bytes.subarray(24, end < 0 ? ERROR_BYTES : end));
  const code = CODES[status] ?? "INTERNAL";
  const details: Record<string, unknown> = { call, status, native: view.getInt32(4, true) };
  if (code === "OUT_OF_MEMORY") {
    details.wanted = Number(view.getBigUint64(8, true));
    details.available = Number(view.getBigUint64(16, true));
  }
  return new MInferenceError(code, text || `${call} failed with status ${status}`, { details });
}

/** Throws unless `status` is 0. */
export function check(call: string, status: number, error: Uint8Array): void {
  if (status < 0) throw toError(call, status, error);
}
