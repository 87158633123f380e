/**
 * Conversations rendered by a checkpoint's own Jinja template.
 *
 * @module
 */
import { Template } from "@huggingface/jinja";
import { MInferenceError } from "../native/errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
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

/**
 * Encodes a conversation. Only the template's own special tokens become special: `<|eot_id|>` inside a message is
 * plain text and ends nothing.
 *
 * @param checkpoint Gives the template.
 * @param tokenizer The model's tokenizer.
 * @param messages The conversation.
 * @param options See {@linkcode ChatOptions}.
 * @returns Token ids of the prompt.
 * @throws {MInferenceError} As {@linkcode renderChat}.
 */
export function encodeChat(
  checkpoint: ChatSource,
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): Uint32Array {
  const special = tokenizer.addedTokenPattern;
  // The mark goes behind the first character of a special token's text, so that the text no longer is one.
  const defuse = (text: string): string => {
    const plain = text.replaceAll(MARK, "\uFFFD");
    return special === undefined
      ? plain
      : plain.replace(special, (token) => token.slice(0, 1) + MARK + token.slice(1));
  };
  const defused = messages.map((message) => ({ ...message, content: defuse(message.content) }));
  const prompt = renderChat(checkpoint, defused, options);
  if (!prompt.includes(MARK) || special === undefined) {
    return tokenizer.encode(prompt, { addSpecialTokens: false });
  }
  // Cut at the template's special tokens; texts with a mark are encoded as plain ones, everything else as usual.
  const parts: number[][] = [];
  let usual = "";
  const flush = (): void => {
    if (usual) parts.push([...tokenizer.encode(usual, { addSpecialTokens: false })]);
    usual = "";
  };
  const take = (text: string): void => {
    if (!text.includes(MARK)) {
      usual += text;
      return;
    }
    flush();
    const plain = text.replaceAll(MARK, "");
    parts.push([...tokenizer.encode(plain, { addSpecialTokens: false, parseSpecial: false })]);
  };
  let end = 0;
  for (const match of prompt.matchAll(special)) {
    take(prompt.slice(end, match.index));
    usual += match[0];
    end = match.index + match[0].length;
  }
  take(prompt.slice(end));
  flush();
  return Uint32Array.from(parts.flat());
}
