/**
 * Environment variables, where they may be read.
 *
 * @module
 */

/** An environment variable, or undefined where it is empty or may not be read. */
export function environment(name: string): string | undefined {
  try {
    return Deno.env.get(name) || undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) return undefined;
    throw error;
  }
}
