// The demo: numbers hidden in a novel, found with dense attention and with MInference, and how long each took.
import { fileURLToPath } from "node:url";
import { installLibrary } from "../src/build/install.ts";
import { type Options, toNumber } from "../src/cli/args.ts";
import { type Command, defineCommand, EXIT, runCommand } from "../src/cli/command.ts";
import { ProgressBar } from "../src/cli/progress.ts";
import { openDevice } from "../src/device/open.ts";
import { loadModel } from "../src/model/model.ts";
import { libraryPaths } from "../src/native/library.ts";
import { ask, encodeTask, makeDemoTask, type Outcome } from "./demo/ask.ts";
import { allCorrect, introduction, resultText } from "./demo/report.ts";

const FOLDER = new URL("../models/needle-27m/", import.meta.url);
const NEEDLES = 6;

const OPTIONS = {
  tokens: { type: "string", value: "N", help: "length of the prompt (default 28000)" },
  seed: { type: "string", value: "N", help: "other numbers in other places (default 1)" },
} as const satisfies Options;

function isThere(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

const demo: Command<typeof OPTIONS> = defineCommand({
  name: "deno task demo",
  positionals: [],
  description:
    `Hides numbers in a novel, reads it with dense attention and with MInference, asks for some of them
and shows what each took. Exit code 1 if an answer is wrong.`,
  options: OPTIONS,
  async run({ values, output, signal }): Promise<number> {
    const tokens = toNumber("tokens", values.tokens ?? "28000", { least: 1000 });
    const seed = toNumber("seed", values.seed ?? "1", { least: 0 });
    if (!libraryPaths().some(isThere)) {
      output.note("libminference.so is missing; building it");
      await installLibrary({ onLog: (line) => output.note(line), signal });
    }
    const novel = await Deno.readTextFile(new URL("haystack.txt", FOLDER));
    await using device = await openDevice({ profile: true });
    await using model = await loadModel(fileURLToPath(FOLDER), { device, signal });
    const { config, checkpoint } = model;
    const task = await makeDemoTask(model, novel, { tokens, needles: NEEDLES, seed });
    const prompt = await encodeTask(model, task, { signal });
    const named = { name: checkpoint.modelName, config };
    const machine = device.info();
    if (!output.json) output.write(`${introduction(machine, named, prompt, NEEDLES)}\n`);

    const run = async (name: string, patterns: "dense" | "auto"): Promise<Outcome> => {
      using bar = new ProgressBar(name);
      const { onProgress } = bar;
      return await ask(model, prompt, patterns, { signal, onProgress });
    };
    const dense = await run("dense", "dense");
    const sparse = await run("MInference", "auto");
    const { peak } = device.info();
    const { tokenizeMs } = prompt;
    const comparison = { tokenizeMs, dense, sparse };
    output.result(
      { machine, tokenizeMs, peakBytes: peak, dense, sparse },
      () => resultText(comparison, config, peak),
    );
    return allCorrect(comparison) ? EXIT.ok : EXIT.failure;
  },
});

Deno.exit(await runCommand(demo, Deno.args));
