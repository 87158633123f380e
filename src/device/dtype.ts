/**
 * Element types.
 *
 * @module
 */
import { checkChoice } from "../native/checks.ts";
import { MInferenceError } from "../native/errors.ts";

/** Element types of activations and caches. */
export type FloatDType = "f32" | "f16" | "bf16";

/** Block formats of quantised weights, as GGUF defines them. */
export type QuantisedDType = "q8_0" | "q4_0" | "q4_1" | "q4_k" | "q6_k";

/** Element types a tensor can hold. */
export type DType = FloatDType | "i32" | "u32" | "u8" | "e4m3" | QuantisedDType;

interface Format {
  /** `mi_dtype`. */
  readonly code: number;
  /** Elements per block. */
  readonly elements: number;
  /** Bytes per block. */
  readonly bytes: number;
}

/** Storage of every dtype. */
export const FORMAT: Readonly<Record<DType, Format>> = {
  f32: { code: 0, elements: 1, bytes: 4 },
  f16: { code: 1, elements: 1, bytes: 2 },
  bf16: { code: 2, elements: 1, bytes: 2 },
  i32: { code: 3, elements: 1, bytes: 4 },
  u32: { code: 4, elements: 1, bytes: 4 },
  u8: { code: 5, elements: 1, bytes: 1 },
  e4m3: { code: 6, elements: 1, bytes: 1 },
  q8_0: { code: 16, elements: 32, bytes: 34 },
  q4_0: { code: 17, elements: 32, bytes: 18 },
  q4_1: { code: 18, elements: 32, bytes: 20 },
  q4_k: { code: 19, elements: 256, bytes: 144 },
  q6_k: { code: 20, elements: 256, bytes: 210 },
};

/**
 * Bytes of `elements` elements.
 *
 * @throws {MInferenceError} `SHAPE` if they do not fill whole blocks, `INVALID_ARGUMENT` for an unknown dtype.
 */
export function byteLength(dtype: DType, elements: number): number {
  checkChoice("dtype", dtype, Object.keys(FORMAT) as DType[]);
  const { elements: block, bytes } = FORMAT[dtype];
  if (elements % block !== 0) {
    throw new MInferenceError(
      "SHAPE",
      `${elements} elements do not fill whole ${dtype} blocks of ${block}`,
      { details: { dtype, elements, block } },
    );
  }
  return elements / block * bytes;
}

/** Nearest bf16 of each f32, ties to even; NaN stays NaN. */
export function toBf16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const x = bits[i];
    const nan = (x & 0x7fffffff) > 0x7f800000;
    out[i] = nan ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** Exact f32 of each bf16. */
export function fromBf16(values: Uint16Array): Float32Array<ArrayBuffer> {
  const out = new Float32Array(values.length);
  const bits = new Uint32Array(out.buffer);
  for (let i = 0; i < out.length; i++) bits[i] = values[i] << 16;
  return out;
}
