/**
 * A typed block of device memory.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";
import type { Ref, View } from "../native/structs.ts";
import { byteLength, type DType, FORMAT, fromBf16, toBf16 } from "./dtype.ts";
import type { Device } from "./device.ts";

/** Host arrays accepted where data is uploaded. `Float32Array` is converted to f16 and bf16. */
export type HostArray =
  | Float32Array<ArrayBuffer>
  | Float16Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>;

/** Where a {@linkcode Tensor.view} starts and how it strides, in elements. */
export interface ViewOptions {
  /** First element. Default 0. */
  offset?: number;
  /** Elements between rows. Default the last dimension. */
  rowStride?: number;
  /** Elements between heads. Default the last two dimensions' product. */
  headStride?: number;
}

/** Host bytes of `data` as the tensor stores them. */
function encode(dtype: DType, data: HostArray): Uint8Array<ArrayBuffer> {
  let stored: HostArray = data;
  if (data instanceof Float32Array && dtype === "bf16") stored = toBf16(data);
  else if (data instanceof Float32Array && dtype === "f16") stored = new Float16Array(data);
  const fits = {
    f32: stored instanceof Float32Array,
    f16: stored instanceof Float16Array || stored instanceof Uint16Array,
    bf16: stored instanceof Uint16Array,
    i32: stored instanceof Int32Array,
    u32: stored instanceof Uint32Array,
  }[dtype as string] ?? stored instanceof Uint8Array;
  if (!fits) {
    throw new MInferenceError(
      "INVALID_ARGUMENT",
      `${data.constructor.name} cannot fill a ${dtype} tensor`,
      { details: { dtype, array: data.constructor.name } },
    );
  }
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
}

/**
 * A tensor on a {@linkcode Device}, row-major. `using` frees it; a finalizer is only the backstop.
 * Made by {@linkcode Device.tensor}.
 *
 * @example
 * ```ts ignore
 * using t = device.tensor([2, 3], { dtype: "bf16", data: new Float32Array(6) });
 * const values = await t.read();
 * ```
 */
export class Tensor implements Disposable {
  /** Bytes. */
  readonly byteLength: number;
  /** Elements. */
  readonly length: number;
  #handle: bigint;

  /** @ignore Use {@linkcode Device.tensor}. */
  constructor(
    /** Where it lives. */
    readonly device: Device,
    /** Dimensions, outermost first. */
    readonly shape: readonly number[],
    /** Element type. */
    readonly dtype: DType,
    handle: bigint,
  ) {
    this.#handle = handle;
    this.length = shape.reduce((a, b) => a * b, 1);
    this.byteLength = byteLength(dtype, this.length);
  }

  /** Buffer handle for the native calls. */
  get handle(): bigint {
    if (this.#handle === 0n) {
      throw new MInferenceError("DISPOSED", `tensor [${this.shape}] ${this.dtype} was disposed`);
    }
    return this.#handle;
  }

  /** True after disposal. */
  get disposed(): boolean {
    return this.#handle === 0n;
  }

  /** Contiguous elements from `offset` on, for parameter structs. */
  ref(offset = 0): Ref {
    return { buffer: this.handle, offset: byteLength(this.dtype, offset) };
  }

  /** Strided view [heads, rows, dim], for parameter structs. */
  view(options: ViewOptions = {}): View {
    const dim = this.shape[this.shape.length - 1] ?? 1;
    const rows = this.shape[this.shape.length - 2] ?? 1;
    return {
      buffer: this.handle,
      offset: byteLength(this.dtype, options.offset ?? 0),
      rowStride: options.rowStride ?? dim,
      headStride: options.headStride ?? rows * dim,
      dtype: FORMAT[this.dtype].code,
    };
  }

  /**
   * Copies host data in, after the work queued so far.
   *
   * @param data Elements; `Float32Array` is converted to f16 and bf16 (bf16 also takes raw bits as `Uint16Array`).
   * @param offset First element to overwrite. Default 0.
   * @throws {MInferenceError} `SHAPE` if the data does not fit, `INVALID_ARGUMENT` on another type.
   */
  async write(data: HostArray, offset = 0): Promise<void> {
    const bytes = this.#encode(data, offset);
    await this.device.writeBytes(this.handle, byteLength(this.dtype, offset), bytes);
  }

