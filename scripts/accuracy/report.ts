// What the answers come to: a table for each length, and what must hold.
import { size, table } from "../bench/markdown.ts";
import type { Answer } from "./journal.ts";
import { CONTROLS, SEARCHED } from "./methods.ts";

const percent = (value: number): string => `${(100 * value).toFixed(1)}%`;

const mean = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / values.length;

/** What is counted. */
type Measure = "correct" | "follows";

/** Answers of one length. */
class Sheet {
  constructor(readonly tokens: number, readonly answers: readonly Answer[]) {}

  of(method: string, kind?: string): readonly Answer[] {
    return this.answers.filter((a) =>
      a.method === method && (kind === undefined || a.kind === kind)
    );
  }

  /** How many are right, or followed. */
  count(measure: Measure, method: string, kind?: string): number {
    return this.of(method, kind).filter((answer) => answer[measure]).length;
  }

  density(method: string): number {
    return mean(this.of(method).map(({ density }) => density));
  }

  /** Points that a method lost against dense attention. */
  lost(measure: Measure, method: string, kind: string): number {
    const points = (of: string): number =>
      100 * this.count(measure, of, kind) / this.of(of, kind).length;
    return points("dense") - points(method);
  }
}

/** In the order in which they first occur. */
const distinct = <T>(values: readonly T[]): T[] => [...new Set(values)];

/** A sheet of each length, of the questions that every method has answered: a run cut short compares like with like. */
function sheets(answers: readonly Answer[]): Sheet[] {
  return distinct(answers.map(({ tokens }) => tokens)).map((tokens) => {
    const ofLength = answers.filter((answer) => answer.tokens === tokens);
    const methods = distinct(ofLength.map(({ method }) => method)).length;
    const questions = Map.groupBy(ofLength, (a) => `${a.kind} ${a.seed} ${a.question}`);
    return new Sheet(tokens, [...questions.values()].filter((q) => q.length === methods).flat());
  });
}

/**
 * Markdown, a table for each length with a row for each method: of each kind's questions, how many were answered
 * rightly, and how many were followed.
 *
 * @param answers In order.
 */
export function tables(answers: readonly Answer[]): string {
  return sheets(answers).map((sheet) => {
    const methods = distinct(sheet.answers.map(({ method }) => method));
    const kinds = distinct(sheet.answers.map(({ kind }) => kind));
    const rows = methods.map((method) => {
      const cell = (kind?: string): string =>
        `${sheet.count("correct", method, kind)} · ${sheet.count("follows", method, kind)}`;
      return [method, percent(sheet.density(method)), ...kinds.map(cell), cell()];
    });
    const asked = (kind?: string): number => sheet.of(methods[0], kind).length;
    const heads = kinds.map((kind) => `${kind} (${asked(kind)})`);
    return table([`${size(sheet.tokens)} tokens`, "computed", ...heads, `all (${asked()})`], rows);
  }).join("\n\n");
}

/** Something that must hold. */
export interface Claim {
  readonly text: string;
  readonly holds: boolean;
}

/** Most points that a kind may lose. */
const MOST_LOST = 2;

/** Fewest points that a control must lose to show that a kind can tell good from bad. */
const LEAST_LOST = 20;

/** Kinds that must show it. */
const TELLING = ["key-value", "variable tracking"];

/** Most attention computed by the searched patterns, by tokens. */
const MOST_COMPUTED: readonly (readonly [tokens: number, density: number])[] = [
  [131_072, 0.05],
  [32_768, 0.12],
];

/** What must hold of the methods that were asked. */
export function claims(answers: readonly Answer[]): Claim[] {
  return sheets(answers).flatMap((sheet) => {
    const at = `${size(sheet.tokens)}: `;
    const asked = (method: string): boolean => sheet.of(method).length > 0;
    if (!asked("dense")) return [];
    const found: Claim[] = [];
    const kinds = distinct(sheet.answers.map(({ kind }) => kind));
    if (asked(SEARCHED)) {
      const [, most] = MOST_COMPUTED.find(([tokens]) => sheet.tokens >= tokens) ?? [0, 1];
      const density = sheet.density(SEARCHED);
      found.push({
        text: `${at}${SEARCHED} computes ${percent(density)}, at most ${percent(most)}`,
        holds: density <= most,
      });
      for (const measure of ["correct", "follows"] as const) {
        const worst = Math.max(...kinds.map((kind) => sheet.lost(measure, SEARCHED, kind)));
        found.push({
          text: `${at}${SEARCHED} loses at most ${MOST_LOST} points of any kind (${measure}): ` +
            `${worst.toFixed(1)}`,
          holds: worst <= MOST_LOST,
        });
      }
    }
    for (const control of CONTROLS.filter(asked)) {
      for (const kind of TELLING.filter((name) => kinds.includes(name))) {
        const lost = sheet.lost("follows", control, kind);
        found.push({
          text: `${at}${control} loses at least ${LEAST_LOST} points of ${kind} (follows): ` +
            `${lost.toFixed(1)}`,
          holds: lost >= LEAST_LOST,
        });
      }
    }
    return found;
  });
}
