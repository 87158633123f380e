/**
 * `minference build`: compiles libminference.so.
 *
 * @module
 */
import { installLibrary } from "../build/install.ts";
import type { Options } from "./args.ts";
import { type Command, defineCommand } from "./command.ts";
import { duration } from "./format.ts";

const OPTIONS = {
  "no-cuda": { type: "boolean", help: "leave the CUDA backend out, even if nvcc is there" },
  out: { type: "string", value: "DIR", help: "where to (default: where it is looked for)" },
  quiet: { type: "boolean", short: "q", help: "print nothing where all is up to date" },
} as const satisfies Options;

/** The command. */
export const build: Command<typeof OPTIONS> = defineCommand({
  name: "minference build",
  positionals: [],
  description:
    `Compiles libminference.so with the system's C++ compiler, and with nvcc where it is found. In a
checkout it goes to build/, else to the cache folder. CXX names the C++ compiler;
nvcc is looked for in CUDA_HOME first, and not at all with MINFERENCE_CUDA=off.`,
  options: OPTIONS,
  async run({ values, output, signal }): Promise<void> {
    const started = performance.now();
    const result = await installLibrary({
      out: values.out,
      cuda: values["no-cuda"] ? false : undefined,
      onLog: values.quiet ? undefined : (line) => output.note(line),
      signal,
    });
    const ms = performance.now() - started;
    output.result({ ...result, ms }, () => {
      if (values.quiet && result.compiled === 0) return "";
      const backends = result.cuda ? "CPU and CUDA" : "CPU";
      return `built ${result.path} (${backends}) in ${duration(ms)}\n`;
    });
  },
});
