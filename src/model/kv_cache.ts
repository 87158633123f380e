/**
 * Keys and values of every layer for the tokens held so far.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import type { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import { MInferenceError } from "../native/errors.ts";
import { allocateLayer, copyTokens, freeLayer, layerBytes, type LayerMemory } from "./kv_layer.ts";
import { type LayerPass, quantisedPass, storedPass } from "./kv_pass.ts";
import { KV_BLOCK, kvCapacity, type KvPlace, type KvShape } from "./kv_shape.ts";
import { KvWindow } from "./kv_window.ts";

/** K and V of every layer, and the ids of the tokens. Grows on demand. */
export class KvCache implements Disposable {
  #layers: LayerMemory[] = [];
  readonly #window?: KvWindow; // where the layers are in host memory
  #ids?: Tensor;
  /**
   * Tokens of the first prompt: fixes the frequencies of rotary embeddings that depend on the length
   * (dynamic, LongRoPE), since keys rotated otherwise could not be compared with later queries.
   */
  ropeLength = 0;

  /** An empty cache; nothing is allocated before {@linkcode KvCache.reserve}. */
  constructor(readonly device: Device, readonly shape: KvShape) {
    if (shape.offloaded) this.#window = new KvWindow(device, shape);
  }

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

  /** Bytes held on the device and in host memory. */
  get bytes(): Readonly<Record<KvPlace, number>> {
    const layers = this.#layers.reduce((sum, layer) => sum + layerBytes(layer), 0);
    const ids = this.#ids?.byteLength ?? 0;
    return this.#window
      ? { device: this.#window.byteLength + ids, host: layers }
      : { device: layers + ids, host: 0 };
  }

  /**
   * Makes room for `tokens` tokens and keeps the first `keep`. Grows layer by layer: the old memory of one
   * layer is all that it takes beside the new.
   *
   * @param signal Stops it between layers: locking host memory takes its time.
   * @throws {MInferenceError} `OUT_OF_MEMORY`; the cache then still holds the tokens to keep, and its capacity.
   */
  async reserve(tokens: number, keep: number, signal?: AbortSignal): Promise<void> {
    const held = this.capacity;
    if (tokens <= held) {
      if (held > 0) await this.#window?.reserve(held); // it may have been lost in a failure
      return;
    }
    const capacity = kvCapacity(tokens);
    const place = this.shape.offloaded ? "host" : "device";
    if (keep === 0) this[Symbol.dispose]();
    try {
      await this.#growIds(capacity + 1, keep);
      for (let layer = 0; layer < this.shape.layers; layer++) {
        const old = this.#layers[layer];
        if (old && old.rows.shape[1] >= capacity) continue; // grown before a failure
        signal?.throwIfAborted();
        const grown = await allocateLayer(this.device, this.shape, capacity, place);
        if (old) {
          await this.#copied(() => copyTokens(grown, old, 0, keep), () => freeLayer(grown));
          freeLayer(old);
        }
        this.#layers[layer] = grown;
      }
      await this.#window?.reserve(capacity);
    } catch (error) {
      if (keep === 0) this[Symbol.dispose]();
      throw error;
    }
  }

  async #growIds(length: number, keep: number): Promise<void> {
    const old = this.#ids;
    if (old && old.length >= length) return;
    const grown = this.device.tensor([length], { dtype: "i32" });
    if (old) {
      const copy = (): void => this.device.copy(grown, 0, old, 0, keep * 4);
      await this.#copied(copy, () => grown.dispose());
      old.dispose();
    }
    this.#ids = grown;
  }

  /** Waits until what `copy` queues is done: whoever cancels the device later must not drop what was held. */
  async #copied(copy: () => void, undo: () => void): Promise<void> {
    const since = this.device.cancellations;
    try {
      copy();
      await this.device.sync();
      this.device.checkUncancelled(since);
    } catch (error) {
      undo();
      throw error;
    }
  }

  /**
   * Begins a pass over a layer. A pass goes through all of them in order.
   *
   * @param layer Which.
   * @param position Tokens held before those of the pass.
   * @param rows Tokens of the pass, for which there is room.
   * @param scratch Holds the layer's unquantised keys and values until the next pass.
   */
  pass(layer: number, position: number, rows: number, scratch: Scratch): LayerPass {
    const window = this.#window;
    const layers = this.#layers;
    const memory = window?.enter(layers, layer, position) ?? layers[layer];
    const pass = this.shape.quantised
      ? quantisedPass(scratch, this.shape, memory, position, rows)
      : storedPass(this.shape, memory, position);
    const leave = (): void => window?.leave(layers, layer, position, position + rows);
    return { ...pass, leave };
  }

  /**
   * From which token on to compute anew so that `tokens` tokens are held as if none had followed: in a
   * quantised cache those that followed may have raised the scale of the last block.
   */
  resumeAt(tokens: number): number {
    return this.shape.quantised ? tokens - tokens % KV_BLOCK : tokens;
  }

  /** A cache of its own with the first `tokens` tokens. */
  async clone(tokens: number): Promise<KvCache> {
    using owned = new DisposableStack();
    const copy = owned.use(new KvCache(this.device, this.shape));
    copy.ropeLength = this.ropeLength;
    await copy.reserve(tokens, 0);
    if (tokens > 0) {
      this.device.copy(copy.ids, 0, this.ids, 0, tokens * 4);
      copy.#layers.forEach((to, layer) => copyTokens(to, this.#layers[layer], 0, tokens));
    }
    owned.move();
    return copy;
  }

  /** Frees the memory. */
  [Symbol.dispose](): void {
    this.#layers.forEach(freeLayer);
    this.#layers = [];
    this.#window?.[Symbol.dispose]();
    this.#ids?.dispose();
    this.#ids = undefined;
  }
}
