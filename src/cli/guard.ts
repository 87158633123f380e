/**
 * The options of the quality guard.
 *
 * @module
 */
import { DEFAULT_GUARD, type GuardOption } from "../attention/guard.ts";
import { type Options, SHARE, toNumbers, UsageError, type Values } from "./args.ts";

/** Options of commands that read prompts with sparse attention. */
export const GUARD_OPTIONS = {
  guard: {
    type: "string",
    value: "MEAN[,MIN]",
    help:
      "least attention that a head's list keeps of the last 64 tokens', on average and in the " +
      `worst row; else it is dense (default ${DEFAULT_GUARD.retained},${DEFAULT_GUARD.retainedMin})`,
  },
  "no-guard": { type: "boolean", help: "keep every list, whatever it misses" },
} as const satisfies Options;

/** What {@linkcode GUARD_OPTIONS} say. */
export function guardOf(values: Values<typeof GUARD_OPTIONS>): GuardOption {
  if (values["no-guard"]) {
    if (values.guard !== undefined) {
      throw new UsageError("--guard and --no-guard exclude each other");
    }
    return false;
  }
  if (values.guard === undefined) return true;
  const share = { ...SHARE, least: 0 };
  const [retained, retainedMin = 0, ...more] = toNumbers("guard", values.guard, share);
  if (more.length > 0) throw new UsageError(`--guard needs MEAN[,MIN], got "${values.guard}"`);
  return { retained, retainedMin };
}

/** The guard's line of a report; nothing where it did not step in. */
export function guardNote(heads: number): string {
  return heads === 0 ? "" : `the guard made ${heads} ${heads === 1 ? "head" : "heads"} dense`;
}
