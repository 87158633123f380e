/**
 * The Deno that native calls can be made from.
 *
 * @module
 */
import { MInferenceError } from "./errors.ts";

/** Oldest Deno whose FFI keeps the buffers of a pending call alive. */
const OLDEST_DENO = "2.7.6";

/**
 * Checks that this Deno can call the native library: an older one may free a buffer that a pending call reads or writes.
 *
 * @param version Default that of this process.
 * @throws {MInferenceError} `UNSUPPORTED` with both versions.
 *
 * @example
 * ```ts
 * import { checkDeno } from "./runtime.ts";
 *
 * checkDeno("2.9.6");
 * ```
 */
export function checkDeno(version: string = Deno.version.deno): void {
  const numbers = (of: string): number[] => of.split(/[.+-]/).slice(0, 3).map(Number);
  const [found, oldest] = [numbers(version), numbers(OLDEST_DENO)];
  const at = found.findIndex((n, i) => n !== oldest[i]);
  if (at < 0 || found[at] > oldest[at]) return;
  throw new MInferenceError(
    "UNSUPPORTED",
    `Deno ${version} may free the buffers of a native call before it ends; deno upgrade: ` +
      `${OLDEST_DENO} is the oldest that does not`,
    { details: { found: version, oldest: OLDEST_DENO } },
  );
}
