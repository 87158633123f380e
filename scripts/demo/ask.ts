// The demo's work: hide numbers in a novel, read it densely and sparsely, ask for the numbers.
import { type Measured, measurePrompt } from "../../src/cli/measure.ts";
import type { CallOptions } from "../../src/device/device.ts";
import type { Model } from "../../src/model/model.ts";
import type { PatternChoice } from "../../src/model/pattern_choice.ts";
import type { OnProgress } from "../../src/model/progress.ts";
import type { Question } from "../../src/tasks/kinds.ts";
import { isCorrect, makeTaskOfTokens, type RetrievalTask } from "../../src/tasks/retrieval.ts";

/** Tokens of an answer: a space, seven digits, a full stop. */
const ANSWER_TOKENS = 10;
const STOP = ["."];

/** A prompt as token ids. */
export interface Prompt {
  /** The novel with the numbers in it. */
  readonly context: Uint32Array;
  /** Each question alone. */
  readonly questions: readonly { readonly question: Question; readonly ids: Uint32Array }[];
  /** Milliseconds it took to make the tokens of the context and the first question. */
  readonly tokenizeMs: number;
}

/** An answer to one question. */
export interface Answer {
  readonly question: Question;
  readonly text: string;
  readonly correct: boolean;
}

/** What one way of attention came to. */
export interface Outcome extends Measured {
  /** To all questions; the first is the one that `ttftMs` is of. */
  readonly answers: readonly Answer[];
}

/** Hides `needles` numbers in the novel and asks for half of them. */
export function makeDemoTask(
  model: Model,
  novel: string,
  options: { tokens: number; needles: number; seed: number },
): Promise<RetrievalTask> {
  const { tokens, needles, seed } = options;
  const questions = Math.ceil(needles / 2);
  const count = (text: string): number => model.tokenizer.encode(text).length;
  return makeTaskOfTokens(
    { kind: "needle", haystack: novel, needles, questions, seed },
    tokens,
    count,
  );
}

/** Encodes context and questions apart, so that all questions share the context's keys and values. */
export async function encodeTask(
  { tokenizer }: Model,
  task: RetrievalTask,
  options: CallOptions = {},
): Promise<Prompt> {
  const started = performance.now();
  const context = await tokenizer.encodeAsync(task.context, options);
  const encode = (question: Question): { question: Question; ids: Uint32Array } => {
    return { question, ids: tokenizer.encode(question.prompt, { addSpecialTokens: false }) };
  };
  const [first, ...rest] = task.questions;
  const asked = encode(first);
  const tokenizeMs = performance.now() - started;
  return { context, questions: [asked, ...rest.map(encode)], tokenizeMs };
}

function judge(question: Question, text: string): Answer {
  return { question, text: text.trim(), correct: isCorrect(question, text) };
}

/** Reads context and first question, then goes back to the context for each further one. */
export async function ask(
  model: Model,
  prompt: Prompt,
  patterns: PatternChoice,
  options: CallOptions & { onProgress?: OnProgress } = {},
): Promise<Outcome> {
  await using session = await model.createSession({ patterns });
  const [first, ...rest] = prompt.questions;
  const whole = new Uint32Array([...prompt.context, ...first.ids]);
  const answer = { ...options, maxTokens: ANSWER_TOKENS, stop: STOP };
  const measured = await measurePrompt(session, whole, answer);
  const answers = [judge(first.question, measured.answer)];
  for (const { question, ids } of rest) {
    session.truncate(prompt.context.length);
    const { onProgress: _, ...quiet } = answer; // a question is read at once
    answers.push(judge(question, await session.generate(ids, quiet).text));
  }
  return { ...measured, answers };
}
