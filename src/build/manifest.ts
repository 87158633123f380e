/**
 * Makes the list of native sources that is published with the package.
 *
 * @module
 */
import { join } from "node:path";
import { type Manifest, sha256 } from "./remote.ts";

/** Files that `deno.json` publishes from `cuda/`. */
const PUBLISHED = /\.(h|cpp|cu|cuh)$/;

/**
 * Lists a folder of native sources.
 *
 * @param folder The `cuda/` folder.
 * @returns Hashes by path, sorted by path.
 */
export function makeManifest(folder: string): Manifest {
  const entries: [string, string][] = [];
  const walk = (below: string): void => {
    for (const { name, isDirectory } of Deno.readDirSync(join(folder, below))) {
      const path = below === "" ? name : `${below}/${name}`;
      if (isDirectory) walk(path);
      else if (PUBLISHED.test(name)) {
        entries.push([path, sha256(Deno.readFileSync(join(folder, path)))]);
      }
    }
  };
  walk("");
  return Object.fromEntries(entries.sort(([a], [b]) => a < b ? -1 : 1));
}
