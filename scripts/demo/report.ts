// The demo's result in words.
import { densityByGroup, densityTable } from "../../src/cli/density.ts";
import { bytes, count, duration, percent, rate, table, times } from "../../src/cli/format.ts";
import type { DeviceInfo } from "../../src/device/info.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import type { Outcome, Prompt } from "./ask.ts";

/** Dense attention and MInference on the same prompt. */
export interface Comparison {
  readonly tokenizeMs: number;
  readonly dense: Outcome;
  readonly sparse: Outcome;
}

/** True if every answer of both is right. */
export function allCorrect({ dense, sparse }: Comparison): boolean {
  return [...dense.answers, ...sparse.answers].every(({ correct }) => correct);
}

/** What is being run, before it runs. */
export function introduction(
  info: DeviceInfo,
  model: { name: string; config: ModelConfig },
  prompt: Prompt,
  needles: number,
): string {
  const { config, name } = model;
  const units = info.kind === "cpu" ? "threads" : "multiprocessors";
  return table([
    ["machine", `${info.name}, ${info.units} ${units}, ${info.path} kernels`],
    [
      "model",
      `${name}: ${config.layers} layers, ${config.heads} query and ${config.kvHeads} key-value heads`,
    ],
    [
      "prompt",
      `${count(prompt.context.length + prompt.questions[0].ids.length)} tokens: ` +
      `Jane Austen's Persuasion, with ${needles} magic numbers hidden in it`,
    ],
  ]);
}

function answersTable({ dense, sparse }: Comparison): string {
  const mark = ({ text, correct }: Outcome["answers"][number]): string =>
    `${text} ${correct ? "right" : "WRONG"}`;
  const rows = dense.answers.map((answer, i) => {
    const name = /for (\S+)/.exec(answer.question.prompt)?.[1] ?? "";
    return [name, answer.question.answer, mark(answer), mark(sparse.answers[i])];
  });
  return table([["number of", "hidden", "dense", "MInference"], ...rows]);
}

function figuresTable({ tokenizeMs, dense, sparse }: Comparison): string {
  const time = (name: string, of: (outcome: Outcome) => number): string[] => {
    return [name, duration(of(dense)), duration(of(sparse))];
  };
  const faster = (of: (outcome: Outcome) => number): string => times(of(dense) / of(sparse));
  const ttft = (outcome: Outcome): number => outcome.ttftMs + tokenizeMs;
  const attention = ({ split }: Outcome): number => split.attention;
  return table([
    ["", "dense", "MInference", "speed-up"],
    [...time("time to first token", ttft), faster(ttft)],
    time("  tokenize", () => tokenizeMs),
    time("  index", ({ split }) => split.index),
    [...time("  attention", attention), faster(attention)],
    time("  linear", ({ split }) => split.linear),
    time("  other", ({ split }) => split.other),
    ["prefill", rate(dense.tokensPerSecond), rate(sparse.tokensPerSecond)],
    ["attention computed", percent(dense.density), percent(sparse.density)],
  ]);
}

/** The result. */
export function resultText(comparison: Comparison, config: ModelConfig, peak: number): string {
  const groups = densityByGroup(comparison.sparse.heads, config.heads, config.kvHeads);
  return [
    answersTable(comparison),
    figuresTable(comparison),
    "Attention computed by MInference, by layer and head group (query heads of one key-value head)",
    `${densityTable(groups, "  ")}  the last layer computes one row alone`,
    "",
    `Memory: ${bytes(peak)} at most. ${
      allCorrect(comparison) ? "All answers are right." : "There are WRONG answers."
    }`,
    "",
  ].join("\n");
}
