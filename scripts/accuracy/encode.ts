// Token ids of a context and of all that is asked about it, the context encoded once.
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import type { Question } from "../../src/tasks/kinds.ts";
import type { RetrievalTask } from "../../src/tasks/retrieval.ts";

/** A question with its ids. */
export interface Prompt {
  readonly question: Question;
  /** Context and question. */
  readonly ids: Uint32Array;
  /** The right answer. */
  readonly answer: Uint32Array;
}

function concat(a: Uint32Array, b: Uint32Array): Uint32Array {
  const joined = new Uint32Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}

function endsWith(ids: Uint32Array, tail: Uint32Array): boolean {
  return tail.every((id, i) => id === ids[ids.length - tail.length + i]);
}

/**
 * Encodes a task. Contexts end with a line break, where tokenizers part; whether this one does is tried on the first
 * question, and the others are encoded whole if it does not.
 */
export function encodeTask(tokenizer: Tokenizer, { context, questions }: RetrievalTask): Prompt[] {
  const alone = (text: string): Uint32Array => tokenizer.encode(text, { addSpecialTokens: false });
  const first = tokenizer.encode(context + questions[0].prompt);
  const tail = alone(questions[0].prompt);
  const shared = endsWith(first, tail) ? first.subarray(0, first.length - tail.length) : undefined;
  return questions.map((question, i) => {
    const { prompt } = question;
    const asked = alone(prompt);
    const ids = i === 0
      ? first
      : shared
      ? concat(shared, asked)
      : tokenizer.encode(context + prompt);
    return { question, ids, answer: alone(`${prompt} ${question.answer}`).subarray(asked.length) };
  });
}
