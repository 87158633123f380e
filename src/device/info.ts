/**
 * What a device is.
 *
 * @module
 */

/** Which backend a device is. */
export type DeviceKind = "cpu" | "cuda";

/** CPU instruction sets, weakest first. */
export type Isa = "portable" | "avx2" | "avx512" | "avx512_bf16";

/** Their codes in the C interface. */
export const ISA: Readonly<Record<Isa, number>> = {
  portable: 1,
  avx2: 2,
  avx512: 3,
  avx512_bf16: 4,
};

/** What a device is. */
export interface DeviceInfo {
  /** Backend. */
  readonly kind: DeviceKind;
  /** Marketing name. */
  readonly name: string;
  /** CPU threads, or multiprocessors. */
  readonly units: number;
  /** Instruction set in use, or kernel path (`sm_90`, `sm_80`). */
  readonly path: string;
  /** CUDA compute capability, e.g. `[9, 0]`; `[0, 0]` on the CPU. */
  readonly computeCapability: readonly [number, number];
  /** Memory of the device in bytes. */
  readonly totalMemory: number;
  /** Free memory in bytes. */
  readonly freeMemory: number;
  /** Bytes in tensors on this device. */
  readonly allocated: number;
  /** Most bytes in tensors on it so far. */
  readonly peak: number;
  /** Free memory of the host in bytes. */
  readonly hostFreeMemory: number;
  /** Bytes in tensors of this device in host memory. */
  readonly hostAllocated: number;
}

const INFO_BYTES = 208;

/** The struct that the library fills, `mi_device_info`. */
export function infoRequest(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(INFO_BYTES);
  new DataView(bytes.buffer).setUint32(0, INFO_BYTES, true);
  return bytes;
}

/** Reads that struct. */
export function decodeInfo(bytes: Uint8Array<ArrayBuffer>, kind: DeviceKind): DeviceInfo {
  const view = new DataView(bytes.buffer);
  const path = view.getInt32(24, true);
  const isa = Object.entries(ISA).find(([, code]) => code === path)?.[0] ?? "portable";
  return {
    kind,
    name: new TextDecoder().decode(bytes.subarray(64, bytes.indexOf(0, 64))),
    units: view.getInt32(12, true),
    path: kind === "cpu" ? isa : `sm_${path}`,
    computeCapability: [view.getInt32(16, true), view.getInt32(20, true)],
    totalMemory: Number(view.getBigUint64(32, true)),
    freeMemory: Number(view.getBigUint64(40, true)),
    allocated: Number(view.getBigUint64(48, true)),
    peak: Number(view.getBigUint64(56, true)),
    hostFreeMemory: Number(view.getBigUint64(192, true)),
    hostAllocated: Number(view.getBigUint64(200, true)),
  };
}
