/**
 * Compiles the native library of this package: `deno run -A jsr:@minference/minference/build`.
 *
 * Needs g++ or clang++; with a CUDA toolkit the GPU backend is built, too. As a module it has no side effect.
 *
 * @module
 */
import { build } from "../cli/build.ts";
import { runCommand } from "../cli/command.ts";

export { installLibrary } from "./install.ts";
export type { InstallOptions } from "./install.ts";
export type { BuildOptions, BuildResult } from "./build.ts";

if (import.meta.main) Deno.exit(await runCommand(build, Deno.args));