  /** As {@linkcode Tensor.write}, but waits in place: for a few bytes on an idle device. */
  writeNow(data: HostArray, offset = 0): void {
    const bytes = this.#encode(data, offset);
    this.device.writeBytesNow(this.handle, byteLength(this.dtype, offset), bytes);
  }

  /**
   * As {@linkcode Tensor.writeNow}, for all of the tensor.
   *
   * @throws {MInferenceError} `SHAPE` if the data is longer or shorter.
   */
  fillNow(data: HostArray): void {
    const bytes = encode(this.dtype, data);
    if (bytes.byteLength !== this.byteLength) {
      throw new MInferenceError(
        "SHAPE",
        `${bytes.byteLength} bytes given for tensor [${this.shape}] ${this.dtype} of ${this.byteLength} bytes`,
        { details: { given: bytes.byteLength, wanted: this.byteLength, shape: this.shape } },
      );
    }
    this.device.writeBytesNow(this.handle, 0, bytes);
  }

  #encode(data: HostArray, offset: number): Uint8Array<ArrayBuffer> {
    const bytes = encode(this.dtype, data);
    const start = byteLength(this.dtype, offset);
    if (offset < 0 || start + bytes.byteLength > this.byteLength) {
      throw new MInferenceError(
        "SHAPE",
        `${bytes.byteLength} bytes at element ${offset} do not fit tensor [${this.shape}] ` +
          `${this.dtype} of ${this.byteLength} bytes`,
        { details: { bytes: bytes.byteLength, offset, shape: this.shape, dtype: this.dtype } },
      );
    }
    return bytes;
  }

  /**
   * Copies stored bytes to the host, after the work queued so far.
   *
   * @param offset First element. Default 0.
   * @param length Elements. Default the rest.
   */
  async readBytes(
    offset = 0,
    length: number = this.length - offset,
  ): Promise<Uint8Array<ArrayBuffer>> {
    if (offset < 0 || length < 0 || offset + length > this.length) {
      throw new MInferenceError(
        "SHAPE",
        `elements ${offset}..${offset + length} are not in tensor [${this.shape}]`,
        { details: { offset, length, shape: this.shape } },
      );
    }
    const out = new Uint8Array(byteLength(this.dtype, length));
    await this.device.readBytes(this.handle, byteLength(this.dtype, offset), out);
    return out;
  }

  /**
   * Copies elements to the host as f32, after the work queued so far. f16 and bf16 convert exactly.
   *
   * @param offset First element. Default 0.
   * @param length Elements. Default the rest.
   * @throws {MInferenceError} `UNSUPPORTED` for quantised tensors.
   */
  async read(
    offset = 0,
    length: number = this.length - offset,
  ): Promise<Float32Array<ArrayBuffer>> {
    if (FORMAT[this.dtype].elements > 1 || this.dtype === "e4m3") {
      throw new MInferenceError("UNSUPPORTED", `a ${this.dtype} tensor cannot be read as f32`);
    }
    const { buffer } = await this.readBytes(offset, length);
    switch (this.dtype) {
      case "f16":
        return Float32Array.from(new Float16Array(buffer));
      case "bf16":
        return fromBf16(new Uint16Array(buffer));
      case "i32":
        return Float32Array.from(new Int32Array(buffer));
      case "u32":
        return Float32Array.from(new Uint32Array(buffer));
      case "u8":
        return Float32Array.from(new Uint8Array(buffer));
      default:
        return new Float32Array(buffer);
    }
  }

  /** Frees the memory once the work queued so far is done. Idempotent. */
  dispose(): void {
    if (this.#handle === 0n) return;
    this.device.free(this, this.#handle);
    this.#handle = 0n;
  }

  /** Same as {@linkcode Tensor.dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
