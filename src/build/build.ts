/**
 * Compiles `libminference.so` from the native sources.
 *
 * @module
 */
import { basename, dirname, join, relative, resolve } from "node:path";
import { createHash } from "node:crypto";
import meta from "../../deno.json" with { type: "json" };
import { MInferenceError } from "../native/errors.ts";
import { compileRule, CXX_FLAGS, needsCuda, NVCC_FLAGS } from "./sources.ts";
import { findToolchain, type Toolchain } from "./toolchain.ts";

/** Options of {@linkcode buildLibrary}. */
export interface BuildOptions {
  /** Folder of the native sources (`cuda/`). */
  source: string;
  /** Folder that receives `libminference.so`, its object files and compiler logs. */
  out: string;
  /** Build the CUDA backend where nvcc is found. Default true. */
  cuda?: boolean;
  /** Flags for the C++ compiler beyond its own. */
  flags?: readonly string[];
  /** Receives one line per step. */
  onLog?: (line: string) => void;
  /** Stops the compilers. */
  signal?: AbortSignal;
}

/** Result of {@linkcode buildLibrary}. */
export interface BuildResult {
  /** Path of the library. */
  readonly path: string;
  /** Whether the CUDA backend is in it. */
  readonly cuda: boolean;
  /** Files compiled by this call. */
  readonly compiled: number;
  /** Files whose object was up to date. */
  readonly reused: number;
}

interface Job {
  readonly source: string;
  readonly object: string;
  readonly command: string;
  readonly args: readonly string[];
}

function* walk(folder: string): Generator<string> {
  for (const entry of [...Deno.readDirSync(folder)].sort((a, b) => a.name < b.name ? -1 : 1)) {
    const path = join(folder, entry.name);
    if (entry.isDirectory) yield* walk(path);
    else yield path;
  }
}

/** Adds a file and everything it includes by a relative path to `hash`. */
function hashIncludes(
  path: string,
  hash: { update(data: string | Uint8Array): unknown },
  seen: Set<string>,
): void {
  if (seen.has(path)) return;
  seen.add(path);
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return; // in an inactive #if branch
    throw error;
  }
  hash.update(text);
  for (const [, file] of text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
    hashIncludes(resolve(dirname(path), file), hash, seen);
  }
}

function digest(parts: readonly string[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part + "\0");
  return hash.digest("hex");
}

function planJobs(options: BuildOptions, tools: Toolchain, objects: string): Job[] {
  const defines = [`-DMINFERENCE_VERSION="${meta.version}"`];
  if (tools.nvcc) defines.push("-DMINFERENCE_CUDA=1");
  const jobs: Job[] = [];
  for (const source of walk(options.source)) {
    if (!/\.(cpp|cu)$/.test(source) || (needsCuda(source) && !tools.nvcc)) continue;
    const rule = compileRule(source, Deno.build.arch);
    const nvcc = rule.compiler === "nvcc";
    const command = nvcc ? tools.nvcc! : tools.cxx;
    const common = nvcc
      ? [...NVCC_FLAGS, "-ccbin", tools.cxx]
      : [...CXX_FLAGS, ...options.flags ?? []];
    const flags = [...common, ...rule.flags, ...defines];
    const hash = createHash("sha256");
    hash.update(
      digest([nvcc ? tools.nvccVersion + tools.cxxVersion : tools.cxxVersion, ...flags]),
    );
    hashIncludes(source, hash, new Set());
    const key = hash.digest("hex").slice(0, 16);
    const name = relative(options.source, source).replaceAll("/", "-");
    const object = join(objects, `${name}.${key}.o`);
    jobs.push({ source, object, command, args: [...flags, "-c", source, "-o"] });
  }
  return jobs;
}

async function run(
  command: string,
  args: readonly string[],
  what: string,
  signal?: AbortSignal,
): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args: [...args],
    stdout: "piped",
    stderr: "piped",
    signal,
  }).output();
  signal?.throwIfAborted();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  if (!success) {
    throw new MInferenceError("BUILD", `${what} failed:\n${command} ${args.join(" ")}\n${text}`, {
      details: { command, args, output: text },
    });
  }
  return text;
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Builds the native library: compiles what changed, on all cores, to temporary names that are renamed
 * when complete, so that an interrupted build or a library in use is never damaged.
 *
 * @returns Where the library is and what was done.
 * @throws {MInferenceError} `BUILD` with the compiler's output, or where there is no compiler.
 *
 * @example
 * ```ts ignore
 * const { path, cuda } = await buildLibrary({ source: "cuda", out: "build" });
 * ```
 */
