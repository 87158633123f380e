/**
 * Checked access to the fields of a config.json or of GGUF metadata.
 *
 * @module
 */
import { unsupported } from "./config.ts";
import { checkpointError } from "./file.ts";

/** Looks fields up by name and checks their types; every error names the field and its value. */
export class Fields {
  /** Where the fields come from. */
  readonly path: string;
  readonly #get: (name: string) => unknown;

  /**
   * Wraps an object.
   *
   * @param path Where the fields come from, for errors.
   * @param get Returns a field, `undefined` where it is absent. null counts as absent.
   */
  constructor(path: string, get: (name: string) => unknown) {
    this.path = path;
    this.#get = (name) => get(name) ?? undefined;
  }

  #wrong(name: string, wanted: string, value: unknown): never {
    const shown = JSON.stringify(value, (_, v) => typeof v === "bigint" ? Number(v) : v);
    throw checkpointError(
      this.path,
      `${name} is ${shown === undefined ? "missing" : shown.slice(0, 100)}, ${wanted} is needed`,
      { name, value: shown },
    );
  }

  /** Whether the field is there. */
  has(name: string): boolean {
    return this.#get(name) !== undefined;
  }

  /** The field as it is. */
  raw(name: string): unknown {
    return this.#get(name);
  }

  /** A finite number; without a fallback the field is required. */
  number(name: string, fallback?: number): number {
    let value = this.#get(name);
    if (value === undefined && fallback !== undefined) return fallback;
    if (
      typeof value === "bigint" && value >= -(2n ** 53n - 1n) && value <= 2n ** 53n - 1n
    ) value = Number(value);
    if (typeof value !== "number" || !Number.isFinite(value)) this.#wrong(name, "a number", value);
    return value;
  }

  /** A positive integer that a double holds exactly. */
  size(name: string, fallback?: number): number {
    const value = this.number(name, fallback);
    if (!Number.isSafeInteger(value) || value < 1) this.#wrong(name, "a positive integer", value);
    return value;
  }

  /**
   * A size that files may give once or per layer.
   *
   * @throws {MInferenceError} `UNSUPPORTED_MODEL` naming the first layer that differs from layer 0.
   */
  sizeOfLayers(name: string, fallback?: number): number {
    const value = this.#get(name);
    const list: unknown[] = Array.isArray(value) || ArrayBuffer.isView(value)
      ? Array.from(value as ArrayLike<unknown>)
      : [];
    if (list.length === 0) return this.size(name, fallback);
    const sizes = list.map((_, layer) =>
      new Fields(this.path, () => list[layer]).size(`${name}[${layer}]`)
    );
    const layer = sizes.findIndex((size) => size !== sizes[0]);
    if (layer < 0) return sizes[0];
    throw unsupported(
      this.path,
      `${name} differs by layer: ${sizes[0]} in layer 0, ${sizes[layer]} in layer ${layer}`,
      { name, layer, sizes },
    );
  }

  /** A boolean. */
  flag(name: string, fallback: boolean): boolean {
    const value = this.#get(name) ?? fallback;
    if (typeof value !== "boolean") this.#wrong(name, "true or false", value);
    return value;
  }

  /** A string. */
  text(name: string, fallback?: string): string {
    const value = this.#get(name) ?? fallback;
    if (typeof value !== "string") this.#wrong(name, "a string", value);
    return value;
  }

  /** An array of numbers. */
  numbers(name: string): readonly number[] {
    const value = this.#get(name);
    if (!Array.isArray(value) || !value.every((n) => typeof n === "number")) {
      this.#wrong(name, "an array of numbers", value);
    }
    return value;
  }

  /** One token id or several, as `eos_token_id` may be either. */
  ids(name: string): readonly number[] {
    const value = this.#get(name);
    if (value === undefined) return [];
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    if (!ids.every((id) => Number.isSafeInteger(id))) this.#wrong(name, "a token id", value);
    return ids as number[];
  }
}
