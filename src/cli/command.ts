/**
 * What a command is, and how one is run: help, results, failures, Ctrl-C and exit codes.
 *
 * @module
 */
import { environment } from "../native/environment.ts";
import { COMMON, optionHelp, type Options, parse, UsageError, type Values } from "./args.ts";
import { Interrupt } from "./interrupt.ts";
import { errorJson, toMInferenceError } from "./failure.ts";
import { Output } from "./output.ts";

/** Exit codes of the command line. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130 } as const;

/** One call of a command. */
export interface Invocation<O extends Options> {
  /** Options given. */
  readonly values: Values<O & typeof COMMON>;
  /** Arguments that are no options; as many as the command asks for. */
  readonly positionals: readonly string[];
  /** Where results and notes go. */
  readonly output: Output;
  /** Aborts at the first Ctrl-C. */
  readonly signal: AbortSignal;
}

/** A command of the command line. */
export interface Command<O extends Options = Options> {
  /** What calls it, e.g. `minference run`. */
  readonly name: string;
  /** Positional arguments as the help shows them, in order; those in brackets may be left out. */
  readonly positionals: readonly string[];
  /** More for the help: what it does, examples. */
  readonly description: string;
  /** Its options. */
  readonly options: O;
  /**
   * Runs it.
   *
   * @returns The exit code, if not 0.
   */
  run(invocation: Invocation<O>): Promise<number | void>;
}

/** A command with its option types inferred. */
export function defineCommand<const O extends Options>(command: Command<O>): Command<O> {
  return command;
}

function usageLine({ name, positionals }: Command<Options>): string {
  return ["Usage:", name, ...positionals, "[options]"].join(" ");
}

/** The text of `--help`. */
function commandHelp(command: Command<Options>): string {
  const options = optionHelp({ ...command.options, ...COMMON });
  return `${usageLine(command)}\n\n${command.description}\n\nOptions:\n${options}\n`;
}

function checkPositionals(command: Command<Options>, given: readonly string[]): void {
  const missing = command.positionals.find((name, i) => !name.startsWith("[") && !given[i]);
  if (missing) throw new UsageError(`${command.name} needs ${missing}`);
  if (given.length > command.positionals.length) {
    throw new UsageError(`unexpected argument "${given[command.positionals.length]}"`);
  }
}

/**
 * Runs a command and turns whatever comes of it into output and an exit code.
 *
 * @param command The command.
 * @param args Its arguments.
 * @returns 0, 1 (failed), 2 (makes no sense) or 130 (interrupted).
 */
export async function runCommand<O extends Options>(
  command: Command<O>,
  args: readonly string[],
): Promise<number> {
  const untyped = command as unknown as Command<Options>;
  const output = new Output(args.includes("--json"));
  using interrupt = new Interrupt(() => {
    const afterEcho = Deno.stderr.isTerminal() ? "\n" : ""; // the terminal has shown ^C
    output.note(`${afterEcho}interrupted; once more quits at once`);
  });
  try {
    const { values, positionals } = parse(args, command.options);
    if (values.help) {
      output.write(commandHelp(untyped));
      return EXIT.ok;
    }
    checkPositionals(untyped, positionals);
    const { signal } = interrupt;
    const code = await command.run({ values, positionals, output, signal });
    return signal.aborted ? EXIT.interrupted : code ?? EXIT.ok;
  } catch (error) {
    if (interrupt.signal.aborted) {
      output.failure("interrupted", { code: "ABORTED", message: "interrupted", details: {} });
      return EXIT.interrupted;
    }
    return report(error, output, `${usageLine(untyped)}; --help tells more`);
  }
}

/**
 * Prints a failure.
 *
 * @param error What was thrown.
 * @param output Where to.
 * @param usage Line that follows an error of usage.
 * @returns The exit code.
 */
export function report(error: unknown, output: Output, usage: string): number {
  if (error instanceof Deno.errors.BrokenPipe) return EXIT.ok; // the reader has all it wanted
  if (error instanceof UsageError) {
    const { message } = error;
    output.failure(`${message}\n${usage}`, { code: "USAGE", message, details: {} });
    return EXIT.usage;
  }
  const failure = toMInferenceError(error);
  output.failure(`${failure.message} [${failure.code}]`, errorJson(failure));
  const unexpected = failure.code === "INTERNAL" || environment("MINFERENCE_DEBUG");
  if (unexpected && failure.stack) output.note((failure.cause as Error)?.stack ?? failure.stack);
  return EXIT.failure;
}
