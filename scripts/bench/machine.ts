/**
 * Where a benchmark ran, without anything that names the host.
 *
 * @module
 */

/** The machine and the software of a run. */
export interface Machine {
  /** Processor model. */
  readonly cpu: string;
  /** Processors the system shows. */
  readonly cores: number;
  /** Vector extensions that matter here. */
  readonly vector: string;
  /** Physical memory, GiB. */
  readonly memoryGiB: number;
  /** Operating system release. */
  readonly kernel: string;
  /** Deno's version. */
  readonly deno: string;
  /** First line of the C++ compiler's version. */
  readonly compiler: string;
  /** Commit of the checkout; `+` marks changes that are not committed. */
  readonly commit: string;
}

async function firstLine(command: string, ...args: string[]): Promise<string> {
  try {
    const { stdout } = await new Deno.Command(command, { args, stderr: "null" }).output();
    return new TextDecoder().decode(stdout).split("\n")[0].trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

/** Describes this machine. */
export async function describeMachine(): Promise<Machine> {
  const cpuinfo = await Deno.readTextFile("/proc/cpuinfo");
  const field = (name: string): string =>
    new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(cpuinfo)?.[1] ?? "";
  const flags = new Set(field("flags").split(" "));
  const vector = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"];
  const dirty = await firstLine("git", "status", "--porcelain", "--untracked-files=no") !== "";
  return {
    cpu: `${field("model name")} (family ${field("cpu family")}, model ${field("model")})`,
    cores: navigator.hardwareConcurrency,
    vector: vector.filter((flag) => flags.has(flag)).join(" "),
    memoryGiB: Math.round(Deno.systemMemoryInfo().total / 2 ** 30),
    kernel: Deno.osRelease(),
    deno: Deno.version.deno,
    compiler: await firstLine(Deno.env.get("CXX") ?? "g++", "--version"),
    commit: await firstLine("git", "rev-parse", "--short", "HEAD") + (dirty ? "+" : ""),
  };
}

/** Compiles the multiply-add peak loop for this machine and returns the program's path. */
export async function buildPeakLoop(): Promise<string> {
  const program = await Deno.makeTempFile({ prefix: "fma_peak_" });
  const source = new URL("fma_peak.cpp", import.meta.url).pathname;
  const { success, stderr } = await new Deno.Command(Deno.env.get("CXX") ?? "g++", {
    args: ["-O3", "-march=native", "-pthread", source, "-o", program],
  }).output();
  if (!success) throw new Error(`fma_peak.cpp: ${new TextDecoder().decode(stderr)}`);
  return program;
}
