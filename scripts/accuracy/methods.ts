// What is compared, and how a prompt is answered with it.
import { DEFAULT_GUARD, type Model, type PatternChoice, type Session } from "../../mod.ts";
import { choosePatterns } from "../../src/model/pattern_choice.ts";
import { isCorrect } from "../../src/tasks/retrieval.ts";
import type { Prompt } from "./encode.ts";
import { followsAnswer, type Method } from "./follow.ts";
import { randomControl } from "./random_control.ts";

/** Methods with patterns of their own. */
const PATTERNS: Readonly<Record<string, PatternChoice>> = {
  dense: "dense",
  searched: "auto",
  "mass 0.9": { kind: "vertical_slash", mass: 0.9 },
  "mass 0.95": { kind: "vertical_slash", mass: 0.95 },
  "upstream (1000, 6096)": { kind: "vertical_slash", vertical: 1000, slash: 6096 },
  "upstream (30, 800)": { kind: "vertical_slash", vertical: 30, slash: 800 },
  "upstream (3500, 100)": { kind: "vertical_slash", vertical: 3500, slash: 100 },
  "A-shape (128, 3968)": { kind: "a_shape", sink: 128, local: 3968 },
};

/** The model's own file. */
export const SEARCHED = "searched";

/** Random indices of the density that the searched patterns have on the same prompt. */
const RANDOM = "random";

/** All of them. */
export const METHODS: readonly string[] = [...Object.keys(PATTERNS), RANDOM];

/** Those that must lose: otherwise these prompts could not tell good from bad. */
export const CONTROLS: readonly string[] = ["A-shape (128, 3968)", RANDOM];

/** What a method computed and wrote. */
export interface Outcome {
  /** Whether it wrote the answer. */
  readonly correct: boolean;
  /** Whether it follows the answer; see {@linkcode followsAnswer}. */
  readonly follows: boolean;
  /** What the model wrote. */
  readonly completion: string;
  /** Fraction of attention tiles computed. */
  readonly density: number;
  /** Heads that the guard made dense. */
  readonly guarded: number;
}

/** Answers about one context. */
export class Asker implements AsyncDisposable {
  readonly #model: Model;
  readonly #seed: number;
  /** Of dense attention the context's keys and values do not depend on the question: they are used again. */
  readonly #dense: Session;

  private constructor(model: Model, seed: number, dense: Session) {
    this.#model = model;
    this.#seed = seed;
    this.#dense = dense;
  }

  /** @param seed Of the random indices. */
  static async open(model: Model, seed: number): Promise<Asker> {
    return new Asker(model, seed, await model.createSession({ patterns: "dense" }));
  }

  /**
   * Asks one question with each of some methods. The question ends the prompt, as in real use: the estimate reads its
   * tokens.
   *
   * @param methods Of {@linkcode METHODS}.
   */
  async *ask(
    prompt: Prompt,
    methods: readonly string[],
  ): AsyncGenerator<Outcome & { readonly method: string }> {
    let searchedDensity: number | undefined;
    for (const method of methods) {
      let outcome: Outcome;
      if (method === "dense") outcome = await this.#askDensely(prompt);
      else if (method === RANDOM) {
        searchedDensity ??= await this.#searchedDensity(prompt.ids);
        const { pattern, ...options } = randomControl(
          searchedDensity,
          prompt.ids.length,
          this.#seed,
        );
        outcome = await this.#askSparsely(prompt, pattern, options);
      } else {
        // Fixed patterns are compared as they are; the searched file as it is used.
        const options = method === SEARCHED ? { guard: DEFAULT_GUARD } : {};
        outcome = await this.#askSparsely(prompt, PATTERNS[method], options);
        if (method === SEARCHED) searchedDensity = outcome.density;
      }
      yield { method, ...outcome };
    }
  }

  async #askSparsely(
    prompt: Prompt,
    choice: PatternChoice,
    options: Omit<Method, "patterns">,
  ): Promise<Outcome> {
    const model = this.#model;
    const patterns = await choosePatterns(choice, model.checkpoint);
    await using session = await model.createSession({ patterns: patterns ?? "dense" });
    const { guard = false, reviseEstimate } = options;
    const { density, guarded } = await session.prefill(prompt.ids, { guard, reviseEstimate });
    const completion = await write(session, prompt);
    const follows = await followsAnswer(model, session, prompt, { ...options, patterns });
    return {
      ...{ correct: isCorrect(prompt.question, completion), follows },
      ...{ completion, density, guarded },
    };
  }

  async #askDensely(prompt: Prompt): Promise<Outcome> {
    const { density, guarded } = await this.#dense.prefill(prompt.ids, { mode: "replace" });
    const completion = await write(this.#dense, prompt);
    const correct = isCorrect(prompt.question, completion);
    // Each token was the likeliest: it follows what it writes.
    return { correct, follows: correct, completion, density, guarded };
  }

  /** Density of the searched patterns, where they are not asked. */
  async #searchedDensity(ids: Uint32Array): Promise<number> {
    await using session = await this.#model.createSession({ patterns: PATTERNS[SEARCHED] });
    return (await session.prefill(ids)).density;
  }

  /** Frees the session. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#dense.dispose();
  }
}

async function write(session: Session, { answer }: Prompt): Promise<string> {
  return await session.generate(undefined, { maxTokens: answer.length + 3 }).text;
}
