/**
 * Text to token ids and back.
 *
 * @module
 */
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { MInferenceError } from "../native/errors.ts";
import { Detokenizer } from "./detokenizer.ts";
import { checkpointError, isObject, type JsonObject } from "./file.ts";
import { canSlice, continuing, DEFAULT_SLICE, sliceEnds } from "./slices.ts";

/** Options of {@linkcode Tokenizer.encode}. */
export interface EncodeOptions {
  /** Adds what the model expects around a text, usually a token at its beginning. Default true. */
  addSpecialTokens?: boolean;
  /**
   * Recognises the text of special tokens. Default true. With false, `<|end_of_text|>` in a document is just
   * characters and cannot end anything.
   */
  parseSpecial?: boolean;
}

/** Options of {@linkcode Tokenizer.encodeAsync}. */
export interface EncodeAsyncOptions extends EncodeOptions {
  /** Cancels between slices; rejects with `signal.reason`. */
  signal?: AbortSignal;
  /** Called after each slice with the UTF-16 units done and in all. */
  onProgress?: (done: number, total: number) => void;
  /** Units a slice should have. Default 64 Ki: about 60 ms. */
  sliceLength?: number;
}

/** Options of {@linkcode Tokenizer.decode}. */
export interface DecodeOptions {
  /** Leaves out special tokens. Default true. */
  skipSpecialTokens?: boolean;
}

/** What a tokenizer is made from. */
export interface TokenizerSource {
  /** Where it comes from, for errors. */
  readonly path: string;
  /** Contents of a tokenizer.json. */
  readonly json: JsonObject;
  /** Contents of a tokenizer_config.json. */
  readonly config?: JsonObject;
  /** Rows of the model's embedding; ids beyond it are refused. */
  readonly vocabSize: number;
  /** Ranks that replace the order of the merges (see tokenizer_spm.ts). */
  readonly ranks?: ReadonlyMap<string, number>;
}

/** tokenizer.json as the library wants it: every section present. */
function complete(path: string, json: JsonObject): JsonObject {
  if (!isObject(json.model)) throw checkpointError(path, "no model object");
  return {
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    ...json,
    added_tokens: Array.isArray(json.added_tokens) ? json.added_tokens : [],
  };
}

/**
 * A model's tokenizer, on top of `@huggingface/tokenizers`.
 *
 * @example
 * ```ts ignore
 * const tokenizer = await checkpoint.loadTokenizer();
 * const ids = tokenizer.encode("What is the pass key?");
 * console.log(tokenizer.decode(ids));
 * ```
 */
export class Tokenizer {
  /** Rows of the model's embedding. */
  readonly vocabSize: number;
  readonly #path: string;
  readonly #inner: HuggingFaceTokenizer;
  readonly #sliceable: boolean;
  /** Matches the text of any added token, longest first. */
  readonly #addedPattern: RegExp | undefined;

