/**
 * Builds the library with its CUDA backend running on an emulated GPU.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildLibrary } from "../../src/build/build.ts";
import { translateTree } from "./translate.ts";

/** Path of the library; what is up to date is not compiled again. */
export async function buildEmulated(onLog?: (line: string) => void): Promise<string> {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const out = join(root, "build", "emulator");
  const source = join(out, "src");
  const key = translateTree(join(root, "cuda"), join(root, "tests", "emulator"), source);
  const flags = ["-DMINFERENCE_CUDA=1", `-DEMULATOR_KEY=0x${key}`, "-w", "-fno-strict-aliasing"];
  const include = `-I${join(source, "emulator", "include")}`;
  const { path } = await buildLibrary({
    source,
    out,
    cuda: false,
    flags: [...flags, include],
    onLog,
  });
  return path;
}

if (import.meta.main) console.log(await buildEmulated(console.error));
