/**
 * The models of this machine that commands find by name.
 *
 * @module
 */
import { join } from "node:path";
import { type Checkpoint, openCheckpoint } from "../model/checkpoint.ts";
import { modelFolders } from "../model/locate.ts";
import { toMInferenceError } from "./failure.ts";

/** A model found, or something like one that cannot be used. */
export interface FoundModel {
  /** Its path. */
  readonly path: string;
  /** What it is. */
  readonly description?: string;
  /** Why it cannot be used. */
  readonly problem?: string;
}

/** `llama, 26.7M parameters, 28.7 MB, gguf`. */
function describeCheckpoint({ config, tensors, format }: Checkpoint): string {
  let parameters = 0;
  let size = 0;
  for (const { shape, bytes } of tensors.values()) {
    parameters += shape.reduce((a, b) => a * b, 1);
    size += bytes;
  }
  return `${config.architecture}, ${millions(parameters)} parameters, ${
    (size / 1e6).toFixed(1)
  } MB, ${format}`;
}

/** `26.7M`, `8.03B`. */
export function millions(parameters: number): string {
  return parameters < 1e9
    ? `${(parameters / 1e6).toFixed(1)}M`
    : `${(parameters / 1e9).toFixed(2)}B`;
}

async function look(path: string): Promise<FoundModel> {
  try {
    return { path, description: describeCheckpoint(await openCheckpoint(path)) };
  } catch (error) {
    return { path, problem: toMInferenceError(error).message };
  }
}

/** Lists the folders that are searched, and the models in them. */
export async function findModels(): Promise<{ folders: string[]; models: FoundModel[] }> {
  const folders = modelFolders();
  const models: FoundModel[] = [];
  for (const folder of folders) {
    let entries: Deno.DirEntry[];
    try {
      entries = await Array.fromAsync(Deno.readDir(folder));
    } catch (error) {
      const missing = error instanceof Deno.errors.NotFound;
      const problem = missing ? `${folder} is not there` : toMInferenceError(error).message;
      models.push({ path: folder, problem });
      continue;
    }
    for (const { name, isDirectory } of entries.sort((a, b) => a.name < b.name ? -1 : 1)) {
      if (isDirectory || name.endsWith(".gguf")) models.push(await look(join(folder, name)));
    }
  }
  return { folders, models };
}