export async function buildLibrary(options: BuildOptions): Promise<BuildResult> {
  const log = options.onLog ?? ((): void => {});
  // A tree without the CUDA attention kernels has no whole CUDA backend to build.
  const hasCuda = exists(join(options.source, "attention", "attention.cu"));
  const tools = await findToolchain(hasCuda && options.cuda !== false);
  log(`C++ compiler: ${tools.cxx} (${tools.cxxVersion})`);
  log(
    tools.nvcc
      ? `CUDA compiler: ${tools.nvcc} (${tools.nvccVersion})`
      : "CUDA compiler: none, building the CPU backend alone",
  );
  const objects = join(options.out, "obj");
  Deno.mkdirSync(objects, { recursive: true });
  const jobs = planJobs(options, tools, objects);
  const queue = jobs.filter((job) => !exists(job.object));
  const compiled = queue.length;
  // Slow files first, so that no core idles at the end.
  queue.sort((a, b) => Number(b.source.endsWith(".cu")) - Number(a.source.endsWith(".cu")));
  const failed = new AbortController();
  const signal = AbortSignal.any([failed.signal, ...(options.signal ? [options.signal] : [])]);
  const work = async (): Promise<void> => {
    for (let job = queue.shift(); job; job = queue.shift()) {
      const start = performance.now();
      const temporary = `${job.object}.${crypto.randomUUID()}.tmp`;
      try {
        const args = [...job.args, temporary];
        const output = await run(job.command, args, `compiling ${job.source}`, signal);
        Deno.writeTextFileSync(`${job.object}.log`, output);
        Deno.renameSync(temporary, job.object);
      } catch (error) {
        failed.abort(error); // the other compilers need not go on
        queue.length = 0;
        if (exists(temporary)) Deno.removeSync(temporary);
        throw error;
      }
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      log(`compiled ${relative(options.source, job.source)} in ${seconds} s`);
    }
  };
  const workers = Array.from({ length: navigator.hardwareConcurrency }, work);
  await Promise.allSettled(workers); // no compiler outlives a failure
  await Promise.all(workers);

  const path = join(options.out, "libminference.so");
  const stamp = join(options.out, "libminference.key");
  const key = digest(jobs.map((job) => basename(job.object)));
  if (!exists(path) || !exists(stamp) || Deno.readTextFileSync(stamp) !== key) {
    const temporary = `${path}.${crypto.randomUUID()}.tmp`;
    const inputs = ["-shared", "-o", temporary, ...jobs.map((job) => job.object)];
    const linked = tools.nvcc
      ? [...inputs, "-ccbin", tools.cxx, "-cudart", "static", "-Xcompiler"]
        .concat("-static-libstdc++,-static-libgcc", "-Xlinker", "-Bsymbolic", "-ldl", "-lpthread")
      : [...inputs, "-static-libstdc++", "-static-libgcc", "-Wl,-Bsymbolic", "-ldl", "-lpthread"];
    await run(tools.nvcc ?? tools.cxx, linked, "linking libminference.so", options.signal);
    Deno.renameSync(temporary, path);
    Deno.writeTextFileSync(stamp, key);
    removeStale(objects, jobs);
  }
  log(`${path}: ${compiled} compiled, ${jobs.length - compiled} up to date`);
  return { path, cuda: tools.nvcc !== null, compiled, reused: jobs.length - compiled };
}

/** Objects of older sources; a few hundred KB each, they would pile up. */
function removeStale(objects: string, jobs: readonly Job[]): void {
  const keep = new Set(jobs.flatMap((job) => [job.object, `${job.object}.log`]));
  for (const entry of Deno.readDirSync(objects)) {
    const path = join(objects, entry.name);
    if (!keep.has(path) && !path.endsWith(".tmp")) Deno.removeSync(path);
  }
}
