/**
 * GGUF metadata values.
 *
 * @module
 */
import { checkpointError } from "./file.ts";
import type { HeaderReader } from "./header_reader.ts";

/** A numeric array of the metadata, kept packed. */
export type GgufNumbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | BigUint64Array
  | BigInt64Array
  | Float64Array;

/** A metadata value. 64-bit integers stay bigint, so that none loses precision. */
export type GgufValue = number | bigint | boolean | string | readonly string[] | GgufNumbers;

const MAX_STRING_BYTES = 16 * 2 ** 20;
const MAX_ARRAY_STRINGS = 2 ** 22;

const STRING = 8;
const ARRAY = 9;
const BOOL = 7;

/** Fixed-size types by their GGUF number: element size and how an array of them is viewed. */
const NUMBERS: Readonly<Record<number, { bytes: number; view(b: ArrayBuffer): GgufNumbers }>> = {
  0: { bytes: 1, view: (b) => new Uint8Array(b) },
  1: { bytes: 1, view: (b) => new Int8Array(b) },
  2: { bytes: 2, view: (b) => new Uint16Array(b) },
  3: { bytes: 2, view: (b) => new Int16Array(b) },
  4: { bytes: 4, view: (b) => new Uint32Array(b) },
  5: { bytes: 4, view: (b) => new Int32Array(b) },
  6: { bytes: 4, view: (b) => new Float32Array(b) },
  [BOOL]: { bytes: 1, view: (b) => new Uint8Array(b) },
  10: { bytes: 8, view: (b) => new BigUint64Array(b) },
  11: { bytes: 8, view: (b) => new BigInt64Array(b) },
  12: { bytes: 8, view: (b) => new Float64Array(b) },
};

/** Reads `count` fixed-size numbers. Typed arrays share the file's byte order: both are little-endian. */
function readNumbers(
  reader: HeaderReader,
  type: number,
  count: number,
  what: string,
): GgufNumbers {
  const { bytes, view } = NUMBERS[type];
  return view(new Uint8Array(reader.bytes(count * bytes, what)).buffer);
}

function readString(reader: HeaderReader, what: string): string {
  return reader.text(reader.size64(`length of ${what}`, MAX_STRING_BYTES), what);
}

function readArray(reader: HeaderReader, what: string): GgufValue {
  const type = reader.u32(`element type of ${what}`);
  if (type === STRING) {
    // Each string has 8 bytes of length.
    const most = Math.min(MAX_ARRAY_STRINGS, Math.floor(reader.remaining / 8));
    const count = reader.size64(`length of ${what}`, most);
    const strings: string[] = [];
    for (let i = 0; i < count; i++) strings.push(readString(reader, what));
    return strings;
  }
  if (NUMBERS[type] === undefined) {
    // Nested arrays are allowed by the format; no model writes them.
    throw checkpointError(reader.path, `${what} is an array of unknown type ${type}`, { type });
  }
  const most = Math.floor(reader.remaining / NUMBERS[type].bytes);
  return readNumbers(reader, type, reader.size64(`length of ${what}`, most), what);
}

/**
 * Reads a value with its type tag.
 *
 * @param reader Stands before the tag.
 * @param key The key, for errors.
 * @returns The value.
 * @throws {MInferenceError} `CHECKPOINT`.
 */
export function readValue(reader: HeaderReader, key: string): GgufValue {
  const what = `value of ${JSON.stringify(key)}`;
  const type = reader.u32(`type of ${what}`);
  if (type === STRING) return readString(reader, what);
  if (type === ARRAY) return readArray(reader, what);
  if (NUMBERS[type] === undefined) {
    throw checkpointError(reader.path, `${what} is of unknown type ${type}`, { key, type });
  }
  const [value] = readNumbers(reader, type, 1, what);
  return type === BOOL ? value !== 0 : value;
}
