/**
 * A cache in host memory, seen from the device two layers at a time.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import { allocateLayer, copyTokens, freeLayer, layerBytes, type LayerMemory } from "./kv_layer.ts";
import { type KvShape, windowLayers } from "./kv_shape.ts";

/**
 * Memory on the device for the layer that is computed and for the one after it, which is brought there meanwhile. The
 * copies run beside the queue: what touches a layer's memory waits for them, and nothing else.
 */
export class KvWindow implements Disposable {
  #slots: LayerMemory[] = [];

  /** Nothing is allocated before {@linkcode KvWindow.reserve}. */
  constructor(readonly device: Device, readonly shape: KvShape) {}

  /** Bytes held. */
  get byteLength(): number {
    return this.#slots.reduce((sum, slot) => sum + layerBytes(slot), 0);
  }

  /**
   * Makes room for layers of `capacity` tokens. What it shows is lost.
   *
   * @throws {MInferenceError} `OUT_OF_MEMORY`; the next call tries again.
   */
  async reserve(capacity: number): Promise<void> {
    const { device, shape } = this;
    const slots = windowLayers(shape);
    if (this.#slots.length === slots && this.#slots[0].rows.shape[1] >= capacity) return;
    this[Symbol.dispose]();
    while (this.#slots.length < slots) {
      this.#slots.push(await allocateLayer(device, shape, capacity, "device"));
    }
  }

  /**
   * Shows a layer, with its first `tokens` tokens, and begins to bring the next. A pass enters every layer, in order.
   *
   * @param layers In host memory.
   */
  enter(layers: readonly LayerMemory[], layer: number, tokens: number): LayerMemory {
    if (layer === 0) this.#fetch(layers, 0, tokens);
    this.#fetch(layers, layer + 1, tokens);
    return this.#slot(layer);
  }

  /** Keeps what tokens [first, end) have now of a layer. To be called behind its attention, which would have to wait. */
  leave(layers: readonly LayerMemory[], layer: number, first: number, end: number): void {
    copyTokens(layers[layer], this.#slot(layer), first, end);
  }

  #slot(layer: number): LayerMemory {
    return this.#slots[layer % this.#slots.length];
  }

  #fetch(layers: readonly LayerMemory[], layer: number, tokens: number): void {
    if (layer >= layers.length || tokens === 0) return;
    copyTokens(this.#slot(layer), layers[layer], 0, tokens);
  }

  /** Frees the memory. */
  [Symbol.dispose](): void {
    this.#slots.forEach(freeLayer);
    this.#slots = [];
  }
}
