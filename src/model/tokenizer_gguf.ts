/**
 * A tokenizer rebuilt from GGUF metadata, as the contents of a tokenizer.json.
 *
 * @module
 */
import { unsupported } from "./config.ts";
import { CONTROL_TOKEN } from "./config_gguf.ts";
import { Fields } from "./config_fields.ts";
import { checkpointError, type JsonObject } from "./file.ts";
import type { GgufFile } from "./gguf.ts";
import { PRESETS } from "./pretokenizers.ts";
import type { TokenizerSource } from "./tokenizer.ts";
import { mergeRanks } from "./tokenizer_spm.ts";

const UNKNOWN_TOKEN = 2;
const USER_DEFINED_TOKEN = 4;

/** The vocabulary as GGUF stores it. */
interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: Int32Array;
  /** Ids by token; where a token occurs twice, its first id. */
  readonly ids: ReadonlyMap<string, number>;
}

function readVocabulary(file: GgufFile): Vocabulary {
  const { path, metadata } = file;
  const tokens = metadata.get("tokenizer.ggml.tokens");
  if (!Array.isArray(tokens) || tokens.length === 0) {
    throw checkpointError(path, "no tokenizer.ggml.tokens, and no tokenizer.json beside the file");
  }
  const types = metadata.get("tokenizer.ggml.token_type") ?? new Int32Array(tokens.length).fill(1);
  if (!(types instanceof Int32Array) || types.length !== tokens.length) {
    throw checkpointError(path, `tokenizer.ggml.token_type does not fit ${tokens.length} tokens`);
  }
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => ids.has(token) || ids.set(token, id));
  return { tokens, types, ids };
}

/** Tokens whose text is found before anything else: control and user-defined ones. */
function addedTokens({ tokens, types }: Vocabulary): JsonObject[] {
  const added: JsonObject[] = [];
  tokens.forEach((content, id) => {
    if (content.length === 0) return;
    const special = types[id] === CONTROL_TOKEN || types[id] === UNKNOWN_TOKEN;
    if (special || types[id] === USER_DEFINED_TOKEN) {
      added.push({ id, content, special, normalized: false });
    }
  });
  return added;
}

/** What surrounds a text: BOS before, EOS after, each where the file asks for it. */
function postProcessor(
  fields: Fields,
  { tokens }: Vocabulary,
  addBos: boolean,
): JsonObject {
  const token = (name: string): JsonObject => {
    const id = fields.number(name);
    const content = tokens[id];
    if (content === undefined) {
      throw checkpointError(fields.path, `${name} ${id} is outside ${tokens.length} tokens`, {
        id,
      });
    }
    return { SpecialToken: { id: content, type_id: 0 } };
  };
  const single: JsonObject[] = [{ Sequence: { id: "A", type_id: 0 } }];
  if (fields.flag("add_bos_token", addBos) && fields.has("bos_token_id")) {
    single.unshift(token("bos_token_id"));
  }
  if (fields.flag("add_eos_token", false) && fields.has("eos_token_id")) {
    single.push(token("eos_token_id"));
  }
  return { type: "TemplateProcessing", single, pair: [], special_tokens: {} };
}

function byteLevel(file: GgufFile, fields: Fields, vocabulary: Vocabulary): JsonObject {
  const { path, metadata } = file;
  const pre = fields.text("pre", "default");
  const preset = Object.hasOwn(PRESETS, pre) ? PRESETS[pre] : undefined;
  if (preset === undefined) {
    throw unsupported(
      path,
      `pre-tokenizer "${pre}"; supported are ${Object.keys(PRESETS).join(", ")}, ` +
        "or a tokenizer.json beside the file",
      { pre },
    );
  }
  const merges = metadata.get("tokenizer.ggml.merges");
  if (!Array.isArray(merges)) throw checkpointError(path, "no tokenizer.ggml.merges");
  const split = (source: string): JsonObject => ({
    type: "Split",
    pattern: { Regex: source },
    behavior: "Isolated",
    invert: false,
  });
  const bytes = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  return {
    added_tokens: addedTokens(vocabulary),
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [...preset.expressions.map(split), bytes],
    },
    post_processor: postProcessor(fields, vocabulary, preset.addBos),
    decoder: bytes,
    model: {
      type: "BPE",
      vocab: Object.fromEntries(vocabulary.ids),
      merges: merges.map((merge) => {
        // A token may itself begin with a space: the separator is the first one after that.
        const space = merge.indexOf(" ", 1);
        return [merge.slice(0, space), merge.slice(space + 1)];
      }),
      ignore_merges: preset.ignoreMerges,
    },
  };
}

function sentencePiece(fields: Fields, vocabulary: Vocabulary): JsonObject {
  const { tokens, types, ids } = vocabulary;
  const prefix = fields.flag("add_space_prefix", true);
  const unknown = fields.has("unknown_token_id")
    ? tokens[fields.number("unknown_token_id")]
    : tokens[types.indexOf(UNKNOWN_TOKEN)];
  const spaces = { type: "Replace", pattern: { String: " " }, content: "▁" };
  return {
    added_tokens: addedTokens(vocabulary),
    normalizer: {
      type: "Sequence",
      normalizers: prefix ? [{ type: "Prepend", prepend: "▁" }, spaces] : [spaces],
    },
    post_processor: postProcessor(fields, vocabulary, true),
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(ids),
      merges: [],
      unk_token: unknown ?? null,
      byte_fallback: true,
      fuse_unk: true,
    },
  };
}

/**
 * Rebuilds a tokenizer from GGUF metadata: byte-level BPE (`gpt2`) with a named pre-tokenizer, or SentencePiece (`llama`).
 *
 * @param file The parsed header.
 * @param vocabSize Rows of the model's embedding.
 * @returns What {@linkcode Tokenizer} is made from.
 * @throws {MInferenceError} `UNSUPPORTED_MODEL` naming the kind of tokenizer or pre-tokenizer; `CHECKPOINT` where
 * the metadata contradicts itself.
 */
export function tokenizerFromGguf(file: GgufFile, vocabSize: number): TokenizerSource {
  const { path, metadata } = file;
  const fields = new Fields(path, (name) => metadata.get(`tokenizer.ggml.${name}`));
  const vocabulary = readVocabulary(file);
  const kind = fields.text("model");
  switch (kind) {
    case "gpt2":
      return { path, vocabSize, json: byteLevel(file, fields, vocabulary) };
    case "llama": {
      const scores = metadata.get("tokenizer.ggml.scores");
      if (!(scores instanceof Float32Array) || scores.length !== vocabulary.tokens.length) {
        throw checkpointError(
          path,
          `tokenizer.ggml.scores does not fit ${vocabulary.tokens.length} tokens`,
        );
      }
      const ranks = mergeRanks(vocabulary.tokens, vocabulary.types, scores);
      return { path, vocabSize, json: sentencePiece(fields, vocabulary), ranks };
    }
    default:
      throw unsupported(
        path,
        `tokenizer "${kind}"; supported are gpt2 (byte-level BPE) and llama (SentencePiece), ` +
          "or a tokenizer.json beside the file",
        { tokenizer: kind },
      );
  }
}
