/**
 * The command line: `deno run -A jsr:@minference/minference/cli`, or `deno run -A src/cli/main.ts` in a checkout.
 *
 * Results go to stdout, everything else to stderr. Exit codes: 0, 1 for a failure, 2 for a command line that
 * makes no sense, 130 after Ctrl-C.
 *
 * @module
 */
import meta from "../../deno.json" with { type: "json" };
import { UsageError } from "./args.ts";
import { type Command, EXIT, report, runCommand } from "./command.ts";
import { table } from "./format.ts";
import { Output } from "./output.ts";

/** A command of any options. */
// deno-lint-ignore no-explicit-any
type AnyCommand = Command<any>;

interface Entry {
  readonly summary: string;
  /** Commands are loaded when they are called: `build` needs nothing of the models. */
  load(): Promise<AnyCommand>;
}

const COMMANDS: Readonly<Record<string, Entry>> = {
  run: {
    summary: "answer a prompt",
    load: async () => (await import("./run.ts")).run,
  },
  prefill: {
    summary: "measure how fast a prompt is read",
    load: async () => (await import("./prefill.ts")).prefill,
  },
  bench: {
    summary: "measure sparse against dense prefill",
    load: async () => (await import("./bench.ts")).bench,
  },
  inspect: {
    summary: "show a model's configuration, tensors, memory plan and patterns",
    load: async () => (await import("./inspect.ts")).inspect,
  },
  "search-patterns": {
    summary: "decide each head's sparse pattern and write the pattern file",
    load: async () => (await import("./search_patterns.ts")).search,
  },
  doctor: {
    summary: "check the installation and tell how to mend it",
    load: async () => (await import("./doctor.ts")).doctor,
  },
  build: {
    summary: "compile the native library",
    load: async () => (await import("./build.ts")).build,
  },
};

const USAGE = "Usage: minference COMMAND [arguments]; --help lists the commands";

function help(): string {
  const rows = Object.entries(COMMANDS).map(([name, { summary }]) => [name, summary]);
  return `MInference ${meta.version}: fast prefill of very long prompts

Usage: minference COMMAND [arguments]

Commands:
${table(rows, "  ")}
minference COMMAND --help tells more; minference --version tells the version. Every command takes
--json. Numbers may end in k or m (1024, 1024²). Results go to stdout, all else to stderr; NO_COLOR
turns colours off. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
`;
}

/** What is answered without a command. */
function answer(name: string | undefined): string {
  switch (name) {
    case "--help":
    case "-h":
    case "help":
      return help();
    case "--version":
      return `${meta.version}\n`;
    case undefined:
      throw new UsageError("no command is given");
  }
  throw new UsageError(
    name.startsWith("-")
      ? `the command comes first, got "${name}"`
      : `there is no command "${name}"`,
  );
}

/**
 * Runs the command line.
 *
 * @param args Arguments: the command and its own.
 * @returns The exit code.
 */
export async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args[0] === "help" && args.length > 1 ? [args[1], "--help"] : args;
  if (name !== undefined && Object.hasOwn(COMMANDS, name)) {
    return await runCommand(await COMMANDS[name].load(), rest);
  }
  const output = new Output(args.includes("--json"));
  try {
    output.write(answer(name));
    return EXIT.ok;
  } catch (error) {
    return report(error, output, USAGE);
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
