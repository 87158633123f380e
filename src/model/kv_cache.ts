/**
 * Keys and values of every layer for the tokens held so far.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import { byteLength, type FloatDType } from "../device/dtype.ts";
import type { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import { MInferenceError } from "../native/errors.ts";
import { type LayerPass, quantisedPass, storedPass } from "./kv_pass.ts";

/** How a KV cache is stored: as floats, or as e4m3 with a scale per head and 128 tokens. */
export type KvDType = FloatDType | "fp8";

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
 * @param usual Element type where floats of 16 bits are wanted on this device.
 * @throws {MInferenceError} `INVALID_ARGUMENT` for another type, `UNSUPPORTED` for heads that fp8 cannot hold.
 */
export function kvShape(
  { layers, kvHeads, headDim }: Pick<KvShape, "layers" | "kvHeads" | "headDim">,
  dtype: KvDType,
  usual: FloatDType,
): KvShape {
  const size = { layers, kvHeads, headDim };
  if (dtype === "f32" || dtype === "f16" || dtype === "bf16") return { ...size, dtype };
  if (dtype !== "fp8") {
    throw new MInferenceError("INVALID_ARGUMENT", `no KV cache of ${dtype}: f32, f16, bf16 or fp8`);
  }
  if (headDim % FP8_HEAD !== 0) {
    throw new MInferenceError(
      "UNSUPPORTED",
      `an fp8 KV cache needs heads of a multiple of ${FP8_HEAD} elements, these have ${headDim}`,
      { details: { headDim } },
    );
  }
  return { ...size, dtype: usual, quantised: true };
}

/** One layer's memory. */
export interface LayerMemory {
  /** K of every head, then V: [2 kvHeads, capacity, headDim]. */
  readonly rows: Tensor;
  /** Of a quantised cache: f32 [2 kvHeads, capacity / 128]. */
  readonly scales?: Tensor;
}

function dispose({ rows, scales }: LayerMemory): void {
  rows.dispose();
  scales?.dispose();
}

/** Copies what `tokens` tokens have of one layer into memory of another capacity. */
function copyTokens(to: LayerMemory, from: LayerMemory, tokens: number): void {
  const copy = (dst: Tensor, src: Tensor, rows: number): void => {
    const [heads] = dst.shape;
    const bytes = src.byteLength / src.length * (src.shape[2] ?? 1) * rows;
    for (let head = 0; head < heads; head++) {
      const [at, start] = [dst, src].map((tensor) => tensor.byteLength / heads * head);
      dst.device.copy(dst, at, src, start, bytes);
    }
  };
  copy(to.rows, from.rows, tokens);
  if (to.scales && from.scales) copy(to.scales, from.scales, Math.ceil(tokens / KV_BLOCK));
}

/** K and V of every layer, and the ids of the tokens. Grows on demand. */
export class KvCache implements Disposable {
  #layers: LayerMemory[] = [];
  #ids?: Tensor;
  /**
   * Tokens of the first prompt: fixes the frequencies of rotary embeddings that depend on the length
   * (dynamic, LongRoPE), since keys rotated otherwise could not be compared with later queries.
   */
  ropeLength = 0;

  /** An empty cache; nothing is allocated before {@linkcode KvCache.reserve}. */
  constructor(readonly device: Device, readonly shape: KvShape) {}

  /** Tokens it can hold without growing. */
  get capacity(): number {
    if (this.#layers.length < this.shape.layers) return 0;
    return Math.min(...this.#layers.map(({ rows }) => rows.shape[1]));
  }

  /**
   * i32 [capacity + 1], the ids of the tokens: written by who adds tokens, before their keys. One more than
   * the capacity: a token is drawn into its place before it is clear that its keys are wanted.
   *
   * @throws {MInferenceError} `INVALID_ARGUMENT` before room is made.
   */
  get ids(): Tensor {
    if (!this.#ids) {
      throw new MInferenceError("INVALID_ARGUMENT", "the cache has room for no token");
    }
    return this.#ids;
  }

  /** Bytes held. */
  get byteLength(): number {
    return this.#layers.reduce(
      (sum, { rows, scales }) => sum + rows.byteLength + (scales?.byteLength ?? 0),
      this.#ids?.byteLength ?? 0,
    );
  }

  /**
   * Makes room for `tokens` tokens and keeps the first `keep`. Grows layer by layer: the old memory of one
   * layer is all that it takes beside the new.
   *
   * @throws {MInferenceError} `OUT_OF_MEMORY`; the cache then still holds the tokens to keep, and its capacity.
   */
  reserve(tokens: number, keep: number): void {
    if (tokens <= this.capacity) return;
    const capacity = kvCapacity(tokens);
    if (keep === 0) this[Symbol.dispose]();
    try {
      this.#growIds(capacity + 1, keep);
      for (let layer = 0; layer < this.shape.layers; layer++) {
        const old = this.#layers[layer];
        if (old && old.rows.shape[1] >= capacity) continue; // grown before a failure
        const grown = this.#allocate(capacity);
        if (old) {
          copyTokens(grown, old, keep);
          dispose(old);
        }
        this.#layers[layer] = grown;
      }
    } catch (error) {
      if (keep === 0) this[Symbol.dispose]();
      throw error;
    }
  }

  #growIds(length: number, keep: number): void {
    const old = this.#ids;
    if (old && old.length >= length) return;
    const grown = this.device.tensor([length], { dtype: "i32" });
    if (old) {
      this.device.copy(grown, 0, old, 0, keep * 4);
      old.dispose();
    }
    this.#ids = grown;
  }

  #allocate(capacity: number): LayerMemory {
    const { kvHeads, headDim, dtype, quantised } = this.shape;
    const { device } = this;
    const shape = [2 * kvHeads, capacity, headDim];
    if (!quantised) return { rows: device.tensor(shape, { dtype }) };
    const rows = device.tensor(shape, { dtype: "e4m3" });
    try {
      return { rows, scales: device.tensor([2 * kvHeads, capacity / KV_BLOCK]) };
    } catch (error) {
      rows.dispose();
      throw error;
    }
  }

  /**
   * Begins a pass over a layer.
   *
   * @param layer Which.
   * @param position Tokens held before those of the pass.
   * @param rows Tokens of the pass, for which there is room.
   * @param scratch Holds the layer's unquantised keys and values until the next pass.
   */
  pass(layer: number, position: number, rows: number, scratch: Scratch): LayerPass {
    const { shape } = this;
    const memory = this.#layers[layer];
    return shape.quantised
      ? quantisedPass(scratch, shape, memory, position, rows)
      : storedPass(shape, memory, position);
  }

  /**
   * From which token on to compute anew so that `tokens` tokens are held as if none had followed: in a
   * quantised cache those that followed may have raised the scale of the last block.
   */
  resumeAt(tokens: number): number {
    return this.shape.quantised ? tokens - tokens % KV_BLOCK : tokens;
  }

  /** A cache of its own with the first `tokens` tokens. */
  clone(tokens: number): KvCache {
    const copy = new KvCache(this.device, this.shape);
    copy.ropeLength = this.ropeLength;
    copy.reserve(tokens, 0);
    if (tokens > 0) {
      this.device.copy(copy.ids, 0, this.ids, 0, tokens * 4);
      copy.#layers.forEach((to, layer) => copyTokens(to, this.#layers[layer], tokens));
    }
    return copy;
  }

  /** Frees the memory. */
  [Symbol.dispose](): void {
    this.#layers.forEach(dispose);
    this.#layers = [];
    this.#ids?.dispose();
    this.#ids = undefined;
  }
}
