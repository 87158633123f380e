/**
 * Native sources of a published package. A registry serves them beside the modules, but Deno downloads modules only:
 * they are fetched here, and refused unless they are what was published.
 *
 * @module
 */
import { createHash, randomUUID } from "node:crypto";
import { dirname, join } from "node:path";
import { MInferenceError } from "../native/errors.ts";
import { download } from "../net/download.ts";

/** SHA-256 in hexadecimal of every native source, by its path below `cuda/`. */
export type Manifest = Readonly<Record<string, string>>;

/** Options of {@linkcode fetchSources}. */
export interface FetchOptions {
  /** URL of the `cuda/` folder, with a slash at its end. */
  base: URL;
  /** What is there. */
  manifest: Manifest;
  /** Folder that keeps source trees, one for each manifest. */
  folder: string;
  /** Receives one line per step. */
  onLog?: (line: string) => void;
  /** Stops the downloads. */
  signal?: AbortSignal;
}

/** Downloads at a time. */
const PARALLEL = 8;

/** SHA-256 in hexadecimal. */
export function sha256(data: Uint8Array | string): string {
  return createHash("sha256").update(data).digest("hex");
}

async function fetchSource(url: URL, hash: string, signal?: AbortSignal): Promise<Uint8Array> {
  const bytes = await download(url, { signal });
  const found = sha256(bytes);
  if (found !== hash) {
    throw new MInferenceError(
      "BUILD",
      `${url} is not the file that was published: sha256 ${found}, expected ${hash}`,
      { details: { url: url.href, found, expected: hash } },
    );
  }
  return bytes;
}

function isFolder(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Fetches the native sources, unless they are there from an earlier time.
 *
 * @param options See {@linkcode FetchOptions}.
 * @returns Folder with the sources, complete and verified.
 * @throws {MInferenceError} `NETWORK` or `PERMISSION` where a file cannot be fetched, `BUILD` where it is another than
 * the published one. Nothing is left behind.
 */
export async function fetchSources(options: FetchOptions): Promise<string> {
  const { base, manifest, folder, signal } = options;
  // Named by its contents and renamed into place when complete: a folder of this name is whole.
  const target = join(folder, sha256(JSON.stringify(manifest)).slice(0, 16));
  if (isFolder(target)) return target;
  const queue = Object.entries(manifest);
  options.onLog?.(`fetching ${queue.length} native sources from ${base}`);
  const temporary = `${target}.${randomUUID()}.tmp`;
  const failed = new AbortController();
  const stop = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
  const work = async (): Promise<void> => {
    for (let entry = queue.shift(); entry; entry = queue.shift()) {
      const [path, hash] = entry;
      const bytes = await fetchSource(new URL(path, base), hash, stop);
      const file = join(temporary, path);
      await Deno.mkdir(dirname(file), { recursive: true });
      await Deno.writeFile(file, bytes);
    }
  };
  const workers = Array.from({ length: PARALLEL }, work);
  try {
    await Promise.all(workers);
    signal?.throwIfAborted();
    await Deno.rename(temporary, target);
  } catch (error) {
    failed.abort();
    await Promise.allSettled(workers);
    await Deno.remove(temporary, { recursive: true }).catch(() => {});
    if (isFolder(target)) return target; // another process was faster
    throw error;
  }
  return target;
}
