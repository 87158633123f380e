// Builds build/libminference.so of this checkout. `--quiet` prints nothing when all goes well.
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { buildLibrary } from "../src/build/build.ts";
import { MInferenceError } from "../src/native/errors.ts";

const { values } = parseArgs({ args: Deno.args, options: { quiet: { type: "boolean" } } });
const path = (name: string): string => fileURLToPath(new URL(`../${name}`, import.meta.url));
const started = performance.now();
try {
  const result = await buildLibrary({
    source: path("cuda"),
    out: path("build"),
    onLog: values.quiet ? undefined : (line) => console.error(line),
  });
  if (result.compiled > 0) {
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.error(
      `built ${result.path} (${result.cuda ? "CPU and CUDA" : "CPU"}) in ${seconds} s`,
    );
  }
} catch (error) {
  if (!(error instanceof MInferenceError)) throw error;
  console.error(error.message);
  Deno.exit(1);
}
