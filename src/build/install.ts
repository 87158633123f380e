/**
 * Builds the library of this package wherever the package is: a checkout, or a registry that serves it over HTTPS.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { MInferenceError } from "../native/errors.ts";
import { cacheFolder } from "../native/library.ts";
import { buildLibrary, type BuildOptions, type BuildResult } from "./build.ts";
import { fetchSources, type Manifest } from "./remote.ts";

/** Options of {@linkcode installLibrary}. */
export interface InstallOptions extends Omit<BuildOptions, "source" | "out"> {
  /** Folder for the library and its objects. Default the checkout's `build/`, else the cache folder. */
  out?: string;
  /** Where the package is. Default where this module is. */
  package?: URL;
}

const PACKAGE = new URL("../../", import.meta.url);

/** The list of native sources, read only where they have to be fetched. */
async function readManifest(): Promise<Manifest> {
  const { default: manifest } = await import("./manifest.json", { with: { type: "json" } });
  return manifest;
}

/**
 * Compiles libminference.so to where {@linkcode openLibrary} finds it. Sources of a checkout are used in place; those of
 * a published package are fetched, checked against the hashes published with it, and kept in the cache folder.
 *
 * @param options See {@linkcode InstallOptions}.
 * @returns Where the library is and what was done.
 * @throws {MInferenceError} `BUILD` with the compiler's output, or where a source is not the published one; `NETWORK`
 * where it cannot be fetched; `IO` where there is no cache folder.
 *
 * @example
 * ```ts ignore
 * const { path } = await installLibrary({ onLog: console.error });
 * ```
 */
export async function installLibrary(options: InstallOptions = {}): Promise<BuildResult> {
  const { package: root = PACKAGE, out, ...rest } = options;
  if (root.protocol === "file:") {
    const inside = (name: string): string => fileURLToPath(new URL(name, root));
    return await buildLibrary({ ...rest, source: inside("cuda"), out: out ?? inside("build") });
  }
  const folder = out ?? cacheFolder();
  if (folder === undefined) {
    throw new MInferenceError(
      "IO",
      "no folder to build in: set HOME or XDG_CACHE_HOME, or name one",
    );
  }
  const source = await fetchSources({
    base: new URL("cuda/", root),
    manifest: await readManifest(),
    folder: join(folder, "sources"),
    signal: options.signal,
    onLog: options.onLog,
  });
  return await buildLibrary({ ...rest, source, out: folder });
}
