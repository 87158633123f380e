/**
 * The models of this machine that commands find by name.
 *
 * @module
 */
import { join } from "node:path";
import { type Checkpoint, openCheckpoint } from "../model/checkpoint.ts";
import { modelFolders } from "../model/locate.ts";
import { toMInferenceError } from "./failure.ts";
import { bytes, millions } from "./format.ts";

/** A model found, or something like one that cannot be used. */
export interface FoundModel {
  /** Its path. */
  readonly path: string;
  /** What it is. */
  readonly description?: string;
  /** Why it cannot be used. */
  readonly problem?: string;
}

/** Parameters of a checkpoint, and their bytes as stored. */
export function checkpointSize({ tensors }: Checkpoint): { parameters: number; bytes: number } {
  const size = { parameters: 0, bytes: 0 };
  for (const { shape, bytes } of tensors.values()) {
    size.parameters += shape.reduce((a, b) => a * b, 1);
    size.bytes += bytes;
  }
  return size;
}

/** `llama, 26.7M parameters, 28.7 MB, gguf`. */
function describe(checkpoint: Checkpoint): string {
  const { config, format } = checkpoint;
  const size = checkpointSize(checkpoint);
  return `${config.architecture}, ${millions(size.parameters)} parameters, ${
    bytes(size.bytes)
  }, ${format}`;
}

async function look(path: string): Promise<FoundModel> {
  try {
    return { path, description: describe(await openCheckpoint(path)) };
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
