/**
 * Pattern files: which sparse pattern each head of a model has, as the reference implementation's offline search writes
 * it (arXiv 2407.02490, section 3.2): a list over the layers of `{"head": [pattern, vertical, slash, score]}`.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { DEFAULT_PATTERN, type HeadPattern, resolvePattern } from "../attention/patterns.ts";
import type { CallOptions } from "../device/device.ts";
import { MInferenceError } from "../native/errors.ts";
import { download } from "../net/download.ts";
import { checkpointError, isObject, readTextIfThere } from "./file.ts";

/** The model a pattern file is read for. */
export interface PatternTarget {
  /** Decoder layers. */
  readonly layers: number;
  /** Query heads of a layer. */
  readonly heads: number;
  /** For errors. */
  readonly modelName?: string;
}

/**
 * Key of a layer under which this package's search says what the list cannot: `{"head": {"pattern": ...}}`, with the
 * density and recall it measured. The reference implementation looks heads up by number and never sees it.
 */
export const PATTERNS_KEY = "minference";

/** Key blocks of a block-sparse head: the file has no field for it, the reference uses 100. */
const BLOCK_SPARSE_TOP_K = 100;

function parseHead(where: string, layer: number, head: number, value: unknown): HeadPattern {
  const fail = (message: string): MInferenceError =>
    checkpointError(where, `layer ${layer}, head ${head}: ${message}`, { layer, head });
  if (!Array.isArray(value) || value.length < 3) {
    throw fail(`${JSON.stringify(value)} is not [pattern, vertical, slash, score]`);
  }
  const [pattern, vertical, slash] = value;
  const size = (name: string, n: unknown, least: number): number => {
    if (!Number.isSafeInteger(n) || (n as number) < least || (n as number) > 0x7fffffff) {
      throw fail(`${name} is ${JSON.stringify(n)}, an integer from ${least} is needed`);
    }
    return n as number;
  };
  switch (pattern) {
    case "vertical_and_slash":
      return {
        kind: "vertical_slash",
        vertical: size("vertical size", vertical, 0),
        slash: size("slash size", slash, 0),
      };
    case "stream_llm":
      return {
        kind: "a_shape",
        sink: size("sink size", vertical, 0),
        local: size("local size", slash, 1),
      };
    case "block_sparse":
      return { kind: "block_sparse", topK: BLOCK_SPARSE_TOP_K };
    default:
      throw fail(
        `unknown pattern ${
          JSON.stringify(pattern)
        }; known are vertical_and_slash, stream_llm, block_sparse`,
      );
  }
}

/**
 * Interprets the contents of a pattern file.
 *
 * @param where Where it comes from, for errors.
 * @param text JSON.
 * @param target The model; heads the file does not name get {@linkcode DEFAULT_PATTERN}.
 * @returns Patterns as [layer][query head].
 * @throws {MInferenceError} `CHECKPOINT` naming layer and head, or the numbers of layers and heads that do not fit.
 */
export function parsePatterns(where: string, text: string, target: PatternTarget): HeadPattern[][] {
  const { layers, heads, modelName = "the model" } = target;
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch (cause) {
    throw checkpointError(where, `not valid JSON (${(cause as Error).message})`, {}, cause);
  }
  if (!Array.isArray(list)) throw checkpointError(where, "not a list of layers");
  if (list.length !== layers) {
    throw checkpointError(where, `patterns of ${list.length} layers, ${modelName} has ${layers}`, {
      given: list.length,
      layers,
    });
  }
  return list.map((entry: unknown, layer) => {
    if (!isObject(entry)) {
      throw checkpointError(where, `layer ${layer} is not an object of heads`, { layer });
    }
    const patterns: HeadPattern[] = Array(heads).fill(DEFAULT_PATTERN);
    const headOf = (key: string): number => {
      const head = /^\d{1,6}$/.test(key) ? Number(key) : -1;
      if (head >= 0 && head < heads) return head;
      throw checkpointError(
        where,
        `layer ${layer}: head ${JSON.stringify(key)}, ${modelName} has heads 0 to ${heads - 1}`,
        { layer, head: key, heads },
      );
    };
    const { [PATTERNS_KEY]: extension = {}, ...upstream } = entry;
    for (const [key, value] of Object.entries(upstream)) {
      const head = headOf(key);
      patterns[head] = parseHead(where, layer, head, value);
    }
    if (!isObject(extension)) {
      throw checkpointError(where, `layer ${layer}: ${PATTERNS_KEY} is not an object of heads`, {
        layer,
      });
    }
    for (const [key, value] of Object.entries(extension)) {
      const head = headOf(key);
      patterns[head] = parseExtension(where, layer, head, value);
    }
    return patterns;
  });
}

/** A pattern of this package, as it is. */
function parseExtension(where: string, layer: number, head: number, value: unknown): HeadPattern {
  const pattern = isObject(value) ? value.pattern : undefined;
  try {
    if (!isObject(pattern)) throw new Error(`head ${head}: no pattern object`);
    resolvePattern(pattern as unknown as HeadPattern, head);
    return pattern as unknown as HeadPattern;
  } catch (cause) {
    const message = `layer ${layer}, ${(cause as Error).message}`;
    throw checkpointError(where, message, { layer, head }, cause);
  }
}

/** Largest file that is fetched: the biggest published one, of 5120 heads, takes 0.3 MB. */
const MAX_FETCHED_BYTES = 16 * 2 ** 20;

/**
 * Reads the text of a pattern file.
 *
 * @param source A path, or a file:, http: or https: URL.
 * @param options `signal` stops a download.
 * @returns Where it was read, for errors, and the text.
 * @throws {MInferenceError} `IO`, `PERMISSION` or `NETWORK`; `signal.reason` on abort.
 */
export async function readPatternText(
  source: string | URL,
  options: CallOptions = {},
): Promise<{ where: string; text: string }> {
  const url = source instanceof URL
    ? source
    : /^(file|https?):/.test(source)
    ? new URL(source)
    : undefined;
  if (url !== undefined && url.protocol !== "file:") {
    const bytes = await download(url, { ...options, limit: MAX_FETCHED_BYTES });
    return { where: url.href, text: new TextDecoder().decode(bytes) };
  }
  const path = url === undefined ? source as string : fileURLToPath(url);
  const text = await readTextIfThere(path);
  if (text === undefined) {
    throw new MInferenceError("IO", `no pattern file ${path}`, { details: { path } });
  }
  return { where: path, text };
}

/**
 * Reads a pattern file.
 *
 * @param source A path, or a file:, http: or https: URL.
 * @param target The model.
 * @param options `signal` stops a download.
 * @returns Patterns as [layer][query head].
 * @throws {MInferenceError} `IO`, `PERMISSION` or `NETWORK` where it cannot be read, else as {@linkcode parsePatterns}.
 *
 * @example
 * ```ts ignore
 * const patterns = await readPatternFile("Llama_3_8B_kv_out.json", { layers: 32, heads: 32 });
 * ```
 */
export async function readPatternFile(
  source: string | URL,
  target: PatternTarget,
  options: CallOptions = {},
): Promise<HeadPattern[][]> {
  const { where, text } = await readPatternText(source, options);
  return parsePatterns(where, text, target);
}
