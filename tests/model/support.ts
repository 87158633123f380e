// What the checkpoint tests share: temporary files, typed failures, writers of small valid files.
import assert from "node:assert/strict";
import { type ErrorCode, MInferenceError } from "../../src/native/errors.ts";

/** The repository's own model. */
export const NEEDLE = new URL("../../models/needle-27m/", import.meta.url);

/** Folder of the larger models, where the machine has it. */
export function sharedModel(name: string): URL | undefined {
  const folder = Deno.env.get("MINFERENCE_SHARED");
  const root = folder === undefined
    ? new URL("../../../shared/models/", import.meta.url)
    : new URL(`file://${folder.replace(/\/?$/, "/")}`);
  const url = new URL(`${name}/`, root);
  try {
    return Deno.statSync(url).isDirectory ? url : undefined;
  } catch {
    return undefined;
  }
}

/** Runs `body`, expects a typed error of one of the codes and returns it. */
export async function failure(
  codes: ErrorCode | readonly ErrorCode[],
  body: () => unknown,
): Promise<MInferenceError> {
  try {
    await body();
  } catch (error) {
    assert(error instanceof MInferenceError, `untyped ${error}`);
    const allowed: readonly string[] = typeof codes === "string" ? [codes] : codes;
    assert(allowed.includes(error.code), `${error.code}: ${error.message}`);
    return error;
  }
  assert.fail("nothing was thrown");
}

/** A directory that is gone after the scope. */
export function temporaryDirectory(): Disposable & {
  path: string;
  write(name: string, data: Uint8Array | string): string;
} {
  const path = Deno.makeTempDirSync({ prefix: "minference_" });
  return {
    path,
    write(name, data): string {
      const file = `${path}/${name}`;
      if (typeof data === "string") Deno.writeTextFileSync(file, data);
      else Deno.writeFileSync(file, data);
      return file;
    },
    [Symbol.dispose](): void {
      Deno.removeSync(path, { recursive: true });
    },
  };
}

/** Joins byte arrays. */
export function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** A little-endian unsigned integer of 4 or 8 bytes. */
export function le(value: number | bigint, bytes: 4 | 8): Uint8Array {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true);
  return out.subarray(0, bytes);
}

/** Integers that break readers: borders of signed and unsigned 32 and 64 bit, and of doubles. */
export const HOSTILE: readonly bigint[] = [
  0n,
  1n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 53n + 1n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 1n,
];