  /**
   * Builds a tokenizer.
   *
   * @throws {MInferenceError} `CHECKPOINT` where the description is malformed or of an unknown kind.
   */
  constructor(source: TokenizerSource) {
    this.#path = source.path;
    this.vocabSize = source.vocabSize;
    const json = complete(source.path, source.json);
    try {
      this.#inner = new HuggingFaceTokenizer(json, {
        ...source.config,
        // Otherwise decoding drops spaces before punctuation and no longer inverts encoding.
        clean_up_tokenization_spaces: false,
      });
      const { model } = this.#inner;
      if (model === null) throw new Error("no model");
      if (source.ranks !== undefined) Object.assign(model, { bpe_ranks: source.ranks });
    } catch (cause) {
      throw checkpointError(
        source.path,
        `not a usable tokenizer (${(cause as Error).message})`,
        {},
        cause,
      );
    }
    const added = [...this.#inner.get_added_tokens_decoder().values()].map((token) => token.content)
      .filter((content) => content.length > 0);
    if (added.length > 0) {
      const escaped = added.sort((a, b) => b.length - a.length)
        .map((content) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
      this.#addedPattern = new RegExp(escaped.join("|"), "g");
    }
    this.#sliceable = canSlice(json, this.#inner);
  }

  /** Id of a token given as the vocabulary writes it. */
  idOf(token: string): number | undefined {
    return this.#inner.token_to_id(token);
  }

  /** The vocabulary's text of an id. */
  tokenOf(id: number): string | undefined {
    return this.#inner.id_to_token(id);
  }

  /** Matches the text of every added token; global, or undefined where there is none. */
  get addedTokenPattern(): RegExp | undefined {
    return this.#addedPattern && new RegExp(this.#addedPattern);
  }

  /**
   * Encodes a text in one go. Blocks for about a second per megabyte: see {@linkcode Tokenizer.encodeAsync}.
   *
   * @param text The text.
   * @param options See {@linkcode EncodeOptions}.
   * @returns Token ids, all below `vocabSize`.
   * @throws {MInferenceError} `CHECKPOINT` where the tokenizer has an id that the model lacks.
   */
  encode(text: string, options: EncodeOptions = {}): Uint32Array {
    return this.#wrap(this.#tokens(text, options.parseSpecial ?? true), options);
  }

  /**
   * Encodes a text of any length without blocking: in slices that give the same ids as the whole. Where a tokenizer
   * allows no slices (its rules reach across lines), the text is encoded in one go.
   *
   * @param text The text.
   * @param options See {@linkcode EncodeAsyncOptions}.
   * @returns Token ids, all below `vocabSize`.
   * @throws {MInferenceError} As {@linkcode Tokenizer.encode}. Rejects with `signal.reason` when aborted.
   */
  async encodeAsync(text: string, options: EncodeAsyncOptions = {}): Promise<Uint32Array> {
    const { signal, onProgress, parseSpecial = true, sliceLength = DEFAULT_SLICE } = options;
    // Whoever stops this or waits beside it has a turn before each slice.
    const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));
    if (text.length > sliceLength) await pause();
    if (!this.#sliceable) {
      signal?.throwIfAborted();
      const ids = this.encode(text, options);
      onProgress?.(text.length, text.length);
      return ids;
    }
    const tokens: string[][] = [];
    let start = 0;
    for (const end of sliceEnds(text, sliceLength)) {
      signal?.throwIfAborted();
      tokens.push(this.#tokens(text.slice(start, end), parseSpecial, start === 0));
      start = end;
      onProgress?.(end, text.length);
      if (end < text.length) await pause();
    }
    signal?.throwIfAborted();
    return this.#wrap(tokens.flat(), options);
  }

  /** Tokens of a text, without what surrounds it. `first` is false for a slice that continues a text. */
  #tokens(text: string, parseSpecial: boolean, first = true): string[] {
    if (text.length === 0) return [];
    const inner = this.#inner;
    const { normalizer } = inner;
    if (!first) inner.normalizer = continuing(normalizer);
    try {
      if (parseSpecial) return inner.tokenize(text);
      const normalized = inner.normalizer === null ? text : inner.normalizer.normalize(text);
      const pieces = inner.pre_tokenizer === null
        ? [normalized]
        : inner.pre_tokenizer.pre_tokenize(normalized, { section_index: 0 });
      return inner.model!._call(pieces);
    } finally {
      inner.normalizer = normalizer;
    }
  }

  /** Ids of tokens, with what the model expects around a text. */
  #wrap(tokens: string[], options: EncodeOptions): Uint32Array {
    const inner = this.#inner;
    const all = options.addSpecialTokens === false || inner.post_processor === null
      ? tokens
      : inner.post_processor.post_process(tokens, null, true).tokens;
    return Uint32Array.from(all, (token) => {
      const id = inner.token_to_id(token) ?? inner.model!.unk_token_id;
      if (id === undefined || id >= this.vocabSize) {
        throw checkpointError(
          this.#path,
          `token ${
            JSON.stringify(token)
          } has id ${id}, the model's vocabulary has ${this.vocabSize}`,
          { token, id, vocabSize: this.vocabSize },
        );
      }
      return id;
    });
  }

  /**
   * Decodes token ids. Bytes that are not valid UTF-8 become U+FFFD.
   *
   * @param ids Token ids.
   * @param options See {@linkcode DecodeOptions}.
   * @returns The text.
   * @throws {MInferenceError} `INVALID_ARGUMENT` naming an id outside the vocabulary.
   */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const list = Array.from(ids);
    if (list.length === 0) return "";
    const known = list.filter((id) => this.#check(id));
    if (known.length === 0) return "";
    return this.#inner.decode(known, {
      skip_special_tokens: options.skipSpecialTokens ?? true,
    });
  }

  /** Refuses ids outside the embedding; false for padding rows of it, which no token has. */
  #check(id: number): boolean {
    if (!Number.isInteger(id) || id < 0 || id >= this.vocabSize) {
      throw new MInferenceError(
        "INVALID_ARGUMENT",
        `token id ${id} is outside the vocabulary of ${this.vocabSize}`,
        { details: { id, vocabSize: this.vocabSize } },
      );
    }
    return this.#inner.id_to_token(id) !== undefined;
  }

  /** A decoder for ids that arrive one by one. */
  detokenizer(options: DecodeOptions = {}): Detokenizer {
    return new Detokenizer((ids) => this.decode(ids, options));
  }
}
