// What is compared, and how a prompt is answered with it.
import { DEFAULT_GUARD, type Model, type PatternChoice, type Session } from "../../mod.ts";
import { choosePatterns } from "../../src/model/pattern_choice.ts";
import { isCorrect, type Question } from "../../src/tasks/retrieval.ts";
import { followsAnswer, type Method } from "./follow.ts";
import { randomControl } from "./random_control.ts";
import type { NamedTask } from "./tasks.ts";

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
const SEARCHED = "searched";

/** Random indices of the density that the searched patterns have on the same prompt. */
const RANDOM = "random";

/** All of them. The last two must lose: otherwise these prompts could not tell good from bad. */
export const METHODS: readonly string[] = [...Object.keys(PATTERNS), RANDOM];

/** One prompt read and answered. */
export interface Answer {
  /** The question's kind, as in the table. */
  readonly kind: string;
  /** Of the context. */
  readonly seed: number;
  /** Which of the context's questions. */
  readonly question: number;
  readonly method: string;
  /** Whether it wrote the answer. */
  readonly correct: boolean;
  /** Whether it follows the answer; see {@linkcode followsAnswer}. */
  readonly follows: boolean;
  /** What the model wrote. */
  readonly completion: string;
  /** Fraction of attention tiles computed. */
  readonly density: number;
  /** Time to read the prompt; none where most of it was held from the question before. */
  readonly ms?: number;
}

async function write(model: Model, session: Session, question: Question): Promise<string> {
  const { length } = model.tokenizer.encode(question.answer, { addSpecialTokens: false });
  return await session.generate(undefined, { maxTokens: length + 3 }).text;
}

/** Asks one question. The question ends the prompt, as in real use: the estimate reads its tokens. */
async function answerSparsely(
  model: Model,
  prompt: string,
  question: Question,
  choice: PatternChoice,
  options: Omit<Method, "patterns">,
): Promise<Outcome> {
  const { guard = false, reviseEstimate } = options;
  await using session = await model.createSession({ patterns: choice });
  const { density, ms } = await session.prefill(prompt, { guard, reviseEstimate });
  const completion = await write(model, session, question);
  const patterns = await choosePatterns(choice, model.checkpoint);
  const follows = await followsAnswer(model, prompt, question, { ...options, patterns });
  return { correct: isCorrect(question, completion), follows, completion, density, ms };
}

/** Of dense attention the context's keys and values do not depend on the question: `session` is used again. */
async function answerDensely(
  model: Model,
  prompt: string,
  question: Question,
  session: Session,
): Promise<Outcome> {
  const { density, ms, cachedTokens } = await session.prefill(prompt, { mode: "replace" });
  const completion = await write(model, session, question);
  const correct = isCorrect(question, completion); // each token was the likeliest: it follows what it writes
  return { correct, follows: correct, completion, density, ...(cachedTokens === 0 && { ms }) };
}

/** What a method computed and wrote. */
type Outcome = Omit<Answer, "kind" | "seed" | "question" | "method">;

/** Asks every question of a task with every method. */
export async function* ask(
  model: Model,
  task: NamedTask,
  methods: readonly string[],
): AsyncGenerator<Answer> {
  await using dense = await model.createSession({ patterns: "dense" });
  for (const [index, question] of task.questions.entries()) {
    const prompt = task.context + question.prompt;
    let density: number | undefined; // of the searched patterns
    const outcomeOf = async (method: string): Promise<Outcome> => {
      if (method === "dense") return await answerDensely(model, prompt, question, dense);
      if (method !== RANDOM) {
        // Fixed patterns are compared as they are; the searched file as it is used.
        const options = method === SEARCHED ? { guard: DEFAULT_GUARD } : {};
        return await answerSparsely(model, prompt, question, PATTERNS[method], options);
      }
      density ??= await densityOf(model, prompt);
      const tokens = model.tokenizer.encode(prompt).length;
      const { pattern, ...options } = randomControl(density, tokens, task.seed);
      return await answerSparsely(model, prompt, question, pattern, options);
    };
    for (const method of methods) {
      const outcome = await outcomeOf(method);
      if (method === SEARCHED) density = outcome.density;
      yield { kind: task.name, seed: task.seed, question: index, method, ...outcome };
    }
  }
}

/** Density of the searched patterns. */
async function densityOf(model: Model, prompt: string): Promise<number> {
  await using session = await model.createSession({ patterns: PATTERNS[SEARCHED] });
  return (await session.prefill(prompt)).density;
}
