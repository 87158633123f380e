/**
 * Keys and values of every layer for the tokens held so far.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import { byteLength, type FloatDType } from "../device/dtype.ts";
import type { Tensor } from "../device/tensor.ts";
import type { View } from "../native/structs.ts";

/** Shape of a cache. */
export interface KvShape {
  /** Decoder layers. */
  readonly layers: number;
  /** Key/value heads. */
  readonly kvHeads: number;
  /** Elements of a head. */
  readonly headDim: number;
  /** Element type. */
  readonly dtype: FloatDType;
}

/** Tokens for which memory is taken where `tokens` are wanted. */
export function kvCapacity(tokens: number): number {
  // Whole tiles, and slack so that decoding does not copy the cache for every token.
  return Math.ceil((tokens + Math.min(tokens >> 3, 4096)) / 64) * 64;
}

/** Bytes of keys and values of `tokens` tokens. */
export function kvBytes(shape: KvShape, tokens: number): number {
  return 2 * shape.layers * byteLength(shape.dtype, shape.kvHeads * shape.headDim * tokens);
}

/** Per layer K and V, each [kvHeads, capacity, headDim]. Grows on demand. */
export class KvCache implements Disposable {
  #keys: Tensor[] = [];
  #values: Tensor[] = [];
  #capacity = 0;
  /**
   * Tokens of the first prompt: fixes the frequencies of rotary embeddings that depend on the length
   * (dynamic, LongRoPE), since keys rotated otherwise could not be compared with later queries.
   */
  ropeLength = 0;

  /** An empty cache; nothing is allocated before {@linkcode KvCache.reserve}. */
  constructor(readonly device: Device, readonly shape: KvShape) {}

  /** Tokens it can hold without growing. */
  get capacity(): number {
    return this.#capacity;
  }

  /**
   * Makes room for `tokens` tokens and keeps the first `keep`.
   *
   * The old memory lives until the new is complete, so a failure loses nothing.
   *
   * @throws {MInferenceError} `OUT_OF_MEMORY`; the cache then still holds what it held.
   */
  reserve(tokens: number, keep: number): void {
    if (tokens <= this.#capacity) return;
    const capacity = kvCapacity(tokens);
    const { layers } = this.shape;
    const keys: Tensor[] = [];
    const values: Tensor[] = [];
    try {
      for (let layer = 0; layer < layers; layer++) {
        keys.push(this.#grown(this.#keys[layer], capacity, keep));
        values.push(this.#grown(this.#values[layer], capacity, keep));
      }
    } catch (error) {
      for (const tensor of [...keys, ...values]) tensor.dispose();
      throw error;
    }
    this[Symbol.dispose]();
    this.#keys = keys;
    this.#values = values;
    this.#capacity = capacity;
  }

  #grown(old: Tensor | undefined, capacity: number, keep: number): Tensor {
    const { kvHeads, headDim, dtype } = this.shape;
    const tensor = this.device.tensor([kvHeads, capacity, headDim], { dtype });
    if (old && keep > 0) copyHeads(tensor, capacity, old, this.#capacity, this.shape, keep);
    return tensor;
  }

  /** K of a layer from token `position` on, as [kvHeads, rows, headDim]. */
  keys(layer: number, position = 0): View {
    return this.#keys[layer].view({ offset: position * this.shape.headDim });
  }

  /** V of a layer from token `position` on. */
  values(layer: number, position = 0): View {
    return this.#values[layer].view({ offset: position * this.shape.headDim });
  }

  /** A cache of its own with the first `tokens` tokens. */
  clone(tokens: number): KvCache {
    const copy = new KvCache(this.device, this.shape);
    copy.ropeLength = this.ropeLength;
    copy.reserve(tokens, 0);
    for (let layer = 0; layer < this.shape.layers && tokens > 0; layer++) {
      const { shape, capacity } = copy;
      copyHeads(copy.#keys[layer], capacity, this.#keys[layer], this.#capacity, shape, tokens);
      copyHeads(copy.#values[layer], capacity, this.#values[layer], this.#capacity, shape, tokens);
    }
    return copy;
  }

  /** Frees the memory. */
  [Symbol.dispose](): void {
    for (const tensor of [...this.#keys, ...this.#values]) tensor.dispose();
    this.#keys = [];
    this.#values = [];
    this.#capacity = 0;
  }
}

function copyHeads(
  dst: Tensor,
  dstCapacity: number,
  src: Tensor,
  srcCapacity: number,
  shape: KvShape,
  tokens: number,
): void {
  const row = byteLength(shape.dtype, shape.headDim);
  for (let head = 0; head < shape.kvHeads; head++) {
    const from = head * srcCapacity * row;
    dst.device.copy(dst, head * dstCapacity * row, src, from, tokens * row);
  }
}
