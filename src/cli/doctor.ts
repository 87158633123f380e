/**
 * `minference doctor`: is everything there, and if not, what to do.
 *
 * @module
 */
import process from "node:process";
import { styleText } from "node:util";
import meta from "../../deno.json" with { type: "json" };
import { findToolchain } from "../build/toolchain.ts";
import { deviceCount, openDevice } from "../device/open.ts";
import { environment } from "../native/environment.ts";
import { cacheFolder, libraryPaths, openLibrary } from "../native/library.ts";
import { ABI_VERSION } from "../native/params.ts";
import { checkDeno } from "../native/runtime.ts";
import { type Command, defineCommand, EXIT } from "./command.ts";
import { toMInferenceError } from "./failure.ts";
import { bytes } from "./format.ts";
import { findModels } from "./models.ts";

/** `ok`; `note`: good to know; `problem`: something needed is missing. */
type State = "ok" | "note" | "problem";

/** One thing looked at. */
export interface Finding {
  /** What. */
  readonly name: string;
  /** How it is. */
  readonly state: State;
  /** In words. */
  readonly text: string;
  /** What to do about it. */
  readonly fix?: string;
}

const BUILD = "deno task build in a checkout, or deno run -A jsr:@minference/minference/build";

const UPGRADE = "npx --yes deno@2.9.6, or deno upgrade";

function runtime(): Finding {
  try {
    checkDeno();
    const text = `Deno ${Deno.version.deno}, minference ${meta.version}`;
    return { name: "runtime", state: "ok", text };
  } catch (error) {
    const { message } = toMInferenceError(error);
    return { name: "runtime", state: "problem", text: message, fix: UPGRADE };
  }
}

/** What has to be permitted. Loading one library and reading one folder of models would do. */
async function permissions(): Promise<Finding[]> {
  const [path] = libraryPaths();
  const wanted: { permission: Deno.PermissionDescriptor; why: string; needed: boolean }[] = [
    { permission: { name: "ffi", path }, why: "load the library", needed: true },
    { permission: { name: "read", path }, why: "read models and the library", needed: true },
    { permission: { name: "env" }, why: "read MINFERENCE_* and HOME", needed: false },
    { permission: { name: "run" }, why: "start the compiler (build)", needed: false },
  ];
  return await Promise.all(wanted.map(async ({ permission, why, needed }) => {
    const { state } = await Deno.permissions.query(permission);
    const name = `--allow-${permission.name}`;
    if (state === "granted") return { name, state: "ok", text: `granted: ${why}` };
    const text = `not granted: ${why}`;
    return { name, state: needed ? "problem" : "note", text, fix: `add ${name}, or -A` };
  }));
}

/** Every place the library may be in, and whether the first one found can be used. */
function library(): Finding[] {
  const findings: Finding[] = libraryPaths().map((path) => {
    try {
      const { size, mtime } = Deno.statSync(path);
      const built = mtime?.toISOString().slice(0, 16).replace("T", " ");
      return { name: "tried", state: "ok", text: `${path}: ${bytes(size)}, built ${built} UTC` };
    } catch (error) {
      const missing = error instanceof Deno.errors.NotFound;
      const text = `${path}: ${missing ? "not there" : (error as Error).message}`;
      return { name: "tried", state: "note", text };
    }
  });
  try {
    openLibrary();
    findings.push({ name: "library", state: "ok", text: `opened, ABI version ${ABI_VERSION}` });
  } catch (error) {
    const { code, message } = toMInferenceError(error);
    const fix = { PERMISSION: "add --allow-ffi, or -A", UNSUPPORTED: UPGRADE }[code as string] ??
      BUILD;
    findings.push({ name: "library", state: "problem", text: message, fix });
  }
  return findings;
}

/** Compilers. A missing one matters only where the library is missing, too. */
async function compilers(needed: boolean): Promise<Finding[]> {
  try {
    const { cxx, cxxVersion, nvcc, nvccVersion } = await findToolchain();
    return [
      { name: "C++ compiler", state: "ok", text: `${cxx}: ${cxxVersion}` },
      nvcc ? { name: "CUDA compiler", state: "ok", text: `${nvcc}: ${nvccVersion}` } : {
        name: "CUDA compiler",
        state: "note",
        text: "none: builds have the CPU backend alone",
        fix: "install a CUDA toolkit, or set CUDA_HOME, to run on a GPU",
      },
    ];
  } catch (error) {
    const { code, message } = toMInferenceError(error);
    const state = needed ? "problem" : "note";
    const fix = code === "PERMISSION" ? "add --allow-run, or -A" : "apt-get install g++";
    return [{ name: "C++ compiler", state, text: message, fix }];
  }
}

