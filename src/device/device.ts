/**
 * A device: an in-order queue with its memory.
 *
 * @module
 */
import { environment } from "../native/environment.ts";
import { MInferenceError } from "../native/errors.ts";
import type { Native } from "../native/library.ts";
import { OP_COUNT, OP_NAMES } from "../native/params.ts";
import { check, newError } from "../native/status.ts";
import { byteLength, type DType } from "./dtype.ts";
import { decodeInfo, type DeviceInfo, type DeviceKind, infoRequest } from "./info.ts";
import { type HostArray, Tensor } from "./tensor.ts";
import { Turns } from "./turns.ts";

/** Common options of calls that wait. */
export interface CallOptions {
  /** Stops the work; the call then rejects with `signal.reason`. */
  signal?: AbortSignal;
}

/** Bytes an operation needs beside its operands. */
export interface Plan {
  /** Workspace in bytes. */
  readonly workspace: number;
  /** Work list in bytes (index operation alone). */
  readonly list: number;
}

/** What plans operations without running any: a device, or a stand-in where none is open. */
export type Planner = Pick<Device, "kind" | "plan">;

/** Counters of a device's queue. */
export interface QueueProgress {
  /** Operations submitted since the device was opened. */
  readonly submitted: number;
  /** Operations completed. */
  readonly completed: number;
}

/** Operations that wait to be submitted together, and the buffers to free once they are. */
interface Batch {
  readonly params: Uint8Array<ArrayBuffer>[];
  readonly freed: bigint[];
}

/**
 * A device: an in-order queue and its memory. Made by {@linkcode openDevice}.
 *
 * Operations are queued without waiting; {@linkcode Device.sync} waits. Calls that read or write tensors
 * take their turn in the queue.
 */
export class Device implements AsyncDisposable {
  readonly #native: Native;
  #handle: bigint;
  readonly #turns = new Turns();
  #batch: Batch | undefined;
  #cancellations = 0;
  // Tensors that were dropped without disposal. Holds the handles only, never the tensors.
  readonly #finalizer: FinalizationRegistry<bigint>;

