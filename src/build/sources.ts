/**
 * Which native sources there are and how each is compiled.
 *
 * @module
 */

/** How one source file is compiled. */
export interface CompileRule {
  /** Compiler to use. */
  readonly compiler: "cxx" | "nvcc";
  /** Flags beyond the common ones. */
  readonly flags: readonly string[];
}

const AVX2 = ["-mavx2", "-mfma", "-mf16c"];
const AVX512 = [...AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"];
const AVX512_BF16 = [...AVX512, "-mavx512bf16", "-mavx512vnni"];

// wgmma and setmaxnreg exist only in sm_90a code, which runs on compute capability 9.0 alone.
const SM90A = ["-gencode", "arch=compute_90a,code=sm_90a"];
const PORTABLE = [
  ...["-gencode", "arch=compute_80,code=sm_80"],
  ...["-gencode", "arch=compute_80,code=compute_80"], // PTX for newer chips
  ...["-gencode", "arch=compute_90,code=sm_90"],
];

/** Flags every C++ file gets. */
export const CXX_FLAGS: readonly string[] = [
  ...["-std=c++17", "-O3", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"],
  ...["-Wall", "-Wextra", "-Wno-missing-field-initializers"],
];

/** Flags every CUDA file gets. */
export const NVCC_FLAGS: readonly string[] = [
  ...["-std=c++17", "-O3", "-lineinfo", "-DNDEBUG", "-Xptxas", "-v", "--compress-mode=size"],
  ...["-Xcompiler", "-fPIC,-fvisibility=hidden", "-cudart", "static"],
];

/**
 * The rule for a source file, chosen by its name: `*_avx2.cpp`, `*_avx512.cpp` and `*_avx512bf16.cpp`
 * are compiled for that instruction set and called only where the CPU has it; `*_sm90.cu` holds
 * Hopper-only code.
 *
 * @param path Path of the file, as listed in the source tree.
 * @param arch Architecture of the build, as `Deno.build.arch`.
 */
export function compileRule(path: string, arch: string): CompileRule {
  if (path.endsWith(".cu")) {
    return { compiler: "nvcc", flags: path.endsWith("_sm90.cu") ? SM90A : PORTABLE };
  }
  const x86 = arch === "x86_64";
  if (x86 && path.endsWith("_avx2.cpp")) return { compiler: "cxx", flags: AVX2 };
  if (x86 && path.endsWith("_avx512.cpp")) return { compiler: "cxx", flags: AVX512 };
  if (x86 && path.endsWith("_avx512bf16.cpp")) return { compiler: "cxx", flags: AVX512_BF16 };
  return { compiler: "cxx", flags: [] };
}

/** True for files that only a CUDA build compiles. */
export function needsCuda(path: string): boolean {
  return path.endsWith(".cu") || path.endsWith("cublaslt.cpp");
}
