// Tables of what each method got right, and what it lost against dense.
import type { Answer } from "./methods.ts";

const percent = (value: number): string => `${(100 * value).toFixed(1)}%`;

const mean = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / values.length;

/** What is counted. */
export type Measure = "correct" | "follows";

/** A Markdown table, one row per method: share of right answers, and the points lost or won against dense. */
export function table(
  answers: readonly Answer[],
  measure: Measure,
  methods: readonly string[],
  kinds: readonly string[],
  tokens: number,
): string {
  const select = (method: string, kind?: string): readonly Answer[] =>
    answers.filter((a) => a.method === method && (kind === undefined || a.kind === kind));
  const share = (method: string, kind?: string): number =>
    mean(select(method, kind).map((answer) => Number(answer[measure])));
  const cell = (method: string, kind?: string): string => {
    const own = percent(share(method, kind));
    if (method === "dense" || !methods.includes("dense")) return own;
    const points = 100 * (share(method, kind) - share("dense", kind));
    return `${own} (${points > 0 ? "+" : ""}${points === 0 ? "0" : points.toFixed(1)})`;
  };
  const rows = methods.map((method) => {
    const own = select(method);
    const density = percent(mean(own.map((answer) => answer.density)));
    const seconds = (mean(own.flatMap(({ ms }) => ms ?? [])) / 1000).toFixed(2);
    const cells = kinds.map((kind) => cell(method, kind));
    return [method, density, `${seconds} s`, ...cells, cell(method)];
  });
  const asked = kinds.map((kind) => `${kind} (${select(methods[0], kind).length})`);
  const head = [`${tokens} tokens`, "density", "prefill", ...asked, "all"];
  return [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}
