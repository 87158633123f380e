/**
 * `minference run`: answers a prompt.
 *
 * @module
 */
import type { GuardOption } from "../attention/guard.ts";
import { encodeChat } from "../model/chat.ts";
import type { Model } from "../model/model.ts";
import type { Session } from "../model/session.ts";
import { MOST_COUNT } from "../native/checks.ts";
import { type Options, SHARE, toNumber, type Values } from "./args.ts";
import { type Command, defineCommand, EXIT } from "./command.ts";
import { count, duration, percent, rate } from "./format.ts";
import { GUARD_OPTIONS, guardNote, guardOf } from "./guard.ts";
import { MODEL_OPTIONS, modelSettings, openModel } from "./model_options.ts";
import { ProgressBar } from "./progress.ts";
import { PROMPT_OPTIONS, readPrompt } from "./prompt.ts";

const OPTIONS = {
  ...PROMPT_OPTIONS,
  chat: { type: "boolean", help: "send the prompt as a message, in the model's chat form" },
  "max-tokens": { type: "string", value: "N", help: "most tokens of the answer (default 256)" },
  temperature: { type: "string", value: "T", help: "0 (default) takes the likeliest token" },
  "top-k": { type: "string", value: "K", help: "draw from the K likeliest tokens" },
  "top-p": { type: "string", value: "P", help: "draw from the likeliest tokens up to P" },
  "min-p": { type: "string", value: "P", help: "drop tokens below P of the likeliest" },
  seed: { type: "string", value: "N", help: "equal seeds draw equal answers (default: random)" },
  ...GUARD_OPTIONS,
  ...MODEL_OPTIONS,
} as const satisfies Options;

interface Sampling {
  readonly maxTokens: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly seed: number;
}

function samplingOf(values: Values<typeof OPTIONS>): Sampling {
  return {
    maxTokens: toNumber("max-tokens", values["max-tokens"] ?? "256", { least: 1 }),
    temperature: toNumber("temperature", values.temperature, {
      least: 0,
      most: 1e30,
      whole: false,
    }),
    topK: toNumber("top-k", values["top-k"], { least: 0, most: MOST_COUNT }),
    topP: toNumber("top-p", values["top-p"], SHARE),
    minP: toNumber("min-p", values["min-p"], { ...SHARE, least: 0 }),
    seed: toNumber("seed", values.seed, { least: 0 }) ??
      crypto.getRandomValues(new Uint32Array(1))[0],
  };
}

/** Reads the prompt into the session, with a progress bar. */
async function prefill(
  model: Model,
  session: Session,
  prompt: string,
  options: { chat: boolean; guard: GuardOption; signal: AbortSignal },
): Promise<{ density: number; guarded: number; tokensPerSecond: number }> {
  using bar = new ProgressBar();
  const { guard, signal } = options;
  const { onProgress } = bar;
  const message = { role: "user", content: prompt } as const;
  const input = options.chat
    ? await encodeChat(model.checkpoint, model.tokenizer, [message], { signal, onProgress })
    : prompt;
  const { density, guarded, tokens, ms } = await session.prefill(input, {
    ...{ guard, signal, onProgress },
  });
  return { density, guarded, tokensPerSecond: tokens / ms * 1000 };
}

/** The command. */
export const run: Command<typeof OPTIONS> = defineCommand({
  name: "minference run",
  positionals: ["MODEL"],
  description:
    `Reads a prompt with sparse attention and writes the answer to stdout as it comes; figures
follow on stderr. MODEL is a Hugging Face directory, a GGUF file, or a name in models/ or
MINFERENCE_MODELS.

Example: minference run needle-27m -f book.txt -p "What is the pass key? The pass key is"`,
  options: OPTIONS,
  async run({ values, positionals, output, signal }): Promise<number> {
    const settings = modelSettings(values);
    const sampling = samplingOf(values);
    const guard = guardOf(values);
    const prompt = await readPrompt(values, signal);
    await using opened = await openModel(positionals[0], settings, { signal });
    const { model } = opened;
    await using session = await model.createSession();

    const started = performance.now();
    const chat = values.chat ?? false;
    const { density, guarded, tokensPerSecond } = await prefill(model, session, prompt, {
      ...{ chat, guard, signal },
    });
    const generation = session.generate(undefined, { ...sampling, signal });
    let ttftMs: number | undefined;
    for await (const { text } of generation) {
      ttftMs ??= performance.now() - started;
      if (!output.json) output.write(text);
    }
    if (!output.json) output.write("\n");
    const stats = await generation.stats;
    const result = {
      text: await generation.text,
      finishReason: stats.finishReason,
      seed: sampling.seed,
      promptTokens: stats.promptTokens,
      completionTokens: stats.completionTokens,
      ttftMs: ttftMs ?? performance.now() - started,
      prefillTokensPerSecond: tokensPerSecond,
      decodeTokensPerSecond: stats.decodeTps,
      density,
      guarded,
    };
    if (output.json) output.result(result, () => "");
    output.note([
      `${count(result.promptTokens)} prompt tokens, first token after ${duration(result.ttftMs)}`,
      `prefill ${rate(tokensPerSecond)} at ${percent(density)} of dense attention`,
      ...(guarded > 0 ? [guardNote(guarded)] : []),
      `${count(result.completionTokens)} tokens at ${rate(stats.decodeTps)}`,
    ].join("; "));
    return stats.finishReason === "abort" ? EXIT.interrupted : EXIT.ok;
  },
});
