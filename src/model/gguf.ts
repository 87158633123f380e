/**
 * The GGUF container: metadata and the place of each tensor.
 *
 * This reader is our own because the header comes from strangers. `@huggingface/gguf` 0.4.6 zero-extends what it
 * reads past the end of a file, so a truncated file parses into zeros; it cuts strings silently at a chunk
 * border, does not look at offsets, overlaps or alignment, and assigns keys such as `__proto__` to a plain
 * object. A scan that finds those faults first has to walk every value, which is the whole parser. The package
 * serves as the cross-check in the tests.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * @module
 */
import { FORMAT } from "../device/dtype.ts";
import { MInferenceError } from "../native/errors.ts";
import { checkpointError } from "./file.ts";
import { type GgufValue, readValue } from "./gguf_value.ts";
import { HeaderReader } from "./header_reader.ts";
import type { TensorSource, WeightDType } from "./weight_types.ts";

/** A parsed GGUF header. */
export interface GgufFile {
  /** The file. */
  readonly path: string;
  /** Key-value metadata. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Tensors by the file's own names; shapes outermost first. */
  readonly tensors: ReadonlyMap<string, TensorSource>;
}

/** Real headers reach 20 MB (a vocabulary of 256K tokens). */
const MAX_HEADER_BYTES = 128 * 2 ** 20;
const MAX_KEYS = 65_536;
const MAX_KEY_BYTES = 65_535; // of the specification
const MAX_TENSORS = 1_000_000;
const MAX_TENSOR_NAME_BYTES = 1024;
const MAX_DIMENSIONS = 4;
const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 2 ** 24;

/** ggml type numbers that the kernels can read. */
const DTYPES: Readonly<Record<number, WeightDType>> = {
  0: "f32",
  1: "f16",
  2: "q4_0",
  3: "q4_1",
  8: "q8_0",
  12: "q4_k",
  14: "q6_k",
  30: "bf16",
};

/** Names of the other ggml types, for the error that refuses them. */
const OTHER_TYPES: Readonly<Record<number, string>> = {
  6: "Q5_0",
  7: "Q5_1",
  9: "Q8_1",
  10: "Q2_K",
  11: "Q3_K",
  13: "Q5_K",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  20: "IQ4_NL",
  21: "IQ3_S",
  22: "IQ2_S",
  23: "IQ4_XS",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
};

/** A tensor whose offset is still relative to the data section. */
interface TensorInfo {
  name: string;
  shape: number[];
  dtype: WeightDType;
  offset: number;
  bytes: number;
}

function readTensorInfo(reader: HeaderReader): TensorInfo {
  const nameBytes = reader.size64("length of a tensor name", MAX_TENSOR_NAME_BYTES);
  const name = reader.text(nameBytes, "tensor name", true);
  const what = `tensor ${JSON.stringify(name)}`;
  const dimensions = reader.u32(`dimensions of ${what}`);
  if (dimensions < 1 || dimensions > MAX_DIMENSIONS) {
    throw checkpointError(
      reader.path,
      `${what} has ${dimensions} dimensions, 1 to ${MAX_DIMENSIONS} are possible`,
      { tensor: name, dimensions },
    );
  }
  // The file lists the contiguous dimension first.
  const shape: number[] = [];
  for (let i = 0; i < dimensions; i++) {
    shape.unshift(reader.size64(`dimension ${i} of ${what}`, Number.MAX_SAFE_INTEGER));
  }
  const type = reader.u32(`type of ${what}`);
  const dtype = DTYPES[type];
  if (dtype === undefined) {
    throw new MInferenceError(
      "UNSUPPORTED_MODEL",
      `${reader.path}: ${what} is of type ${
        OTHER_TYPES[type] ?? `number ${type}`
      }; supported are ` +
        Object.values(DTYPES).join(", ").toUpperCase(),
      { details: { path: reader.path, tensor: name, type } },
    );
  }
  const offset = reader.size64(`offset of ${what}`, Number.MAX_SAFE_INTEGER);
  return { name, shape, dtype, offset, bytes: tensorBytes(reader, what, shape, dtype) };
}

/** Bytes of a tensor; refuses a product beyond the file before it can lose precision. */
function tensorBytes(
  reader: HeaderReader,
  what: string,
  shape: number[],
  dtype: WeightDType,
): number {
  const { elements, bytes } = FORMAT[dtype];
  const row = shape[shape.length - 1];
  if (row % elements !== 0) {
    throw checkpointError(
      reader.path,
      `${what}: rows of ${row} elements are no multiple of the ${elements} of a ${dtype} block`,
      { row, dtype },
    );
  }
  const total = shape.reduce((product, size) => product * BigInt(size), 1n) / BigInt(elements) *
    BigInt(bytes);
  if (total < 1n || total > BigInt(reader.size)) {
    throw checkpointError(
      reader.path,
      `${what} [${shape.join(", ")}] ${dtype} takes ${total} bytes, the file has ${reader.size}`,
      { shape, dtype, bytes: total.toString(), size: reader.size },
    );
  }
  return Number(total);
}

