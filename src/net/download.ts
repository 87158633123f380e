/**
 * Fetching a small file, with typed errors and bounds on time and size.
 *
 * @module
 */
import type { CallOptions } from "../device/device.ts";
import { MInferenceError } from "../native/errors.ts";

/** Options of {@linkcode download}. */
export interface DownloadOptions extends CallOptions {
  /** Most bytes accepted. Default 16 MiB. */
  limit?: number;
  /** Most milliseconds for the whole file. Default 30 seconds. */
  timeout?: number;
}

/** The body's bytes; stops reading as soon as they are too many. */
async function readAll(response: Response, limit: number): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  for await (const part of response.body ?? []) {
    size += part.length;
    if (size > limit) throw new Error(`more than the ${limit} bytes allowed`);
    parts.push(part);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/**
 * Fetches a file.
 *
 * @param url An http: or https: URL.
 * @param options Bounds and signal.
 * @returns Its bytes.
 * @throws {MInferenceError} `PERMISSION` naming the flag to add; `NETWORK` where it cannot be fetched, is too large or
 * takes too long; `signal.reason` on abort.
 */
export async function download(
  url: URL,
  options: DownloadOptions = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const { signal, limit = 16 * 2 ** 20, timeout = 30_000 } = options;
  signal?.throwIfAborted();
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error(`not there after ${timeout} ms`)), timeout);
  const stop = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
  try {
    const response = await fetch(url, { signal: stop });
    if (response.ok) return await readAll(response, limit);
    await response.body?.cancel();
    throw new Error(`${response.status} ${response.statusText}`);
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof Deno.errors.NotCapable) {
      const flag = `--allow-net=${url.host}`;
      throw new MInferenceError("PERMISSION", `no permission to fetch ${url}: run with ${flag}`, {
        cause,
        details: { url: url.href, flag },
      });
    }
    throw new MInferenceError("NETWORK", `cannot fetch ${url}: ${(cause as Error).message}`, {
      cause,
      details: { url: url.href },
    });
  } finally {
    clearTimeout(timer);
  }
}
