// Whether a model follows the answer when it reads that, too, with sparse attention.
import type { Guard, Model, ReviseEstimate } from "../../mod.ts";
import { engineOf } from "../../src/model/model.ts";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import { isCorrect, type Question } from "../../src/tasks/retrieval.ts";

/** How a method computes attention. */
export interface Method {
  /** [layer][head]; null for dense attention. */
  readonly patterns: readonly (readonly HeadPattern[])[] | null;
  readonly guard?: Guard;
  readonly reviseEstimate?: ReviseEstimate;
}

function mostLikely(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/**
 * Reads the prompt, then the answer, every row of every layer with the method's attention, and tells whether each
 * token of the answer is the likeliest after those before it.
 *
 * Generation is kinder to a method that overlooks things: it decodes densely, and the last layer of a prefill computes
 * one row, densely. A key and value that lie close together can then be found however little the prefill looked at.
 */
export async function followsAnswer(
  model: Model,
  prompt: string,
  question: Question,
  method: Method,
): Promise<boolean> {
  const { device, tokenizer, config } = model;
  const { decoder, createCache } = engineOf(model);
  const before = tokenizer.encode(prompt);
  const answer = tokenizer.encode(`${prompt} ${question.answer}`).subarray(before.length);
  const given = answer.subarray(0, -1);
  using cache = createCache();
  using logits = device.tensor([answer.length, config.vocabSize]);
  await device.exclusive(async () => {
    const { patterns, guard, reviseEstimate } = method;
    const sparse = patterns ? { patterns, guard, reviseEstimate } : undefined;
    const inspect = (): Promise<void> => Promise.resolve(); // asks for every row of the last layer
    cache.reserve(before.length + given.length, 0);
    await decoder.forward(before, cache, 0, logits, { sparse, inspect });
    if (given.length > 0) {
      using rest = device.tensor([given.length, config.vocabSize]);
      // So few rows are computed densely unless the choice is taken away.
      const listed = sparse && { ...sparse, automatic: false };
      await decoder.forward(given, cache, before.length, rest, { sparse: listed, logits: "all" });
      device.copy(logits, config.vocabSize * 4, rest, 0, rest.byteLength);
    }
    await device.sync();
  });
  const rows = await logits.read();
  const likeliest = Array.from(answer, (_, row) => {
    return mostLikely(rows.subarray(row * config.vocabSize, (row + 1) * config.vocabSize));
  });
  // The end of the answer may be written in one token with what follows it.
  const end = tokenizer.decode([...given, likeliest[given.length]]);
  return given.every((id, row) => id === likeliest[row]) && isCorrect(question, end);
}
