/**
 * Little-endian writers for the C structs of minference.h. Field names, order and types are the header's;
 * a test compares every offset with the compiler's.
 *
 * @module
 */
import { checkNumber, type Limits, MOST_COUNT } from "./checks.ts";

/** A range of a buffer: `mi_ref`. */
export interface Ref {
  /** Buffer handle; 0n = absent. */
  readonly buffer: bigint;
  /** Bytes. */
  readonly offset: number;
}

/** A strided [heads, rows, dim] view: `mi_view`. */
export interface View extends Ref {
  /** Elements between heads. */
  readonly headStride: number;
  /** Elements between rows. */
  readonly rowStride: number;
  /** `mi_dtype`. */
  readonly dtype: number;
}

interface FieldTypes {
  i32: number;
  u32: number;
  f32: number;
  i64: number;
  u64: number | bigint;
  ref: Ref;
  view: View;
}

/** Type of a struct field. */
export type FieldType = keyof FieldTypes;

const SIZE: Record<FieldType, number> = {
  i32: 4,
  u32: 4,
  f32: 4,
  i64: 8,
  u64: 8,
  ref: 16,
  view: 40,
};

/** Values of a struct, by its schema. Fields named `reserved` are not asked for. */
export type Values<F extends Record<string, FieldType>> = {
  readonly [K in Exclude<keyof F, "reserved">]: FieldTypes[F[K]];
};

const INTEGERS = {
  i32: { least: -MOST_COUNT - 1, most: MOST_COUNT },
  u32: { most: 2 * MOST_COUNT + 1 },
  i64: { least: Number.MIN_SAFE_INTEGER },
  u64: {},
} satisfies Record<string, Limits>;

function writeField(
  view: DataView,
  at: number,
  type: FieldType,
  value: unknown,
  name: string,
): void {
  if (type in INTEGERS && typeof value !== "bigint") {
    checkNumber(name, value as number, INTEGERS[type as keyof typeof INTEGERS]);
  }
  switch (type) {
    case "i32":
      return view.setInt32(at, value as number, true);
    case "u32":
      return view.setUint32(at, value as number, true);
    case "f32":
      return view.setFloat32(at, value as number, true);
    case "i64":
      return view.setBigInt64(at, BigInt(value as number), true);
    case "u64":
      return view.setBigUint64(at, BigInt(value as number | bigint), true);
    case "ref":
    case "view": {
      const v = value as View;
      view.setBigUint64(at, v.buffer, true);
      view.setBigUint64(at + 8, BigInt(v.offset), true);
      if (type === "ref") return;
      view.setBigInt64(at + 16, BigInt(v.headStride), true);
      view.setBigInt64(at + 24, BigInt(v.rowStride), true);
      return view.setInt32(at + 32, v.dtype, true);
    }
  }
}

/** Layout of one C struct. */
export class Struct<F extends Record<string, FieldType>> {
  /** Offset of each field in bytes. */
  readonly offsets: Readonly<Record<keyof F & string, number>>;
  /** Bytes. */
  readonly size: number;

  /**
   * @param name C name.
   * @param fields Fields in order.
   * @param op `mi_op` for parameter structs, which start with a header of 8 bytes; else null.
   */
  constructor(readonly name: string, readonly fields: F, readonly op: number | null = null) {
    let at = op === null ? 0 : 8;
    const offsets: Record<string, number> = {};
    for (const [field, type] of Object.entries(fields)) {
      offsets[field] = at;
      at += SIZE[type];
    }
    this.offsets = offsets as Record<keyof F & string, number>;
    this.size = at;
  }

  /** Writes the values at `at` of `view`. */
  write(view: DataView, at: number, values: Values<F>): void {
    for (const field in this.offsets) {
      if (field === "reserved") continue;
      const value = (values as Record<string, unknown>)[field];
      writeField(view, at + this.offsets[field], this.fields[field], value, field);
    }
  }

  /** Encodes a parameter struct with its header and `extra` bytes for a trailing array. */
  encode(values: Values<F>, extra = 0): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.size + extra);
    const view = new DataView(bytes.buffer);
    if (this.op !== null) {
      view.setUint32(0, bytes.length, true);
      view.setUint32(4, this.op, true);
    }
    this.write(view, 0, values);
    return bytes;
  }
}
