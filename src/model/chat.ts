/**
 * Conversations rendered by a checkpoint's own Jinja template.
 *
 * @module
 */
import { Template } from "@huggingface/jinja";
import type { CallOptions } from "../device/device.ts";
import { MInferenceError } from "../native/errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { type OnProgress, Reporter } from "./progress.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A message of a conversation. */
export interface ChatMessage {
  /** Its author. */
  readonly role: "system" | "user" | "assistant" | "tool";
  /** Its text. */
  readonly content: string;
}

/** Options of {@linkcode renderChat}. */
export interface ChatOptions {
  /** Ends with what begins an answer. Default true. */
  addGenerationPrompt?: boolean;
  /** More variables for the template, e.g. `enable_thinking`. */
  variables?: Readonly<Record<string, unknown>>;
}

/** What a conversation is rendered with. */
export type ChatSource = Pick<Checkpoint, "path" | "chatTemplate" | "specialTokens">;

/**
 * Renders a conversation.
 *
 * @param checkpoint Gives the template.
 * @param messages The conversation.
 * @param options See {@linkcode ChatOptions}.
 * @returns The prompt, special tokens written out: encode it with `addSpecialTokens: false`.
 * @throws {MInferenceError} `UNSUPPORTED_MODEL` where there is no template, `CHECKPOINT` where it is malformed,
 * `INVALID_ARGUMENT` where it refuses the messages.
 */
export function renderChat(
  checkpoint: ChatSource,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): string {
  const { path, chatTemplate, specialTokens } = checkpoint;
  if (chatTemplate === undefined) {
    throw new MInferenceError(
      "UNSUPPORTED_MODEL",
      `${path} has no chat template: give a prompt in the model's own form instead`,
      { details: { path } },
    );
  }
  let template: Template;
  try {
    template = new Template(chatTemplate);
  } catch (cause) {
    throw new MInferenceError(
      "CHECKPOINT",
      `${path}: the chat template is malformed (${(cause as Error).message})`,
      { cause, details: { path } },
    );
  }
  try {
    return template.render({
      ...options.variables,
      messages,
      bos_token: specialTokens.bos ?? "",
      eos_token: specialTokens.eos ?? "",
      add_generation_prompt: options.addGenerationPrompt ?? true,
    });
  } catch (cause) {
    throw new MInferenceError(
      "INVALID_ARGUMENT",
      `${path}: the chat template refuses the messages (${(cause as Error).message})`,
      { cause, details: { path } },
    );
  }
}

/** A noncharacter, which no text holds: marks special-token text that came from a message. */
const MARK = "\uFDD0";

/** A stretch of a rendered conversation. */
interface Stretch {
  readonly text: string;
  /** Whether the text of a special token in it is that token. */
  readonly parseSpecial: boolean;
}

/** Cuts a conversation at its special tokens; what has a mark is plain text, everything else encoded as usual. */
function stretches(conversation: string, special: RegExp | undefined): Stretch[] {
  const cut: Stretch[] = [];
  let usual = "";
  const flush = (): void => {
    if (usual) cut.push({ text: usual, parseSpecial: true });
    usual = "";
  };
  for (const text of special ? conversation.split(RegExp(`(${special.source})`)) : [conversation]) {
    if (!text.includes(MARK)) {
      usual += text;
      continue;
    }
    flush();
    cut.push({ text: text.replaceAll(MARK, ""), parseSpecial: false });
  }
  flush();
  return cut;
}

/** Options of {@linkcode encodeChat}. */
export interface EncodeChatOptions extends ChatOptions, CallOptions {
  /** Receives progress of the tokenization. */
  onProgress?: OnProgress;
}

/**
 * Encodes a conversation of any length without blocking. Only the template's own special tokens become special:
 * `<|eot_id|>` inside a message is plain text and ends nothing.
 *
 * @param checkpoint Gives the template.
 * @param tokenizer The model's tokenizer.
 * @param messages The conversation.
 * @param options See {@linkcode EncodeChatOptions}.
 * @returns Token ids of the prompt.
 * @throws {MInferenceError} As {@linkcode renderChat}. Rejects with `signal.reason` when aborted.
 *
 * @example
 * ```ts ignore
 * const messages = [{ role: "user", content: "What is the pass key?" }] as const;
 * await session.prefill(await encodeChat(model.checkpoint, model.tokenizer, messages));
 * ```
 */
export async function encodeChat(
  checkpoint: ChatSource,
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: EncodeChatOptions = {},
): Promise<Uint32Array> {
  const { signal, onProgress } = options;
  const special = tokenizer.addedTokenPattern;
  // The mark goes behind the first character of a special token's text, so that the text no longer is one.
  const defuse = (text: string): string => {
    const plain = text.replaceAll(MARK, "\uFFFD");
    return special === undefined
      ? plain
      : plain.replace(special, (token) => token.slice(0, 1) + MARK + token.slice(1));
  };
  const defused = messages.map((message) => ({ ...message, content: defuse(message.content) }));
  const cut = stretches(renderChat(checkpoint, defused, options), special);
  const length = cut.reduce((sum, { text }) => sum + text.length, 0);
  const report = new Reporter("tokenize", length, onProgress);
  const ids: number[] = [];
  let start = 0;
  for (const { text, parseSpecial } of cut) {
    const encoded = await tokenizer.encodeAsync(text, {
      addSpecialTokens: false,
      parseSpecial,
      signal,
      onProgress: (done) => report.update(start + done),
    });
    for (const id of encoded) ids.push(id);
    start += text.length;
  }
  return Uint32Array.from(ids);
}
