/**
 * The peer of the CPU benchmark: llama.cpp through the npm package node-llama-cpp, in a git-ignored folder.
 *
 * @module
 */
import { type PrefillJob, type PrefillReport, runWorker } from "./worker.ts";

/** Version measured against. */
export const PEER_VERSION = "3.22.1";

const folder = new URL("../../.peers/", import.meta.url).pathname;

const PLATFORM: Readonly<Record<string, string>> = { x86_64: "linux-x64", aarch64: "linux-arm64" };

/** Folder of the installed peer, null where it is not installed. */
export async function findPeer(): Promise<string | null> {
  try {
    const file = `${folder}node_modules/node-llama-cpp/package.json`;
    const { version } = JSON.parse(await Deno.readTextFile(file));
    return version === PEER_VERSION ? folder : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/**
 * Installs the peer: the package and this machine's CPU binary alone (85 MB; its GPU binaries would be
 * 0.7 GB more), without install scripts.
 *
 * @throws {Error} If npm fails.
 */
export async function installPeer(): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(`${folder}package.json`, '{ "private": true }\n');
  const { success } = await new Deno.Command("npm", {
    args: [
      "install",
      "--omit=optional",
      "--ignore-scripts",
      "--no-audit",
      "--no-fund",
      `node-llama-cpp@${PEER_VERSION}`,
      `@node-llama-cpp/${PLATFORM[Deno.build.arch]}@${PEER_VERSION}`,
    ],
    cwd: folder,
    stdout: "inherit",
    stderr: "inherit",
  }).output();
  if (!success) throw new Error("npm install of the peer failed");
}

/** Reads a prompt with the peer, in a process of its own. */
export function runPeer(job: PrefillJob): Promise<PrefillReport> {
  return runWorker("peer_worker.ts", job, ["--no-config", "--node-modules-dir=manual"]);
}
