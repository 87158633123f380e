/**
 * The CUDA sources as C++ for the emulated GPU: `*.cu` become `*.cpp`, kernel launches become calls, and the
 * headers that hold PTX give way to their twins in `overlay/`.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { dirname, join, relative } from "node:path";

/** Rewrites what C++ has no words for. */
export function translate(source: string): string {
  return source
    .replace(/\b__noinline__\b/g, "") // the C++ library has another use for the word
    .replace(
      /extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?(\w+)\s+(\w+)\[\];/g,
      "$1* const $2 = reinterpret_cast<$1*>(emu::dynamic_shared());",
    )
    .replace(
      /([\w:]+(?:<[^<>;(){}]*>)?)<<<([^;]*?)>>>\(([^;]*)\);/g,
      "emu::launch_on($2, [=] { $1($3); });",
    );
}

function files(folder: string): string[] {
  return [...Deno.readDirSync(folder)].flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory ? files(path) : [path];
  }).sort();
}

/**
 * Writes the translated tree.
 *
 * @param cuda The project's native sources.
 * @param emulator The folder of this file.
 * @param out Receives the tree.
 * @returns A digest of the emulator's own files.
 */
export function translateTree(cuda: string, emulator: string, out: string): string {
  const tree = new Map<string, string>();
  for (const path of files(cuda)) {
    const name = relative(cuda, path);
    // cuBLASLt's client needs no CUDA compiler; another name keeps it in a build without one.
    const target = name.replace(/\.cu$/, ".cu.cpp").replace(/cublaslt\.cpp$/, "cublaslt.cu.cpp");
    tree.set(target, translate(Deno.readTextFileSync(path)));
  }
  const own = createHash("sha256");
  for (const path of files(emulator).filter((path) => !path.endsWith(".ts"))) {
    const name = relative(emulator, path);
    const text = Deno.readTextFileSync(path);
    own.update(text);
    tree.set(name.startsWith("overlay/") ? name.slice(8) : join("emulator", name), text);
  }
  try {
    for (const path of files(out)) if (!tree.has(relative(out, path))) Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  for (const [name, text] of tree) {
    const path = join(out, name);
    Deno.mkdirSync(dirname(path), { recursive: true });
    Deno.writeTextFileSync(path, text);
  }
  return own.digest("hex").slice(0, 16);
}
