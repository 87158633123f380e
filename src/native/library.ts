/**
 * Finds and opens libminference.so. The only place that calls `Deno.dlopen`.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import meta from "../../deno.json" with { type: "json" };
import { environment } from "./environment.ts";
import { MInferenceError } from "./errors.ts";
import { ABI_VERSION } from "./params.ts";
import { checkDeno } from "./runtime.ts";
import { symbols } from "./symbols.ts";

/** The opened library's functions. */
export type Native = Deno.DynamicLibrary<typeof symbols>["symbols"];

/** Folder that `minference build` writes to outside a checkout, or undefined without HOME. */
export function cacheFolder(): string | undefined {
  const home = environment("HOME");
  const base = environment("XDG_CACHE_HOME") ?? (home && join(home, ".cache"));
  return base && join(base, "minference", meta.version);
}

/** Paths that {@linkcode openLibrary} tries, in order. An explicit one stands alone. */
export function libraryPaths(explicit?: string | URL): string[] {
  if (explicit !== undefined) {
    return [explicit instanceof URL ? fileURLToPath(explicit) : explicit];
  }
  const fromEnvironment = environment("MINFERENCE_LIB");
  if (fromEnvironment) return [fromEnvironment];
  const paths: string[] = [];
  if (import.meta.url.startsWith("file:")) {
    paths.push(fileURLToPath(new URL("../../build/libminference.so", import.meta.url)));
  }
  const cache = cacheFolder();
  if (cache) paths.push(join(cache, "libminference.so"));
  return paths;
}

// Never closed: a call on a closed library is a crash, and an open one costs nothing.
const opened = new Map<string, Native>();

const HOW_TO_BUILD = "build it with `deno task build` in a checkout, or " +
  "`deno run -A jsr:@minference/minference/build`, or name one with MINFERENCE_LIB";

function checkVersion(path: string): void {
  const { mi_abi_version } = symbols;
  let found: number;
  let probe;
  try {
    probe = Deno.dlopen(path, { mi_abi_version });
  } catch (cause) {
    if (cause instanceof Deno.errors.NotCapable) {
      throw new MInferenceError(
        "PERMISSION",
        `no permission to load ${path}; add --allow-ffi=${path}`,
        { cause, details: { path, flag: `--allow-ffi=${path}` } },
      );
    }
    const message = cause instanceof Error ? cause.message : String(cause);
    const code = /symbol/.test(message) ? "LIBRARY_ABI_MISMATCH" : "LIBRARY_NOT_FOUND";
    throw new MInferenceError(code, `cannot load ${path}: ${message}; ${HOW_TO_BUILD}`, {
      cause,
      details: { tried: [path] },
    });
  }
  try {
    found = probe.symbols.mi_abi_version();
  } finally {
    probe.close();
  }
  if (found !== ABI_VERSION) {
    throw new MInferenceError(
      "LIBRARY_ABI_MISMATCH",
      `${path} has ABI version ${found}, this package needs ${ABI_VERSION}; rebuild it`,
      { details: { path, found, needed: ABI_VERSION } },
    );
  }
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    if (error instanceof Deno.errors.NotCapable) return true; // dlopen will tell
    throw error;
  }
}

/**
 * Opens the native library, once per path and process.
 *
 * @param explicit Path or file URL; else `MINFERENCE_LIB`, the checkout's build folder, the cache folder.
 * @returns Its functions.
 * @throws {MInferenceError} `LIBRARY_NOT_FOUND` with every path tried, `PERMISSION` with the flag to add,
 * `LIBRARY_ABI_MISMATCH` with both versions, `UNSUPPORTED` where Deno is too old to call it.
 */
export function openLibrary(explicit?: string | URL): Native {
  checkDeno();
  const tried = libraryPaths(explicit);
  const path = tried.find(isFile);
  if (path === undefined) {
    throw new MInferenceError(
      "LIBRARY_NOT_FOUND",
      `libminference.so was not found; tried ${tried.join(", ") || "nothing"}; ${HOW_TO_BUILD}`,
      { details: { tried } },
    );
  }
  let native = opened.get(path);
  if (!native) {
    checkVersion(path);
    try {
      native = Deno.dlopen(path, symbols).symbols;
    } catch (cause) {
      throw new MInferenceError(
        "LIBRARY_ABI_MISMATCH",
        `${path} lacks a function of ABI ${ABI_VERSION}: ${(cause as Error).message}; rebuild it`,
        { cause, details: { path } },
      );
    }
    opened.set(path, native);
  }
  return native;
}
