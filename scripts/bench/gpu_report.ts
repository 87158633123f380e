/**
 * The table of a GPU benchmark run.
 *
 * @module
 */
import { size, table } from "./markdown.ts";

/** A results file of `bench:gpu`. */
export interface GpuResults {
  /** Format of this file. */
  readonly schema: 1;
  /** When the run began. */
  readonly date: string;
  /** This library, by section. */
  readonly ours: Record<string, unknown>;
  /** gpu_peer.py's results; null without peers. */
  peers: unknown;
}

type Row = Record<string, unknown>;

function rowsOf(group: unknown, section: string): Row[] {
  const rows = (group as Record<string, unknown> | null)?.[section];
  return Array.isArray(rows) ? rows : [];
}

const number = (row: Row | undefined, ...path: string[]): number => {
  let value: unknown = row;
  for (const key of path) value = (value as Row | undefined)?.[key];
  return typeof value === "number" ? value : NaN;
};

const ms = (value: number): string =>
  Number.isNaN(value)
    ? "-"
    : `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`;
const ratio = (peer: number, own: number): string =>
  Number.isNaN(peer / own) ? "-" : `${(peer / own).toFixed(2)}x`;

/** Of rows with equal fields, the one of least time. */
function best(rows: readonly Row[], fields: Row): Row | undefined {
  return rows
    .filter((row) => Object.entries(fields).every(([key, value]) => row[key] === value))
    .toSorted((a, b) => number(a, "ms") - number(b, "ms"))[0];
}

/** The run as Markdown: dense attention, the sparse kernels, a whole layer. */
export function gpuMarkdown({ ours, peers }: GpuResults): string {
  const dense = rowsOf(ours, "dense").map((row) => {
    const peer = best(rowsOf(peers, "dense"), { tokens: row.tokens });
    const own = number(row, "ms");
    return [
      size(number(row, "tokens")) + (row.heads === 1 ? ", one head" : ""),
      ms(number(peer, "ms")),
      `${ms(own)}, ${number(row, "tflops").toFixed(0)} TFLOP/s`,
      ratio(number(peer, "ms"), own),
    ];
  });
  const kernels = rowsOf(ours, "launch").map((row) => {
    const { tokens, vertical, slash } = row;
    const peer = best(rowsOf(peers, "launch"), { tokens, vertical, slash });
    return [
      `${size(Number(tokens))}, (${vertical}, ${slash}) ${row.selection}`,
      number(row, "density").toFixed(4),
      ms(number(peer, "layer_ms")),
      `${ms(number(row, "ms"))}, ${number(row, "tflops").toFixed(0)} TFLOP/s`,
      ratio(number(peer, "layer_ms"), number(row, "ms")),
    ];
  }).concat(
    rowsOf(ours, "blocks").map((row) => {
      const peer = best(rowsOf(peers, "blocks"), { tokens: row.tokens });
      const peerMs = number(peer, "kernel", "ms") * 32 / number(peer, "heads");
      return [
        `${size(number(row, "tokens"))}, block-sparse top ${row.top}`,
        "",
        ms(peerMs),
        `${ms(number(row, "ms"))}, ${number(row, "tflops").toFixed(0)} TFLOP/s`,
        ratio(peerMs, number(row, "ms")),
      ];
    }),
  );
  const layers = rowsOf(ours, "layer").map((row) => {
    const { tokens, sets } = row;
    const peer = rowsOf(peers, "layer").find((p) => p.tokens === tokens);
    const cudnn = best(rowsOf(peers, "dense"), { tokens });
    const peerMs = number(peer, String(sets), "ms");
    const cudnnMs = number(cudnn, "ms") * 32 / number(cudnn, "heads");
    const part = (name: string): string => ms(number(row, "parts", name, "ms"));
    return [
      `${size(Number(tokens))}, ${row.selection}, ${sets} sets`,
      number(row, "density").toFixed(3),
      ms(number(row, "ms")),
      `${part("estimate")} / ${part("index")} / ${part("attention")}`,
      `${ms(peerMs)}, ${ratio(peerMs, number(row, "ms"))}`,
      `${ms(cudnnMs)}, ${ratio(cudnnMs, number(row, "ms"))}`,
    ];
  });
  return [
    "Dense causal attention, 32 query heads on 8 key heads of 128, bf16:\n",
    table(["tokens", "cuDNN", "ours", "ratio"], dense),
    "\nSparse kernels alone, 32 heads in one launch, the same index sets:\n",
    table(["tokens, budget", "density", "published kernels", "ours", "ratio"], kernels),
    "\nA whole layer with the published budgets (estimate, index, attention):\n",
    table(
      ["tokens", "density", "ours", "estimate / index / attention", "published", "cuDNN dense"],
      layers,
    ),
  ].join("\n");
}
