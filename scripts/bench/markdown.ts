/**
 * Markdown of the benchmarks' tables and cells.
 *
 * @module
 */

/** A table. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

/** Three significant digits; `-` where there is no number. */
export function digits(value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value)) return "-";
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** Milliseconds as seconds. */
export function seconds(ms: number | undefined): string {
  const text = digits(ms === undefined ? undefined : ms / 1000);
  return text === "-" ? text : `${text} s`;
}

/** Bytes as GiB. */
export function gib(bytes: number | undefined): string {
  const text = digits(bytes === undefined ? undefined : bytes / 2 ** 30);
  return text === "-" ? text : `${text} GiB`;
}

/** A token count: 8K, 1M. */
export function size(tokens: number): string {
  return tokens < 1024
    ? `${tokens}`
    : tokens < 1 << 20
    ? `${tokens / 1024}K`
    : `${tokens / 2 ** 20}M`;
}
