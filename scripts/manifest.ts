// Writes src/build/manifest.json: the native sources that travel with the package, with their hashes.
import { fileURLToPath } from "node:url";
import { makeManifest } from "../src/build/manifest.ts";

const manifest = makeManifest(fileURLToPath(new URL("../cuda", import.meta.url)));
const target = new URL("../src/build/manifest.json", import.meta.url);
Deno.writeTextFileSync(target, `${JSON.stringify(manifest, null, 2)}\n`);
console.error(`${Object.keys(manifest).length} sources listed in ${fileURLToPath(target)}`);
