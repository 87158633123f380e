/**
 * Finds the compilers.
 *
 * @module
 */
import { environment } from "../native/environment.ts";
import { MInferenceError } from "../native/errors.ts";

/** Compilers to build with. */
export interface Toolchain {
  /** C++ compiler. */
  readonly cxx: string;
  /** First line of its `--version`. */
  readonly cxxVersion: string;
  /** `nvcc`, or null where no CUDA toolkit is wanted or found. */
  readonly nvcc: string | null;
  /** Last line of its `--version`, or "". */
  readonly nvccVersion: string;
}

async function version(command: string): Promise<string[] | null> {
  try {
    const { success, stdout } = await new Deno.Command(command, {
      args: ["--version"],
      stdout: "piped",
      stderr: "null",
    }).output();
    return success ? new TextDecoder().decode(stdout).trim().split("\n") : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/**
 * Finds a C++ compiler (`CXX` alone where it is set; else g++, clang++, c++) and, unless `cuda` is false or
 * `MINFERENCE_CUDA=off`, nvcc (in `CUDA_HOME`, on the PATH, in /usr/local/cuda).
 *
 * @param cuda Whether to look for nvcc. Default true.
 * @throws {MInferenceError} `BUILD` naming what was tried if there is no C++ compiler.
 */
export async function findToolchain(cuda = true): Promise<Toolchain> {
  const wanted = environment("CXX");
  const cxxTried = wanted ? [wanted] : ["g++", "clang++", "c++"];
  let cxx: string | undefined;
  let cxxVersion = "";
  for (const name of cxxTried) {
    const lines = await version(name);
    if (lines) {
      cxx = name;
      cxxVersion = lines[0];
      break;
    }
  }
  if (!cxx) {
    throw new MInferenceError(
      "BUILD",
      `no C++ compiler found (tried ${cxxTried.join(", ")}); install one, e.g. apt-get install g++`,
      { details: { tried: cxxTried } },
    );
  }
  let nvcc: string | null = null;
  let nvccVersion = "";
  if (cuda && environment("MINFERENCE_CUDA") !== "off") {
    const home = environment("CUDA_HOME");
    const named = home ? [`${home}/bin/nvcc`] : [];
    for (const name of [...named, "nvcc", "/usr/local/cuda/bin/nvcc"]) {
      const lines = await version(name);
      if (lines) {
        nvcc = name;
        nvccVersion = lines[lines.length - 1];
        break;
      }
    }
  }
  return { cxx, cxxVersion, nvcc, nvccVersion };
}