  /** @ignore Use {@linkcode openDevice}. */
  constructor(
    native: Native,
    handle: bigint,
    /** Backend. */
    readonly kind: DeviceKind,
  ) {
    this.#native = native;
    this.#handle = handle;
    this.#finalizer = new FinalizationRegistry((buffer) => {
      if (environment("MINFERENCE_DEBUG")) console.error("minference: a tensor was not disposed");
      this.#free(buffer);
    });
  }

  /** True after disposal. */
  get disposed(): boolean {
    return this.#handle === 0n;
  }

  #checkOpen(): void {
    if (this.#handle === 0n) throw new MInferenceError("DISPOSED", "the device was closed");
  }

  get #open(): bigint {
    this.#checkOpen();
    return this.#handle;
  }

  #call(name: string, call: (device: bigint, error: Uint8Array<ArrayBuffer>) => number): void {
    const error = newError();
    check(name, call(this.#open, error), error);
  }

  async #wait(
    name: string,
    call: (device: bigint, error: Uint8Array<ArrayBuffer>) => Promise<number>,
  ): Promise<void> {
    const error = newError();
    const status = await call(this.#open, error);
    this.#checkOpen(); // closing meanwhile drops what was waited for
    check(name, status, error);
  }

  /** A snapshot of the device's properties. */
  info(): DeviceInfo {
    const bytes = infoRequest();
    this.#call("info", (device, error) => this.#native.mi_device_info_get(device, bytes, error));
    return decodeInfo(bytes, this.kind);
  }

  /**
   * Allocates a tensor.
   *
   * @param shape Dimensions, outermost first.
   * @param options `dtype` (default f32) and `data` to fill it with; without data the contents are undefined.
   * @throws {MInferenceError} `OUT_OF_MEMORY` with bytes wanted and available, `SHAPE` if the data does not fit.
   */
  tensor(shape: readonly number[], options: { dtype?: DType; data?: HostArray } = {}): Tensor {
    const { dtype = "f32", data } = options;
    const elements = elementsOf(shape);
    const bytes = BigInt(byteLength(dtype, elements));
    const out = new BigUint64Array(1);
    this.#call("allocate", (device, error) => {
      return this.#native.mi_alloc(device, bytes, new Uint8Array(out.buffer), error);
    });
    const tensor = this.#own(shape, dtype, out[0]);
    if (data) {
      try {
        tensor.fillNow(data);
      } catch (error) {
        tensor.dispose();
        throw error;
      }
    }
    return tensor;
  }

  /**
   * Allocates a tensor in host memory, page-locked for a GPU: {@linkcode Device.copy} alone takes it. Contents
   * undefined. Locking gigabytes takes seconds.
   *
   * @param shape Dimensions, outermost first.
   * @param options `dtype` (default f32).
   * @throws {MInferenceError} `OUT_OF_MEMORY` with bytes wanted and available.
   */
  async hostTensor(shape: readonly number[], options: { dtype?: DType } = {}): Promise<Tensor> {
    const { dtype = "f32" } = options;
    const bytes = BigInt(byteLength(dtype, elementsOf(shape)));
    const out = new BigUint64Array(1);
    await this.#wait("allocate", (device, error) => {
      return this.#native.mi_alloc_host(device, bytes, new Uint8Array(out.buffer), error);
    });
    return this.#own(shape, dtype, out[0]);
  }

  #own(shape: readonly number[], dtype: DType, buffer: bigint): Tensor {
    const tensor = new Tensor(this, shape, dtype, buffer);
    this.#finalizer.register(tensor, buffer, tensor);
    return tensor;
  }

  /** Queues an operation encoded by a struct of `native/params.ts`, or adds it to the batch being made. */
  submit(params: Uint8Array<ArrayBuffer>): void {
    if (this.#batch) {
      this.#batch.params.push(params);
      return;
    }
    this.#call("submit", (device, error) => this.#native.mi_submit(device, params, error));
  }

  /**
   * Queues what `body` submits in one go: a GPU runs it as one CUDA graph, which spares it the launch of each
   * operation. For steps of many short operations. Nothing is queued if `body` throws or an operation is refused.
   *
   * @param body Submits operations, and does not wait.
   */
  batch(body: () => void): void {
    const batch: Batch = { params: [], freed: [] };
    this.#batch = batch;
    try {
      body();
      const bytes = new Uint8Array(batch.params.reduce((sum, one) => sum + one.length, 0));
      let at = 0;
      for (const one of batch.params) {
        bytes.set(one, at);
        at += one.length;
      }
      this.#call("submit", (device, error) => {
        return this.#native.mi_submit_batch(device, bytes, BigInt(bytes.length), error);
      });
    } finally {
      this.#batch = undefined;
      for (const buffer of batch.freed) this.#free(buffer);
    }
  }

  /** Bytes that an operation needs beside its operands; only shapes and dtypes of `params` count. */
  plan(params: Uint8Array<ArrayBuffer>): Plan {
    const out = new BigUint64Array(2);
    const bytes = new Uint8Array(out.buffer);
    this.#call("plan", (device, error) => this.#native.mi_plan(device, params, bytes, error));
    return { workspace: Number(out[0]), list: Number(out[1]) };
  }

  /**
   * Queues a copy of `bytes` bytes between two tensors. Offsets in bytes. Between host and device memory a GPU runs
   * it beside what is queued after it; what touches the tensor on the device waits until it is done.
   */
  copy(dst: Tensor, dstOffset: number, src: Tensor, srcOffset: number, bytes: number): void {
    this.#call("copy", (device, error) =>
      this.#native.mi_copy(
        device,
        dst.handle,
        BigInt(dstOffset),
        src.handle,
        BigInt(srcOffset),
        BigInt(bytes),
        error,
      ));
  }

  /**
   * Waits for all queued work.
   *
   * @throws `signal.reason` on abort (queued work is dropped, the device stays usable), or the first failure.
   */
  async sync(options: CallOptions = {}): Promise<void> {
    const { signal } = options;
    const cancel = (): void => {
      if (!this.disposed) this.cancel();
    };
    if (signal?.aborted) cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    const error = newError();
    try {
      const status = await this.#native.mi_sync(this.#open, error);
      signal?.throwIfAborted();
      this.#checkOpen(); // closing meanwhile drops what was queued
      check("sync", status, error);
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  /** Drops queued work and stops the running operation at its next tile. */
  cancel(): void {
    this.#cancellations++;
    this.#call("cancel", (device, error) => this.#native.mi_cancel(device, error));
  }

  /** How often queued work was dropped: what was queued before a change of this cannot be counted on. */
  get cancellations(): number {
    return this.#cancellations;
  }

  /**
   * Makes sure that what was queued has run.
   *
   * @param since {@linkcode Device.cancellations} before it was queued.
   * @throws {MInferenceError} `CANCELLED` if somebody cancelled the device since.
   */
  checkUncancelled(since: number): void {
    if (since === this.#cancellations) return;
    throw new MInferenceError("CANCELLED", "queued work was dropped: the device was cancelled");
  }

  /** Counters of the queue. */
  progress(): QueueProgress {
    const out = new BigUint64Array(4);
    const bytes = new Uint8Array(out.buffer);
    this.#call("progress", (device, error) => this.#native.mi_progress(device, bytes, error));
    return { submitted: Number(out[0]), completed: Number(out[1]) };
  }

  /** Turns {@linkcode Device.timings} on or off for what runs from now on. */
  profile(on: boolean): void {
    this.#call("profile", (device, error) => this.#native.mi_profile(device, on ? 1 : 0, error));
  }

  /** Milliseconds per operation since the last call, by name. Needs profiling. */
  timings(): Record<string, number> {
    const out = new BigUint64Array(OP_COUNT);
    const bytes = new Uint8Array(out.buffer);
    this.#call("timings", (device, error) => this.#native.mi_timings(device, bytes, error));
    const milliseconds: Record<string, number> = {};
    out.forEach((nanoseconds, op) => {
      const name = OP_NAMES[op];
      if (nanoseconds) milliseconds[name] = (milliseconds[name] ?? 0) + Number(nanoseconds) / 1e6;
    });
    return milliseconds;
  }

  /**
   * Runs `body` when no other exclusive body runs, in call order: sessions that share a device queue here.
   *
   * @throws `signal.reason` on an abort while others run; once it runs, `body` itself sees to the signal.
   */
  exclusive<T>(body: () => Promise<T>, { signal }: CallOptions = {}): Promise<T> {
    return this.#turns.take(body, signal);
  }

  /**
   * Streams a range of a file into a tensor, natively.
   *
   * @param tensor Destination.
   * @param offset First byte to overwrite.
   * @param path File.
   * @param fileOffset First byte to read.
   * @param bytes Bytes to read.
   * @throws {MInferenceError} `IO` with the system's reason.
   */
  load(
    tensor: Tensor,
    offset: number,
    path: string,
    fileOffset: number,
    bytes: number,
  ): Promise<void> {
    const name = new TextEncoder().encode(path + "\0");
    return this.#wait("load", (device, error) =>
      this.#native.mi_load(
        device,
        tensor.handle,
        BigInt(offset),
        name,
        BigInt(fileOffset),
        BigInt(bytes),
        error,
      ));
  }

  /** @ignore Used by {@linkcode Tensor.write}. */
  writeBytes(buffer: bigint, offset: number, data: Uint8Array<ArrayBuffer>): Promise<void> {
    return this.#wait(
      "write",
      (device, error) =>
        this.#native.mi_write(device, buffer, BigInt(offset), data, BigInt(data.length), error),
    );
  }

  /** @ignore Used by {@linkcode Tensor.writeNow}. */
  writeBytesNow(buffer: bigint, offset: number, data: Uint8Array<ArrayBuffer>): void {
    this.#call("write", (device, error) => {
      const bytes = BigInt(data.length);
      return this.#native.mi_write_now(device, buffer, BigInt(offset), data, bytes, error);
    });
  }

  /** @ignore Used by {@linkcode Tensor.readBytes}. */
  readBytes(buffer: bigint, offset: number, out: Uint8Array<ArrayBuffer>): Promise<void> {
    return this.#wait(
      "read",
      (device, error) =>
        this.#native.mi_read(device, buffer, BigInt(offset), out, BigInt(out.length), error),
    );
  }

  /**
   * Reads a few bytes; the read has taken its place in the queue when this returns its promise, and what is queued
   * behind it does not wait for the host.
   *
   * @param tensor Source.
   * @param offset First byte.
   * @param bytes Bytes, at most 4096 (`MI_QUEUED_READ`).
   */
  readQueued(tensor: Tensor, offset: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    const read = new BigUint64Array(1);
    this.#call("read", (device, error) => {
      const [at, length] = [BigInt(offset), BigInt(bytes)];
      const out = new Uint8Array(read.buffer);
      return this.#native.mi_read_start(device, tensor.handle, at, length, out, error);
    });
    const data = new Uint8Array(bytes);
    return this.#wait("read", (device, error) => {
      return this.#native.mi_read_finish(device, read[0], data, error);
    }).then(() => data);
  }

  /** @ignore Used by {@linkcode Tensor.dispose}. */
  free(tensor: Tensor, buffer: bigint): void {
    this.#finalizer.unregister(tensor);
    // Operations of a batch hold their buffers once it is queued.
    if (this.#batch) this.#batch.freed.push(buffer);
    else this.#free(buffer);
  }

  #free(buffer: bigint): void {
    // After the device is gone, so is its memory.
    if (this.#handle !== 0n) this.#native.mi_free(this.#handle, buffer, newError());
  }

  /** Cancels what is queued, waits for what runs, frees every tensor. Idempotent. */
  async dispose(): Promise<void> {
    const handle = this.#handle;
    if (handle === 0n) return;
    this.#handle = 0n;
    const error = newError();
    check("close", await this.#native.mi_device_close(handle, error), error);
  }

  /** Same as {@linkcode Device.dispose}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** Product of dimensions that make sense. */
function elementsOf(shape: readonly number[]): number {
  if (shape.length === 0 || !shape.every((n) => Number.isSafeInteger(n) && n > 0)) {
    throw new MInferenceError("SHAPE", `dimensions must be positive integers, got [${shape}]`, {
      details: { shape },
    });
  }
  return shape.reduce((a, b) => a * b, 1);
}
