// Whether a model follows the answer when it reads that, too, with sparse attention.
import type { Guard, Model, ReviseEstimate, Session } from "../../mod.ts";
import type { HeadPattern } from "../../src/attention/patterns.ts";
import { engineOf } from "../../src/model/model.ts";
import { cacheOf } from "../../src/model/session.ts";
import { isCorrect } from "../../src/tasks/retrieval.ts";
import type { Prompt } from "./encode.ts";

/** How a method computes attention. */
export interface Method {
  /** [layer][head]; null for dense attention. */
  readonly patterns: readonly (readonly HeadPattern[])[] | null;
  readonly guard?: Guard;
  readonly reviseEstimate?: ReviseEstimate;
}

/** Rows that choose what vertical-slash heads select (arXiv 2407.02490, section 3.3). */
const PROBE_ROWS = 64;

function mostLikely(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/**
 * Reads the prompt's last tokens again and then the answer, all with the method's attention over the keys that the
 * session has of the prompt, and tells whether each token of the answer is the likeliest after those before it.
 *
 * Generation is kinder to a method that overlooks things: it decodes densely, and the last layer of a prefill computes
 * one row, densely. A key and value that lie close together can then be found however little the prefill looked at.
 *
 * @param session Has read the prompt with the method; what it holds after the prompt is overwritten.
 */
export async function followsAnswer(
  model: Model,
  session: Session,
  { question, ids, answer }: Prompt,
  { patterns, guard, reviseEstimate }: Method,
): Promise<boolean> {
  const { device, tokenizer, config: { vocabSize } } = model;
  const cache = cacheOf(session);
  const position = Math.max(0, ids.length - PROBE_ROWS);
  const read = new Uint32Array([...ids.subarray(position), ...answer.subarray(0, -1)]);
  using logits = device.tensor([read.length, vocabSize]);
  await device.exclusive(async () => {
    await cache.reserve(position + read.length, position);
    await engineOf(model).decoder.forward(read, cache, position, logits, {
      logits: "all",
      // So few rows are computed densely unless the choice is taken away.
      sparse: patterns ? { patterns, guard, reviseEstimate, automatic: false } : undefined,
    });
    await device.sync();
  });
  const rows = (await logits.read()).subarray((read.length - answer.length) * vocabSize);
  const likeliest = Array.from(answer, (_, row) => {
    return mostLikely(rows.subarray(row * vocabSize, (row + 1) * vocabSize));
  });
  const given = answer.subarray(0, -1);
  // The end of the answer may be written in one token with what follows it.
  const end = tokenizer.decode([...given, likeliest[given.length]]);
  return given.every((id, row) => id === likeliest[row]) && isCorrect(question, end);
}
