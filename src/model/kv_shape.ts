/**
 * How keys and values are kept, and the bytes that takes.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import { byteLength, type FloatDType } from "../device/dtype.ts";
import type { DeviceKind } from "../device/info.ts";
import { checkChoice } from "../native/checks.ts";
import { MInferenceError } from "../native/errors.ts";

/** How a KV cache is stored: as floats, or as e4m3 with a scale per head and 128 tokens. */
export type KvDType = FloatDType | "fp8";

/** Every {@linkcode KvDType}. */
export const KV_DTYPES: readonly KvDType[] = ["f32", "f16", "bf16", "fp8"];

/** Where a KV cache is: on the device, or in host memory and two layers at a time on the device. */
export type KvPlace = "device" | "host";

/** Every {@linkcode KvPlace}. */
export const KV_PLACES: readonly KvPlace[] = ["device", "host"];

/** The element type of 16 bits that attention on this device is fastest in: the usual one of a cache. */
export function usualKvDtype(device: Pick<Device, "kind" | "info">): FloatDType {
  return device.kind === "cuda" || device.info().path === "avx512_bf16" ? "bf16" : "f16";
}

/** Shape of a cache. */
export interface KvShape {
  /** Decoder layers. */
  readonly layers: number;
  /** Key/value heads. */
  readonly kvHeads: number;
  /** Elements of a head. */
  readonly headDim: number;
  /** Element type that the attention of a prompt reads; of the cache itself, too, unless it is quantised. */
  readonly dtype: FloatDType;
  /** Stored as e4m3. */
  readonly quantised?: boolean;
  /** In host memory. */
  readonly offloaded?: boolean;
}

/** Tokens that share a scale in a quantised cache: `MI_KV_BLOCK`. */
export const KV_BLOCK = 128;

/** A head's elements are a multiple of this in a quantised cache. */
export const FP8_HEAD = 16;

/** Tokens for which memory is taken where `tokens` are wanted. */
export function kvCapacity(tokens: number): number {
  // Whole blocks, and slack so that decoding does not copy the cache for every token.
  return Math.ceil((tokens + Math.min(tokens >> 3, 4096)) / KV_BLOCK) * KV_BLOCK;
}

/** Bytes of keys and values of `tokens` tokens, whole blocks of them, with their scales. */
export function kvBytes(shape: KvShape, tokens: number): number {
  const { layers, kvHeads, headDim, dtype, quantised } = shape;
  const heads = 2 * layers * kvHeads;
  const scales = quantised ? byteLength("f32", heads * tokens / KV_BLOCK) : 0;
  return byteLength(quantised ? "e4m3" : dtype, heads * headDim * tokens) + scales;
}

/**
 * Whether a cache at this place is apart from the device's memory: the CPU backend's is the host's own.
 *
 * @throws {MInferenceError} `INVALID_ARGUMENT` for another place.
 */
export function isOffloaded({ kind }: { readonly kind: DeviceKind }, place: KvPlace): boolean {
  return checkChoice("kvPlace", place, KV_PLACES) === "host" && kind !== "cpu";
}

/** Layers of a cache in host memory that are on the device: the one that is computed, and the next. */
export function windowLayers({ layers }: KvShape): number {
  return Math.min(2, layers);
}

/** Bytes of {@linkcode kvBytes} that are on the device, and those in host memory. */
export function kvBytesByPlace(shape: KvShape, tokens: number): Record<KvPlace, number> {
  const all = kvBytes(shape, tokens);
  if (!shape.offloaded) return { device: all, host: 0 };
  return { device: kvBytes({ ...shape, layers: windowLayers(shape) }, tokens), host: all };
}

/** Bytes of the ids that a cache holds beside them; see {@linkcode KvCache.ids}. */
export function idBytes(tokens: number): number {
  return byteLength("i32", tokens + 1);
}

/** Bytes of the unquantised keys and values that a pass over a prompt holds of one layer beside a cache. */
export function kvPassBytes(
  { kvHeads, headDim, dtype, quantised }: KvShape,
  tokens: number,
): number {
  return quantised ? byteLength(dtype, 2 * kvHeads * headDim * tokens) : 0;
}

/**
 * The shape of a cache of this type.
 *
 * @param dtype How it is stored.
 * @param usual {@linkcode usualKvDtype} of the device: what the attention of a prompt reads beside an fp8 cache.
 * @param offloaded Whether it is in host memory.
 * @throws {MInferenceError} `INVALID_ARGUMENT` for another type, `UNSUPPORTED` for heads that fp8 cannot hold.
 */
export function kvShape(
  { layers, kvHeads, headDim }: Pick<KvShape, "layers" | "kvHeads" | "headDim">,
  dtype: KvDType,
  usual: FloatDType,
  offloaded = false,
): KvShape {
  const size = { layers, kvHeads, headDim, offloaded };
  checkChoice("kvDtype", dtype, KV_DTYPES);
  if (dtype !== "fp8") return { ...size, dtype };
  if (headDim % FP8_HEAD !== 0) {
    throw new MInferenceError(
      "UNSUPPORTED",
      `an fp8 KV cache needs heads of a multiple of ${FP8_HEAD} elements, these have ${headDim}`,
      { details: { headDim } },
    );
  }
  return { ...size, dtype: usual, quantised: true };
}
