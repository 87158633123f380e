/**
 * Cutting a long text where a tokenizer cannot tell.
 *
 * @module
 */
import type { Tokenizer } from "@huggingface/tokenizers";
import { isObject, type JsonObject } from "./file.ts";
import { LINE_BOUND_EXPRESSIONS } from "./pretokenizers.ts";

/** UTF-16 units of a slice: about 60 ms of tokenization. */
export const DEFAULT_SLICE = 65_536;

type Normalizer = NonNullable<Tokenizer["normalizer"]>;

/** All objects inside a section of tokenizer.json, sequences flattened. */
function steps(section: unknown): JsonObject[] {
  if (!isObject(section)) return [];
  const inner = section.normalizers ?? section.pretokenizers;
  return Array.isArray(inner) ? inner.flatMap(steps) : [section];
}

// Where a text is cut: between a line that ends in a visible character and a line that begins with a letter, and before
// the space between two letters.
const CUT = /[^\s\p{White_Space}]\n(?=\p{L})|\p{L}(?= \p{L})/gu;

/**
 * Whether {@linkcode sliceEnds} leaves the ids as they are. True for two families, which cover the supported models:
 *
 *  - Byte-level BPE whose pre-tokenizer is one of the GPT-2 descended expressions: none of their alternatives reaches
 *    across a newline into a letter, and with a visible character before the newline no run of white space is split. A
 *    single space goes with the letter that follows it.
 *  - SentencePiece BPE over the whole text: a merge across a cut would need a token that goes across one.
 *
 * @param json The tokenizer.json.
 * @param tokenizer The tokenizer built from it.
 */
export function canSlice(json: JsonObject, tokenizer: Tokenizer): boolean {
  const normalizers = steps(json.normalizer);
  const preTokenizers = steps(json.pre_tokenizer);
  const added = [...tokenizer.get_added_tokens_decoder().values()];
  if (added.some((token) => /\n|\p{L} \p{L}/u.test(token.content))) return false;
  // One that takes the white space beside it along, and may stand beside a cut.
  if (added.some((t) => t.lstrip && /^\p{L}/u.test(t.content))) return false;
  if (added.some((t) => t.rstrip && /\p{L}$/u.test(t.content))) return false;

  const last = preTokenizers.at(-1);
  if (last?.type === "ByteLevel") {
    return last.add_prefix_space !== true &&
      normalizers.every((step) => step.type === "NFC") &&
      preTokenizers.every((step) => step === last || isLineBound(step));
  }
  const isSentencePiece = isObject(json.model) && json.model.type === "BPE" &&
    json.model.byte_fallback === true && preTokenizers.length === 0;
  return isSentencePiece &&
    normalizers.every((step) => step.type === "Prepend" || isSpaceReplacement(step)) &&
    tokenizer.model!.vocab.every((token) => !/\n\p{L}|\p{L}\u2581/u.test(token));
}

function isLineBound(step: JsonObject): boolean {
  if (step.type === "Digits") return true;
  return step.type === "Split" && isObject(step.pattern) &&
    LINE_BOUND_EXPRESSIONS.has(String(step.pattern.Regex));
}

function isSpaceReplacement(step: JsonObject): boolean {
  return step.type === "Replace" && isObject(step.pattern) && step.pattern.String === " ";
}

/**
 * A normalizer for a slice that continues a text: without what it puts before a text.
 *
 * @param normalizer The tokenizer's normalizer.
 * @returns The same one where it prepends nothing, else one for a single slice.
 */
export function continuing(normalizer: Tokenizer["normalizer"]): Tokenizer["normalizer"] {
  const prefix = normalizer && steps(normalizer.config).find((step) => step.type === "Prepend");
  if (!prefix) return normalizer;
  const { length } = String(prefix.prepend);
  // Only the slice's first section continues something; sections after a special token begin anew.
  let first = true;
  const normalize = (text: string): string => {
    const normalized = normalizer.normalize(text);
    if (!first) return normalized;
    first = false;
    return normalized.slice(length);
  };
  return Object.assign(normalize, {
    config: normalizer.config,
    normalize,
  }) as unknown as Normalizer;
}

/**
 * Ends of the slices of a text.
 *
 * @param text The text.
 * @param length Units a slice should have at least.
 * @returns Increasing positions; the last one is `text.length`.
 */
export function* sliceEnds(text: string, length: number): Generator<number> {
  const cut = new RegExp(CUT);
  let start = 0;
  while (start + length < text.length) {
    cut.lastIndex = start + length;
    if (!cut.test(text)) break;
    start = cut.lastIndex;
    yield start;
  }
  yield text.length;
}
