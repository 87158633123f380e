// One job: a model of its own on the shared device, asked about one context after another.
import { loadModel, openDevice } from "../../mod.ts";
import { encodeTask } from "./encode.ts";
import type { Answer } from "./journal.ts";
import { Asker } from "./methods.ts";
import { makeTask, type TaskSpec } from "./tasks.ts";

/** First message to a worker. */
export interface Setup {
  /** Path of the model. */
  readonly model: string;
  /** Path of the prose to hide things in. */
  readonly haystack: string;
  /** CPU threads; default all. */
  readonly threads?: number;
}

/** Each further message: a context to ask about; null ends the job. */
export interface Work {
  readonly task: TaskSpec;
  /** Methods wanted of each question. */
  readonly methods: readonly (readonly string[])[];
}

/** What a worker sends: an answer, or `next` when it is free, or `end`. */
export type Report = { readonly answer: Answer } | "next" | "end";

interface Scope {
  postMessage(message: Report): void;
  addEventListener(type: "message", listener: (event: MessageEvent) => void): void;
  close(): void;
}

const scope = globalThis as unknown as Scope;

async function* messages(): AsyncGenerator<unknown> {
  const queue: unknown[] = [];
  let wake = (): void => {};
  scope.addEventListener("message", ({ data }) => {
    queue.push(data);
    wake();
  });
  for (;;) {
    while (queue.length > 0) yield queue.shift();
    await new Promise<void>((resolve) => wake = resolve);
  }
}

const inbox = messages();
const { model: path, haystack: prose, threads } = (await inbox.next()).value as Setup;
{
  await using device = await openDevice({ threads });
  await using model = await loadModel(path, { device });
  const haystack = await Deno.readTextFile(prose);
  const count = (text: string): number => model.tokenizer.encode(text).length;
  for (;;) {
    scope.postMessage("next");
    const work = (await inbox.next()).value as Work | null;
    if (work === null) break;
    const { task, methods } = work;
    const { kind, tokens, seed } = task;
    const prompts = encodeTask(model.tokenizer, await makeTask(task, haystack, count));
    await using asker = await Asker.open(model, seed);
    for (const [question, prompt] of prompts.entries()) {
      for await (const outcome of asker.ask(prompt, methods[question])) {
        scope.postMessage({ answer: { tokens, kind, seed, question, ...outcome } });
      }
    }
  }
}
scope.postMessage("end");
scope.close();
