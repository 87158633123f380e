/**
 * Named device buffers that grow and are reused.
 *
 * @module
 */
import type { Ref } from "../native/structs.ts";
import type { Device } from "./device.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Workspace for queued operations. The queue is in order, so a name may be reused by the next operation
 * while the last one still waits; a buffer that grows is kept alive by the work that uses it.
 */
export class Scratch implements Disposable {
  readonly #buffers = new Map<string, Tensor>();

  /** @param device Where the buffers live. */
  constructor(readonly device: Device) {}

  /** A buffer of at least `bytes` bytes, contents undefined. */
  buffer(name: string, bytes: number): Tensor {
    let buffer = this.#buffers.get(name);
    if (!buffer || buffer.byteLength < bytes) {
      buffer?.dispose();
      this.#buffers.delete(name); // an allocation that fails must not leave a disposed entry
      buffer = this.device.tensor([Math.max(bytes, 64)], { dtype: "u8" });
      this.#buffers.set(name, buffer);
    }
    return buffer;
  }

  /** As {@linkcode Scratch.buffer}, as an operand; absent for 0 bytes. */
  ref(name: string, bytes: number): Ref {
    return bytes === 0 ? ABSENT : this.buffer(name, bytes).ref();
  }

  /** Workspace of the next operation. */
  workspace(bytes: number): Workspace {
    return { workspace: this.ref("workspace", bytes), workspace_bytes: bytes };
  }

  /** Bytes held. */
  get byteLength(): number {
    let sum = 0;
    for (const buffer of this.#buffers.values()) sum += buffer.byteLength;
    return sum;
  }

  /** Frees every buffer. */
  [Symbol.dispose](): void {
    for (const buffer of this.#buffers.values()) buffer.dispose();
    this.#buffers.clear();
  }
}

/** An operand that is not given. */
export const ABSENT: Ref = { buffer: 0n, offset: 0 };

/** A view that is not given. */
export const ABSENT_VIEW = { ...ABSENT, headStride: 0, rowStride: 0, dtype: 0 };

/** The workspace fields of an operation. */
export interface Workspace {
  /** Where it is. */
  readonly workspace: Ref;
  /** Its bytes. */
  readonly workspace_bytes: number;
}

/** The workspace of an operation that is only planned. */
export const NO_WORKSPACE: Workspace = { workspace: ABSENT, workspace_bytes: 0 };
