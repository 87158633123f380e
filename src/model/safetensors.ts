/**
 * The safetensors container: the place of each tensor, from one file or a sharded set.
 *
 * Format: https://github.com/huggingface/safetensors#format
 *
 * @module
 */
import type { MInferenceError } from "../native/errors.ts";
import { checkpointError, isObject, parseJsonObject, readJsonIfThere } from "./file.ts";
import { HeaderReader } from "./header_reader.ts";
import type { TensorSource, WeightDType } from "./weight_types.ts";

/** Places of the tensors of a checkpoint. */
export interface SafetensorsFile {
  /** Tensors of a type that weights may have, by name. */
  readonly tensors: ReadonlyMap<string, TensorSource>;
  /** Tensors of another type: name to the format's name of it. Not an error until one is needed. */
  readonly otherTypes: ReadonlyMap<string, string>;
}

/** The reference implementation's limit. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_DIMENSIONS = 16;

const DTYPES: Readonly<Record<string, WeightDType>> = { F32: "f32", F16: "f16", BF16: "bf16" };

/** Bits of an element of every type the format knows. */
const BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  U16: 16,
  I16: 16,
  F16: 16,
  BF16: 16,
  U32: 32,
  I32: 32,
  F32: 32,
  U64: 64,
  I64: 64,
  F64: 64,
  C64: 64,
  F4: 4,
};

interface Entry {
  name: string;
  type: string;
  shape: number[];
  begin: number;
  end: number;
}

/**
 * A list of sizes from JSON. JSON.parse rounds integers above 2^53 to doubles, and no integer above 2^53
 * rounds to a safe one, so this check sees every number that lost precision.
 */
function isSizes(value: unknown, atMost: number): value is number[] {
  return Array.isArray(value) && value.length <= atMost &&
    value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function parseEntry(path: string, name: string, value: unknown): Entry {
  const what = `tensor ${JSON.stringify(name)}`;
  const fail = (message: string): MInferenceError =>
    checkpointError(path, `${what}: ${message}`, { tensor: name });
  if (!isObject(value)) throw fail("its header entry is not an object");
  const { dtype: type, shape, data_offsets: offsets } = value;
  if (typeof type !== "string" || !Object.hasOwn(BITS, type)) {
    throw fail(`unknown dtype ${JSON.stringify(type)}`);
  }
  if (!isSizes(shape, MAX_DIMENSIONS)) throw fail(`invalid shape ${JSON.stringify(shape)}`);
  if (!isSizes(offsets, 2) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw fail(`invalid data_offsets ${JSON.stringify(offsets)}`);
  }
  const [begin, end] = offsets;
  const bits = shape.reduce((product, size) => product * BigInt(size), BigInt(BITS[type]));
  if (bits !== 8n * BigInt(end - begin)) {
    throw fail(
      `shape [${shape.join(", ")}] of ${type} takes ${bits / 8n} bytes, ` +
        `data_offsets give ${end - begin}`,
    );
  }
  return { name, type, shape, begin, end };
}

/**
 * Reads the header of one file.
 *
 * @param path The file.
 * @returns Places of its tensors. No tensor data is read.
 * @throws {MInferenceError} `IO`, `PERMISSION`, or `CHECKPOINT` where the header is malformed, tensors overlap or leave
 * holes, or the file is not exactly as long as they need.
 */
export function readSafetensors(path: string): SafetensorsFile {
  using reader = new HeaderReader(path, MAX_HEADER_BYTES + 8);
  const length = reader.size64("header length", Math.min(MAX_HEADER_BYTES, reader.size));
  const text = reader.text(length, "header", true);
  if (text[0] !== "{") throw checkpointError(path, "the header does not begin with {");
  const header = parseJsonObject(path, text);
  const dataStart = reader.offset;

  const entries: Entry[] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name !== "__metadata__") entries.push(parseEntry(path, name, value));
  }
  // The format allows neither overlaps nor holes, so each tensor begins where the one before ends.
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let end = 0;
  for (const entry of entries) {
    if (entry.begin !== end) {
      throw checkpointError(
        path,
        `tensor ${JSON.stringify(entry.name)} begins at ${entry.begin}, ` +
          `the tensor before it ends at ${end}`,
        { tensor: entry.name, begin: entry.begin, previousEnd: end },
      );
    }
    end = entry.end;
  }
  if (dataStart + end !== reader.size) {
    throw checkpointError(
      path,
      `its tensors need ${
        dataStart + end
      } bytes, the file has ${reader.size}: truncated or corrupt`,
      { wanted: dataStart + end, size: reader.size },
    );
  }

  const tensors = new Map<string, TensorSource>();
  const otherTypes = new Map<string, string>();
  for (const { name, type, shape, begin, end } of entries) {
    const dtype = DTYPES[type];
    if (dtype === undefined) otherTypes.set(name, type);
    else {
      const offset = dataStart + begin;
      tensors.set(name, { path, offset, bytes: end - begin, dtype, shape });
    }
  }
  return { tensors, otherTypes };
}

/**
 * Reads a sharded checkpoint through its `*.safetensors.index.json`.
 *
 * @param indexPath The index file.
 * @param resolve Turns a shard's file name into its path.
 * @returns Places of the tensors that the index names.
 * @throws {MInferenceError} As {@linkcode readSafetensors}; `CHECKPOINT` also where the index names a file outside its
 * directory or a tensor that its shard lacks.
 */
export async function readShardedSafetensors(
  indexPath: string,
  resolve: (name: string) => string,
): Promise<SafetensorsFile> {
  const map = (await readJsonIfThere(indexPath))?.weight_map;
  if (!isObject(map)) throw checkpointError(indexPath, "no weight_map object");

  const shards = new Map<string, SafetensorsFile>();
  const tensors = new Map<string, TensorSource>();
  const otherTypes = new Map<string, string>();
  for (const [name, file] of Object.entries(map)) {
    // A bare file name: the index must not lead out of the checkpoint's directory.
    if (typeof file !== "string" || !/^[^/\\\0]+\.safetensors$/.test(file)) {
      throw checkpointError(indexPath, `invalid shard name ${JSON.stringify(file)}`, {
        tensor: name,
      });
    }
    let shard = shards.get(file);
    if (shard === undefined) shards.set(file, shard = readSafetensors(resolve(file)));
    const source = shard.tensors.get(name);
    const otherType = shard.otherTypes.get(name);
    if (source !== undefined) tensors.set(name, source);
    else if (otherType !== undefined) otherTypes.set(name, otherType);
    else {
      throw checkpointError(indexPath, `tensor ${JSON.stringify(name)} is not in ${file}`, {
        tensor: name,
        shard: file,
      });
    }
  }
  return { tensors, otherTypes };
}
