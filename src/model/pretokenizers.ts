/**
 * The splitting expressions of byte-level BPE, by the names GGUF gives them.
 *
 * @module
 */

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const CONTRACTIONS_SPELT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const REST = String
  .raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const WORDS_DIGITS = String.raw`|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}`;

/** GPT-2's expression. */
const GPT2 = String
  .raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
/** Digits in groups of three: Llama 3, GLM-4. */
const LLAMA3 = `${CONTRACTIONS}${WORDS_DIGITS}{1,3}${REST}`;
/** Single digits: Qwen. */
const QWEN2 = `${CONTRACTIONS}${WORDS_DIGITS}${REST}`;
/** Words also break where small letters turn to capitals: Mistral Nemo. */
const TEKKEN = String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*` +
  String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+` +
  String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
/** llama.cpp's rule for files without a name: punctuation and triples of digits apart, then GPT-2. */
const DEFAULT = [String.raw`[\p{P}\$\+<=>\^~\|]+`, GPT2, String.raw`\p{N}+`, "[0-9][0-9][0-9]"];

/**
 * Expressions none of whose matches joins a newline with a letter after it, so that a text may be cut there. Both
 * spellings of the contractions occur in published files.
 */
export const LINE_BOUND_EXPRESSIONS: ReadonlySet<string> = new Set([
  ...DEFAULT,
  LLAMA3,
  QWEN2,
  TEKKEN,
  LLAMA3.replace(CONTRACTIONS, CONTRACTIONS_SPELT),
  QWEN2.replace(CONTRACTIONS, CONTRACTIONS_SPELT),
]);

/** How a named pre-tokenizer works. */
export interface PreTokenizerPreset {
  /** Applied one after the other; matches and what lies between them become pieces. */
  readonly expressions: readonly string[];
  /** A piece that is a token stays whole whatever the merges say. */
  readonly ignoreMerges: boolean;
  /** Texts begin with BOS unless the file says otherwise. */
  readonly addBos: boolean;
}

const LLAMA3_PRESET: PreTokenizerPreset = {
  expressions: [LLAMA3],
  ignoreMerges: true,
  addBos: true,
};
const GLM4_PRESET: PreTokenizerPreset = {
  expressions: [LLAMA3],
  ignoreMerges: false,
  addBos: false,
};
const QWEN2_PRESET: PreTokenizerPreset = {
  expressions: [QWEN2],
  ignoreMerges: false,
  addBos: false,
};

/** Presets by `tokenizer.ggml.pre`. */
export const PRESETS: Readonly<Record<string, PreTokenizerPreset>> = {
  "default": { expressions: DEFAULT, ignoreMerges: false, addBos: false },
  "gpt-2": { expressions: [GPT2], ignoreMerges: false, addBos: false },
  "llama-bpe": LLAMA3_PRESET,
  "llama3": LLAMA3_PRESET,
  "llama-v3": LLAMA3_PRESET,
  "smaug-bpe": { ...LLAMA3_PRESET, ignoreMerges: false, addBos: false },
  "qwen2": QWEN2_PRESET,
  "deepseek-r1-qwen": QWEN2_PRESET,
  "chatglm-bpe": GLM4_PRESET,
  "glm4": GLM4_PRESET,
  "tekken": { expressions: [TEKKEN], ignoreMerges: true, addBos: true },
};
