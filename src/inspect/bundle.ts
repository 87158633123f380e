/**
 * The page's script: src/inspect/page and Observable Plot in one piece, made by esbuild when it is asked for.
 *
 * @module
 */
import type { Plugin } from "esbuild";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { MInferenceError } from "../native/errors.ts";

/** The page's own modules, fetched by URL: they may lie in a checkout or on the registry's server. */
const OWN = "own";
/** Files of npm packages, which lie in Deno's cache. */
const PACKAGE = "file";

/** Finds modules where Deno has them; esbuild alone knows node_modules folders only. */
const denoModules: Plugin = {
  name: "deno-modules",
  setup(build): void {
    build.onResolve({ filter: /.*/ }, ({ path, importer, namespace, kind }) => {
      if (kind === "entry-point") return { path, namespace: OWN };
      if (namespace === OWN) {
        return /^\.{1,2}\//.test(path)
          ? { path: new URL(path, importer).href, namespace: OWN }
          : { path: fileURLToPath(import.meta.resolve(path)), namespace: PACKAGE };
      }
      return /^[./]/.test(path) ? undefined : { path: createRequire(importer).resolve(path) };
    });
    build.onLoad({ filter: /.*/, namespace: OWN }, async ({ path }) => {
      const contents = await (await fetch(path)).text();
      return { contents, loader: path.endsWith(".css") ? "css" : "ts" };
    });
  },
};

/** esbuild is a program; where it may not be started its package throws whatever comes of that. */
async function checkRunnable(cause: unknown): Promise<void> {
  const { state } = await Deno.permissions.query({ name: "run" });
  if (state === "granted") return;
  const flag = "--allow-run";
  const message = `no permission to start esbuild, which makes the page: run with ${flag}`;
  throw new MInferenceError("PERMISSION", message, { cause, details: { flag } });
}

/**
 * Bundles a module of the page.
 *
 * @param entry The module, relative to this one.
 * @returns Minified JavaScript or CSS.
 * @throws {MInferenceError} `INTERNAL` with esbuild's messages, `NETWORK` where its package cannot be had, `PERMISSION`
 * where it cannot be started.
 */
export async function bundle(entry: string): Promise<string> {
  let esbuild: typeof import("esbuild");
  try {
    esbuild = await import("esbuild");
    await import("@observablehq/plot"); // brings the package into Deno's cache
  } catch (cause) {
    if (cause instanceof Deno.errors.NotCapable) throw cause; // tells the flag
    throw new MInferenceError(
      "NETWORK",
      `the page needs esbuild and @observablehq/plot: ${cause}`,
      {
        cause,
      },
    );
  }
  try {
    const { outputFiles } = await esbuild.build({
      entryPoints: [new URL(entry, import.meta.url).href],
      outdir: "out", // names the output; nothing is written
      bundle: true,
      minify: true,
      write: false,
      format: "iife",
      target: "es2022",
      charset: "utf8",
      legalComments: "none",
      logLevel: "silent",
      plugins: [denoModules],
    });
    return outputFiles[0].text;
  } catch (cause) {
    await checkRunnable(cause);
    throw new MInferenceError("INTERNAL", `esbuild: ${(cause as Error).message}`, { cause });
  } finally {
    await esbuild.stop();
  }
}
