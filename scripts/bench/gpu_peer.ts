/**
 * The GPU benchmarks' peers: PyTorch and the published MInference kernels, in Python.
 *
 * @module
 */
import { fileURLToPath } from "node:url";

/**
 * Runs `gpu_peer.py`; what it says goes to the terminal.
 *
 * @param args Its options, but for `--out`.
 * @returns Whether it came to its end, and the results it wrote until then, if any.
 */
export async function runGpuPeer(
  args: readonly string[],
): Promise<{ success: boolean; results: unknown }> {
  const program = fileURLToPath(new URL("gpu_peer.py", import.meta.url));
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    const { success } = await new Deno.Command("python3", {
      args: ["-B", program, "--out", file, ...args],
      stdout: "inherit",
      stderr: "inherit",
    }).output();
    const text = await Deno.readTextFile(file);
    return { success, results: text ? JSON.parse(text) : null };
  } finally {
    await Deno.remove(file);
  }
}
