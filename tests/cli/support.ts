// What the command line's tests share: running it as its users do, in a process of its own.
import { fileURLToPath } from "node:url";

/** The checkout. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** Folder of the repository's model. */
export const MODEL = `${ROOT}models/needle-27m`;

/** How a process ended. */
export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** How to start one. */
export interface StartOptions {
  /** Permission flags. Default `-A`. */
  permissions?: readonly string[];
  /** Variables beside this process's own. */
  env?: Record<string, string>;
  /** Text for standard input. */
  stdin?: string;
}

/** Starts a script of the checkout. */
export function start(
  script: string,
  args: readonly string[],
  options: StartOptions = {},
): Deno.ChildProcess {
  const { permissions = ["-A"], env, stdin } = options;
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", ...permissions, `${ROOT}${script}`, ...args],
    env: { NO_COLOR: "1", ...env },
    stdin: stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** Waits for the end of a process. */
export async function ended(child: Deno.ChildProcess): Promise<Ended> {
  const { code, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

/** Runs a script of the checkout. */
export async function runScript(
  script: string,
  args: readonly string[],
  options: StartOptions = {},
): Promise<Ended> {
  const child = start(script, args, options);
  if (options.stdin !== undefined) {
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(options.stdin));
    await writer.close();
  }
  return await ended(child);
}

/** Runs `minference` with these arguments. */
export function minference(args: readonly string[], options?: StartOptions): Promise<Ended> {
  return runScript("src/cli/main.ts", args, options);
}

/** A pass key hidden in `characters` of the novel, and the question for it. */
export function passkeyPrompt(characters: number): { text: string; question: string } {
  const novel = Deno.readTextFileSync(`${MODEL}/haystack.txt`).slice(2000, 2000 + characters);
  const middle = novel.indexOf(" ", characters / 3);
  const key = " The pass key is 48213. Remember it. 48213 is the pass key.";
  return {
    text: novel.slice(0, middle) + key + novel.slice(middle),
    question: "What is the pass key? The pass key is",
  };
}
