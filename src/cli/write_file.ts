/**
 * Files that a command writes at its end.
 *
 * @module
 */
import { dirname } from "node:path";
import { stat } from "../model/file.ts";
import { MInferenceError } from "../native/errors.ts";

function unwritable(path: string, cause: unknown): unknown {
  if (cause instanceof Deno.errors.NotCapable) return cause; // tells the flag
  return ioError(path, (cause as Error).message, cause);
}

function ioError(path: string, reason: string, cause?: unknown): MInferenceError {
  const message = `cannot write ${path}: ${reason}`;
  return new MInferenceError("IO", message, { cause, details: { path } });
}

/**
 * Finds out early whether a file can be written, before minutes of work for it.
 *
 * @param path The file.
 * @throws {MInferenceError} `PERMISSION` or `IO`.
 */
export async function checkWritable(path: string): Promise<void> {
  if (path === "") throw ioError('""', "a file needs a name");
  const { state } = await Deno.permissions.query({ name: "write", path });
  if (state !== "granted") {
    const flag = `--allow-write=${path}`;
    const message = `no permission to write ${path}: run with ${flag}`;
    throw new MInferenceError("PERMISSION", message, { details: { path, flag } });
  }
  if ((await stat(path))?.isDirectory) throw ioError(path, "it is a folder");
  if (!(await stat(dirname(path)))?.isDirectory) throw ioError(path, "no such folder");
}

/**
 * Writes a text file.
 *
 * @param path The file.
 * @param text Its contents.
 * @throws {MInferenceError} `PERMISSION` or `IO`.
 */
export async function writeTextFile(path: string, text: string): Promise<void> {
  try {
    await Deno.writeTextFile(path, text);
  } catch (cause) {
    throw unwritable(path, cause);
  }
}
