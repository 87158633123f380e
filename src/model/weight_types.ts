/**
 * Weights as they are stored.
 *
 * @module
 */
import type { FloatDType, QuantisedDType } from "../device/dtype.ts";

/** Types in which a weight may be stored; the block formats are GGUF's. */
export type WeightDType = FloatDType | QuantisedDType;

/** Where a tensor's bytes lie. They are read by the native side, never by JavaScript. */
export interface TensorSource {
  /** The file. */
  readonly path: string;
  /** First byte. */
  readonly offset: number;
  /** Bytes in all. */
  readonly bytes: number;
  /** Element type. */
  readonly dtype: WeightDType;
  /** Dimensions, outermost first; the last one is contiguous. */
  readonly shape: readonly number[];
}