function alignmentOf(path: string, metadata: ReadonlyMap<string, GgufValue>): number {
  const value = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  const valid = typeof value === "number" && Number.isInteger(value) && value >= 1 &&
    value <= MAX_ALIGNMENT && (value & (value - 1)) === 0;
  if (!valid) {
    throw checkpointError(path, `general.alignment is ${value}, it must be a power of two`, {
      alignment: String(value),
    });
  }
  return value;
}

/** Turns relative offsets into absolute ones; checks alignment, range and overlap. */
function placeTensors(
  path: string,
  size: number,
  dataStart: number,
  alignment: number,
  infos: TensorInfo[],
): Map<string, TensorSource> {
  infos.sort((a, b) => a.offset - b.offset);
  const tensors = new Map<string, TensorSource>();
  let end = 0;
  let previous = "";
  for (const { name, shape, dtype, offset, bytes } of infos) {
    const what = `tensor ${JSON.stringify(name)}`;
    if (tensors.has(name)) throw checkpointError(path, `${what} occurs twice`, { tensor: name });
    if (offset % alignment !== 0) {
      throw checkpointError(path, `${what}: offset ${offset} is not aligned to ${alignment}`, {
        tensor: name,
        offset,
        alignment,
      });
    }
    if (dataStart + offset + bytes > size) {
      throw checkpointError(
        path,
        `${what} ends at ${dataStart + offset + bytes}, the file at ${size}: truncated or corrupt`,
        { tensor: name, end: dataStart + offset + bytes, size },
      );
    }
    if (offset < end) {
      throw checkpointError(path, `${what} overlaps tensor ${JSON.stringify(previous)}`, {
        tensor: name,
        offset,
        previous,
        previousEnd: end,
      });
    }
    end = offset + bytes;
    previous = name;
    tensors.set(name, { path, offset: dataStart + offset, bytes, dtype, shape });
  }
  return tensors;
}

/**
 * Reads the header of a GGUF file (version 2 or 3, little-endian).
 *
 * @param path The file.
 * @returns Metadata and tensor places. No tensor data is read.
 * @throws {MInferenceError} `IO` or `PERMISSION` where the file cannot be read; `CHECKPOINT` where it is
 * truncated, corrupt or hostile; `UNSUPPORTED_MODEL` for a version or tensor type that cannot be used.
 */
export function readGguf(path: string): GgufFile {
  using reader = new HeaderReader(path, MAX_HEADER_BYTES);
  const magic = reader.bytes(4, "magic number");
  if (String.fromCharCode(...magic) !== "GGUF") {
    throw checkpointError(path, `not a GGUF file: it begins with bytes ${magic.join(" ")}`);
  }
  const version = reader.u32("version");
  if (version !== 2 && version !== 3) {
    const bigEndian = version === 0x02000000 || version === 0x03000000;
    throw new MInferenceError(
      "UNSUPPORTED_MODEL",
      `${path}: ${bigEndian ? "big-endian GGUF" : `GGUF version ${version}`}; ` +
        "supported are little-endian versions 2 and 3",
      { details: { path, version } },
    );
  }
  // A tensor takes at least 32 bytes of header and a key 13: counts beyond that are lies.
  const tensorCount = reader.size64(
    "number of tensors",
    Math.min(MAX_TENSORS, Math.floor(reader.remaining / 32)),
  );
  const keyCount = reader.size64(
    "number of keys",
    Math.min(MAX_KEYS, Math.floor(reader.remaining / 13)),
  );

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = reader.text(reader.size64("length of a key", MAX_KEY_BYTES), "key", true);
    if (metadata.has(key)) {
      throw checkpointError(path, `key ${JSON.stringify(key)} occurs twice`, { key });
    }
    metadata.set(key, readValue(reader, key));
  }
  const infos: TensorInfo[] = [];
  for (let i = 0; i < tensorCount; i++) infos.push(readTensorInfo(reader));

  const alignment = alignmentOf(path, metadata);
  const dataStart = Math.ceil(reader.offset / alignment) * alignment;
  return {
    path,
    metadata,
    tensors: placeTensors(path, reader.size, dataStart, alignment, infos),
  };
}
