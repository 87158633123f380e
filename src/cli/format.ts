/**
 * Numbers for human eyes.
 *
 * @module
 */

/** `28,031`. */
export function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

/** `28.7 MB`, in powers of 1000. */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 99.95 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

/** `26.7M`, `8.03B`. */
export function millions(parameters: number): string {
  return parameters < 1e9
    ? `${(parameters / 1e6).toFixed(1)}M`
    : `${(parameters / 1e9).toFixed(2)}B`;
}

/** `85 ms`, `1.63 s`, `2 min 55 s`; `0` for what did not happen. */
export function duration(ms: number): string {
  if (ms === 0) return "0";
  if (ms < 999.5) return `${ms < 9.95 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  const seconds = ms / 1000;
  if (seconds < 99.95) return `${seconds.toFixed(seconds < 9.995 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** `1,730 tok/s`, `9.3 tok/s`. */
export function rate(perSecond: number): string {
  return `${perSecond < 99.95 ? perSecond.toFixed(1) : count(perSecond)} tok/s`;
}

/** `12.4%`. */
export function percent(fraction: number): string {
  return `${(fraction * 100).toFixed(1)}%`;
}

/** `8.21x`. */
export function times(ratio: number): string {
  return `${ratio.toFixed(2)}x`;
}

/**
 * Columns with two spaces between them. Those whose cells are all numbers but for the head stand right.
 *
 * @param rows The head, then the rows; a short row leaves its last cells empty.
 * @param indent Put before each line.
 */
export function table(rows: readonly (readonly string[])[], indent = ""): string {
  const columns = Math.max(...rows.map((row) => row.length));
  const layout = Array.from({ length: columns }, (_, c) => {
    const cells = rows.map((row) => row[c] ?? "");
    const body = cells.slice(1).filter((cell) => cell !== "");
    const right = body.length > 0 && body.every((cell) => /^[-+]?[\d.]/.test(cell));
    return { width: Math.max(...cells.map((cell) => cell.length)), right };
  });
  return rows.map((row) => {
    const line = layout.map(({ width, right }, c) => {
      const cell = row[c] ?? "";
      return right ? cell.padStart(width) : cell.padEnd(width);
    }).join("  ");
    return `${indent}${line.trimEnd()}\n`;
  }).join("");
}

/** The middle value; the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
