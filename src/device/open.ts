/**
 * Which devices there are, and opening one.
 *
 * @module
 */
import { checkChoice, checkNumber, MOST_COUNT } from "../native/checks.ts";
import { environment } from "../native/environment.ts";
import { MInferenceError } from "../native/errors.ts";
import { type Native, openLibrary } from "../native/library.ts";
import { DEVICE_KIND, deviceOptions } from "../native/params.ts";
import { check, newError } from "../native/status.ts";
import { Device } from "./device.ts";
import { type DeviceKind, ISA, type Isa } from "./info.ts";

/** Options of {@linkcode openDevice}. */
export interface DeviceOptions {
  /** Backend. Default `MINFERENCE_DEVICE`, else `"auto"`: a GPU where there is one, else the CPU. */
  kind?: DeviceKind | "auto";
  /** CUDA ordinal. Default 0. */
  index?: number;
  /** CPU threads. Default `MINFERENCE_THREADS`, else one per core. */
  threads?: number;
  /** Path of libminference.so; else `MINFERENCE_LIB`, then the checkout's build folder, then the cache. */
  library?: string | URL;
  /** Most bytes of tensors this device may hold, those in host memory included. Default no limit. */
  memoryLimit?: number;
  /** Highest CPU instruction set to use. Default `MINFERENCE_ISA`, else what the CPU has. */
  isa?: Isa;
  /** Force the portable (sm_80) CUDA kernels. Default `MINFERENCE_SM80=1`. */
  portableKernels?: boolean;
  /** Accumulate time per operation for {@linkcode Device.timings}. Default false. */
  profile?: boolean;
}

/**
 * Number of devices of a kind: 1 for the CPU; for CUDA 0 where there is no driver, GPU or CUDA build.
 *
 * @param library As {@linkcode DeviceOptions.library}.
 */
export function deviceCount(kind: DeviceKind, library?: string | URL): number {
  const error = newError();
  checkChoice("kind", kind, ["cpu", "cuda"]);
  const count = openLibrary(library).mi_device_count(DEVICE_KIND[kind], error);
  return Math.max(0, count);
}

function chooseKind(native: Native, wanted: string, where: string): DeviceKind {
  if (wanted === "cpu" || wanted === "cuda") return wanted;
  if (wanted !== "auto") {
    throw new MInferenceError(
      "INVALID_ARGUMENT",
      `unknown device "${wanted}"${where}: cpu, cuda or auto`,
    );
  }
  return native.mi_device_count(DEVICE_KIND.cuda, newError()) > 0 ? "cuda" : "cpu";
}

/** Threads to start; 0 is one per core. */
function threadCount(given: number | undefined): number {
  const limits = { least: 1, most: 1024 };
  if (given !== undefined) return checkNumber("threads", given, limits);
  const text = environment("MINFERENCE_THREADS");
  return text === undefined ? 0 : checkNumber("MINFERENCE_THREADS", Number(text), limits);
}

/**
 * Opens a device.
 *
 * @param options Which one; by default a GPU where there is one, else the CPU.
 * @throws {MInferenceError} `LIBRARY_NOT_FOUND`, `LIBRARY_ABI_MISMATCH`, `PERMISSION`, `NO_DEVICE`,
 * `UNSUPPORTED_DEVICE` or, where Deno is too old, `UNSUPPORTED`, with what to do.
 *
 * @example
 * ```ts ignore
 * await using device = await openDevice({ kind: "cpu", threads: 2 });
 * console.log(device.info().name);
 * ```
 */
export async function openDevice(options: DeviceOptions = {}): Promise<Device> {
  const native = openLibrary(options.library);
  const fromEnvironment = environment("MINFERENCE_DEVICE");
  const kind = options.kind === undefined && fromEnvironment !== undefined
    ? chooseKind(native, fromEnvironment, " in MINFERENCE_DEVICE")
    : chooseKind(native, options.kind ?? "auto", "");
  const isaName = options.isa ?? environment("MINFERENCE_ISA");
  if (isaName && !(isaName in ISA)) {
    throw new MInferenceError(
      "INVALID_ARGUMENT",
      `unknown instruction set "${isaName}": ${Object.keys(ISA).join(", ")}`,
    );
  }
  const portable = options.portableKernels ?? environment("MINFERENCE_SM80") === "1";
  const cpuIsa = isaName ? ISA[isaName as Isa] : 0;
  const params = deviceOptions.encode({
    size: deviceOptions.size,
    kind: DEVICE_KIND[kind],
    index: checkNumber("index", options.index ?? 0, { most: MOST_COUNT }),
    threads: threadCount(options.threads),
    memory_limit: options.memoryLimit ?? 0,
    isa: kind === "cpu" ? cpuIsa : (portable ? 80 : 0),
    profile: options.profile ? 1 : 0,
  });
  const out = new BigUint64Array(1);
  const error = newError();
  const handle = new Uint8Array(out.buffer);
  check("open", await native.mi_device_open(params, handle, error), error);
  return new Device(native, out[0], kind);
}
