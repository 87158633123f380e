/**
 * Whatever was thrown, as the one error class.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";

/** An error as `--json` prints it. */
export interface ErrorJson {
  /** A code of {@linkcode MInferenceError}, `USAGE` or `ABORTED`. */
  readonly code: string;
  /** One sentence. */
  readonly message: string;
  /** Facts. */
  readonly details: Readonly<Record<string, unknown>>;
}

/** Whether the system refused something; some of its errors have no class of Deno's, only their name as a code. */
function isSystemError(error: Error & { code?: unknown }): boolean {
  return Object.values(Deno.errors).some((SystemError) => error instanceof SystemError) ||
    typeof error.code === "string" && /^E[A-Z0-9]+$/.test(error.code);
}

/** The class a thrown value belongs to: itself, `PERMISSION` for Deno's denials, `IO` for the system's, else `INTERNAL`. */
export function toMInferenceError(error: unknown): MInferenceError {
  if (error instanceof MInferenceError) return error;
  const cause = error instanceof Error ? error : new Error(String(error));
  if (cause instanceof Deno.errors.NotCapable) {
    return new MInferenceError("PERMISSION", cause.message, { cause });
  }
  if (isSystemError(cause)) {
    return new MInferenceError("IO", cause.message, { cause });
  }
  return new MInferenceError("INTERNAL", cause.message, { cause });
}

/** An error as `--json` prints it. */
export function errorJson({ code, message, details }: MInferenceError): ErrorJson {
  return { code, message, details };
}
