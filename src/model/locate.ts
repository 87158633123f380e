/**
 * Finding a model by path or by name.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { join, resolve } from "node:path";
import { environment } from "../native/environment.ts";
import { MInferenceError } from "../native/errors.ts";
import { stat } from "./file.ts";

/** Folders that hold models: `MINFERENCE_MODELS`, then `models/` of a checkout of this package. */
export function modelFolders(): string[] {
  const folders: string[] = [];
  const folder = environment("MINFERENCE_MODELS");
  if (folder) folders.push(folder);
  const { url } = import.meta;
  if (url.startsWith("file:")) folders.push(fileURLToPath(new URL("../../models", url)));
  return folders;
}

/**
 * Finds a model.
 *
 * @param source A path or file URL, or the name of a folder or file in `MINFERENCE_MODELS` or in the checkout's `models/`.
 * @returns An absolute path that exists.
 * @throws {MInferenceError} `IO` listing every path that was tried; `PERMISSION`.
 */
export async function locateModel(source: string | URL): Promise<string> {
  const isUrl = source instanceof URL || source.startsWith("file:");
  const given = isUrl ? fileURLToPath(source) : source;
  const tried = [resolve(given)];
  if (!isUrl) tried.push(...modelFolders().map((folder) => resolve(join(folder, given))));
  for (const path of tried) {
    if (await stat(path) !== undefined) return path;
  }
  throw new MInferenceError("IO", `no model ${given}; tried ${tried.join(", ")}`, {
    details: { model: given, tried },
  });
}
