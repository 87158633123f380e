/**
 * Reading small files and file headers, with typed errors.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";

/** Largest JSON file that is read: the biggest real one, a tokenizer of 256K tokens, takes 33 MB. */
const MAX_JSON_BYTES = 256 * 2 ** 20;

/**
 * Turns a failure of the file system into a typed error.
 *
 * @param path The file or directory that could not be read.
 * @param cause What Deno threw.
 * @returns `PERMISSION` with the flag to add, else `IO`.
 */
export function fileError(path: string, cause: unknown): MInferenceError {
  if (cause instanceof MInferenceError) return cause;
  if (cause instanceof Deno.errors.NotCapable) {
    return new MInferenceError(
      "PERMISSION",
      `no permission to read ${path}: run with --allow-read=${path}`,
      { cause, details: { path, flag: `--allow-read=${path}` } },
    );
  }
  const reason = cause instanceof Deno.errors.NotFound
    ? "no such file or directory"
    : cause instanceof Error
    ? cause.message
    : String(cause);
  return new MInferenceError("IO", `cannot read ${path}: ${reason}`, { cause, details: { path } });
}

/**
 * A `CHECKPOINT` error: the bytes of a file are not what its format promises.
 *
 * @param path The file.
 * @param message What is wrong, with the numbers.
 * @param details Extra facts.
 * @param cause The underlying error, if any.
 * @returns The error, to be thrown.
 */
export function checkpointError(
  path: string,
  message: string,
  details: Record<string, unknown> = {},
  cause?: unknown,
): MInferenceError {
  return new MInferenceError("CHECKPOINT", `${path}: ${message}`, {
    cause,
    details: { path, ...details },
  });
}

/**
 * Tells what a path is.
 *
 * @param path A path.
 * @returns `undefined` where nothing is there.
 * @throws {MInferenceError} `PERMISSION` or `IO`.
 */
export async function stat(path: string): Promise<Deno.FileInfo | undefined> {
  try {
    return await Deno.stat(path);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) return undefined;
    throw fileError(path, cause);
  }
}

/**
 * Reads a text file that may be absent.
 *
 * @param path A path.
 * @returns Its text, or `undefined` where there is none.
 * @throws {MInferenceError} `PERMISSION`, `IO`, or `CHECKPOINT` where it is too large to be what it claims to be.
 */
export async function readTextIfThere(path: string): Promise<string | undefined> {
  const info = await stat(path);
  if (info === undefined || info.isDirectory) return undefined;
  if (info.size > MAX_JSON_BYTES) {
    throw checkpointError(path, `${info.size} bytes, more than the ${MAX_JSON_BYTES} allowed`, {
      bytes: info.size,
      limit: MAX_JSON_BYTES,
    });
  }
  try {
    return await Deno.readTextFile(path);
  } catch (cause) {
    throw fileError(path, cause);
  }
}

/**
 * Reads a few bytes out of a file.
 *
 * @param path The file.
 * @param offset First byte.
 * @param count Bytes wanted.
 * @returns Exactly `count` bytes.
 * @throws {MInferenceError} `IO`, `PERMISSION`, or `CHECKPOINT` where the file ends before.
 */
export async function readRange(
  path: string,
  offset: number,
  count: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(count);
  try {
    using file = await Deno.open(path);
    await file.seek(offset, Deno.SeekMode.Start);
    for (let filled = 0; filled < count;) {
      const got = await file.read(bytes.subarray(filled));
      if (got === null) {
        throw checkpointError(path, `truncated: ${count} bytes at ${offset} are not there`);
      }
      filled += got;
    }
  } catch (cause) {
    throw fileError(path, cause);
  }
  return bytes;
}

/** A JSON object whose fields have not been checked yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Whether a value is an object, neither null nor an array. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Parses text that has to be a JSON object.
 *
 * @param path Where it came from, for the error.
 * @param text The text.
 * @returns The object.
 * @throws {MInferenceError} `CHECKPOINT`.
 */
export function parseJsonObject(path: string, text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw checkpointError(path, `not valid JSON (${(cause as Error).message})`, {}, cause);
  }
  if (!isObject(value)) throw checkpointError(path, "not a JSON object");
  return value;
}

/**
 * Reads a JSON object that may be absent.
 *
 * @param path A path.
 * @returns The object, or `undefined` where there is no file.
 * @throws {MInferenceError} `PERMISSION`, `IO` or `CHECKPOINT`.
 */
export async function readJsonIfThere(path: string): Promise<JsonObject | undefined> {
  const text = await readTextIfThere(path);
  return text === undefined ? undefined : parseJsonObject(path, text);
}