/** The device that commands take by themselves. */
async function usualDevice(): Promise<Finding[]> {
  const wanted = environment("MINFERENCE_DEVICE");
  if (wanted === undefined) return [];
  try {
    await using device = await openDevice();
    return [{ name: "device", state: "ok", text: `MINFERENCE_DEVICE=${wanted}: ${device.kind}` }];
  } catch (error) {
    const text = `MINFERENCE_DEVICE=${wanted}: ${toMInferenceError(error).message}`;
    return [{ name: "device", state: "problem", text, fix: "unset it, or set cpu, cuda or auto" }];
  }
}

async function cpu(): Promise<Finding> {
  try {
    await using device = await openDevice({ kind: "cpu" });
    const { name, units, path, totalMemory, freeMemory } = device.info();
    const memory = `${bytes(freeMemory)} of ${bytes(totalMemory)} free`;
    const text = `${name}, ${units} threads, kernels for ${path}, ${memory}`;
    return { name: "CPU", state: "ok", text };
  } catch (error) {
    return { name: "CPU", state: "problem", text: toMInferenceError(error).message };
  }
}

async function gpus(): Promise<Finding[]> {
  const count = deviceCount("cuda");
  return await Promise.all(Array.from({ length: Math.max(1, count) }, async (_, index) => {
    const name = `CUDA device ${index}`;
    try {
      await using device = await openDevice({ kind: "cuda", index });
      const { name: model, path, computeCapability, totalMemory, freeMemory } = device.info();
      const memory = `${bytes(freeMemory)} of ${bytes(totalMemory)} free`;
      const text = `${model}, compute capability ${computeCapability.join(".")}, ` +
        `kernels for ${path}, ${memory}`;
      return { name, state: "ok", text };
    } catch (error) {
      const { message } = toMInferenceError(error);
      if (count > 0) return { name, state: "problem", text: message };
      return { name: "CUDA", state: "note", text: `${message}; the CPU is used` };
    }
  }));
}

async function models(): Promise<Finding[]> {
  const { folders, models } = await findModels();
  const found = models.map(({ path, description, problem }): Finding =>
    description
      ? { name: "model", state: "ok", text: `${path}: ${description}` }
      : { name: "model", state: "note", text: problem ?? path }
  );
  if (found.some(({ state }) => state === "ok")) return found;
  const where = folders.join(", ") || "no folder";
  return [...found, {
    name: "models",
    state: "note",
    text: `none in ${where}`,
    fix: "set MINFERENCE_MODELS to a folder of models, or name a model by its path",
  }];
}

/** One cause is told once: leaves out what the fix of an earlier finding mends, too. */
function withoutRepeats(findings: readonly Finding[]): Finding[] {
  return findings.filter(({ fix }, index) =>
    fix === undefined || findings.findIndex((earlier) => earlier.fix === fix) === index
  );
}

/** Looks at everything. */
export async function examine(): Promise<Finding[]> {
  const found = library();
  const usable = found.every(({ state }) => state !== "problem");
  const unbuilt = found.some(({ fix }) => fix === BUILD);
  return withoutRepeats([
    runtime(),
    ...await permissions(),
    ...found,
    ...await compilers(unbuilt),
    ...(usable ? [await cpu(), ...await gpus(), ...await usualDevice()] : []),
    ...await models(),
  ]);
}

function findingText({ name, state, text, fix }: Finding): string {
  const style = { ok: "green", note: "yellow", problem: "red" } as const;
  const mark = styleText(style[state], state.padEnd(7), { stream: process.stdout });
  return `${mark}  ${name.padEnd(13)}  ${text}\n${fix ? `${" ".repeat(24)}fix: ${fix}\n` : ""}`;
}

/** The command. */
export const doctor: Command<Record<never, never>> = defineCommand({
  name: "minference doctor",
  positionals: [],
  description:
    `Looks at the runtime, permissions, the native library and each place it may be in, compilers, CPU,
GPUs and models. Exit code 1 if something needed is missing; each problem comes with its fix.`,
  options: {},
  async run({ output }): Promise<number> {
    const findings = await examine();
    const problems = findings.filter(({ state }) => state === "problem").length;
    const folder = cacheFolder();
    output.result(
      { ok: problems === 0, version: meta.version, cacheFolder: folder, findings },
      () => {
        const end = problems === 0
          ? "all is well"
          : `${problems} problem${problems > 1 ? "s" : ""}`;
        return `${findings.map(findingText).join("")}${end}\n`;
      },
    );
    return problems === 0 ? EXIT.ok : EXIT.failure;
  },
});
