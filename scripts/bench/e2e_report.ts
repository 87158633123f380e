/**
 * The tables of an end-to-end run.
 *
 * @module
 */
import type { DecodeRow, E2eResults, LoadRow, PrefillRow } from "./e2e_results.ts";
import { digits, gib, seconds, size, table } from "./markdown.ts";

interface PeerRow {
  readonly tokens: number;
  readonly ttft_ms: number;
  readonly peak_bytes: number;
  readonly extrapolated: boolean;
}

interface Peer {
  readonly decoder?: {
    readonly linear?: { readonly tflops: number };
    readonly lengths?: readonly PeerRow[];
  };
}

/** Time to the first token densely: a whole run, or one layer's attention for every layer but the last. */
export function denseMs(
  results: E2eResults,
  tokens: number,
): { ms: number; extrapolated: boolean } | null {
  const at = <T extends { tokens: number }>(rows: readonly T[]): T | undefined =>
    rows.find((row) => row.tokens === tokens);
  const run = at(results.dense);
  if (run) return { ms: run.ms, extrapolated: false };
  const [layer, sparse] = [at(results.denseAttention), at(results.sparse)];
  if (!layer || !sparse) return null;
  const { kvHeads, layers } = results.config;
  // The last layer computes one row's attention.
  const attention = (layers - 1) * layer.ms * kvHeads / layer.groups;
  return { ms: sparse.linearMs + sparse.restMs + attention, extrapolated: true };
}

const mark = (text: string, marked: boolean): string => marked ? `${text}*` : text;

function share(part: number, whole: number): string {
  return Number.isFinite(part / whole) ? `${digits(100 * part / whole)}%` : "-";
}

function ratio(slow: number | undefined, fast: number | undefined): string {
  const value = (slow ?? NaN) / (fast ?? NaN);
  return Number.isFinite(value) ? `${digits(value)}x` : "-";
}

function timesTable(results: E2eResults, peer: Peer): string {
  const lengths = new Set([...results.sparse, ...results.dense, ...results.denseAttention].map(
    ({ tokens }) => tokens,
  ));
  const rows = [...lengths].toSorted((a, b) => a - b).map((tokens) => {
    const other = peer.decoder?.lengths?.find((row) => row.tokens === tokens);
    const sparse = results.sparse.find((row) => row.tokens === tokens);
    const dense = denseMs(results, tokens);
    return [
      size(tokens),
      mark(seconds(other?.ttft_ms), other?.extrapolated ?? false),
      mark(seconds(dense?.ms), dense?.extrapolated ?? false),
      `**${seconds(sparse?.ms)}**`,
      ratio(other?.ttft_ms, sparse?.ms),
      sparse ? digits(sparse.density) : "-",
      mark(gib(sparse?.peakBytes), sparse !== undefined && sparse.kv !== "all"),
      gib(other?.peak_bytes),
    ];
  });
  const head = ["tokens", "PyTorch + cuDNN", "dense", "sparse", "", "density", "memory", "peer's"];
  return table(head, rows);
}

function splitTable(results: E2eResults, bareTflops: number): string {
  const row = (name: string, one: PrefillRow): string[] => [
    `${size(one.tokens)} ${name}`,
    seconds(one.linearMs),
    `${digits(one.linearTflops)} TFLOP/s`,
    share(one.linearTflops, bareTflops),
    seconds(one.attentionMs),
    seconds(one.indexMs),
    seconds(one.restMs),
    share(one.restMs, one.ms),
    share(one.plannedBytes - one.peakBytes, one.peakBytes),
  ];
  return table(
    [
      ...["run", "linear", "rate", "of the peer's", "attention", "index", "rest", "share of rest"],
      "memory plan off by",
    ],
    [
      ...results.sparse.map((one) => row("sparse", one)),
      ...results.dense.map((one) => row("dense", one)),
    ],
  );
}

/** Device time of a token by operation, launched one by one, longest first. */
export function decodeSplit({ timings, steps }: DecodeRow): string {
  return Object.entries(timings)
    .toSorted(([, a], [, b]) => b - a)
    .map(([name, ms]) => `${name} ${digits(ms / steps)}`)
    .join(", ");
}

function decodeText(
  name: string,
  decode: DecodeRow | undefined,
  { copyBytesPerSecond, hostBytesPerSecond }: E2eResults,
): string {
  if (!decode) return "";
  const bound = copyBytesPerSecond === undefined
    ? undefined
    : decode.bytes / copyBytesPerSecond * 1000;
  return `\nDecoding with ${size(decode.tokens)} tokens held${name}: ${
    digits(1000 / decode.ms)
  } tokens/s ` +
    `(${digits(decode.ms)} ms a token; its operations one by one ${digits(decode.deviceMs)} ms: ${
      decodeSplit(decode)
    }). Reading ` +
    `weights, keys and values (${gib(decode.bytes)}) at the rate of a copy on the device ` +
    `(${digits((copyBytesPerSecond ?? NaN) / 1e12)} TB/s) would take ${digits(bound)} ms: ` +
    `${share(bound ?? NaN, decode.ms)} of that speed.\n${hostText(decode, hostBytesPerSecond)}`;
}

/** The same bound for what comes from host memory. */
function hostText({ hostBytes, ms }: DecodeRow, bytesPerSecond = NaN): string {
  if (hostBytes === undefined) return "";
  const bound = hostBytes / bytesPerSecond * 1000;
  return `${gib(hostBytes)} of that come from host memory: at ${
    digits(bytesPerSecond / 1e9)
  } GB/s ` +
    `in ${digits(bound)} ms, ${share(bound, ms)} of that speed.\n`;
}

/** How fast weights load, and how fast their file is read. */
export function loadText({ bytes, loadMs, readMs }: LoadRow): string {
  const rate = (ms: number): string => `${digits(bytes / ms / 1e6)} GB/s`;
  return `${gib(bytes)} of weights in ${seconds(loadMs)}, ${
    rate(loadMs)
  }; reading the file into one buffer takes ` +
    `${seconds(readMs)}, ${rate(readMs)}: ${share(readMs, loadMs)} of that speed`;
}

/** The run as Markdown. */
export function e2eMarkdown(results: E2eResults): string {
  const peer = (results.peer ?? {}) as Peer;
  const { shape, machine, failures, skipped } = results;
  const bare = peer.decoder?.linear?.tflops ?? NaN;
  return [
    `Time to the first token, ${shape} shape, random weights, ${
      results.weights ?? "bf16"
    }, ${machine.device}:\n`,
    timesTable(results, peer),
    "\n\\* times: one layer's attention times the layers; memory: " +
    (results.sparse.some(({ kv }) => kv === "one")
      ? "one layer's keys and values, those of all layers do not fit.\n"
      : "with an fp8 cache, 16 bits do not fit.\n"),
    splitTable(results, bare),
    Number.isNaN(bare) ? "" : `\nThe peer's bare matrix products: ${digits(bare)} TFLOP/s.`,
    results.load ? `\n${loadText(results.load)}.` : "",
    decodeText("", results.decode, results),
    decodeText(" in an fp8 cache", results.decodeFp8, results),
    ...failures.map(({ step, error }) => `Failed: ${step}: ${error}`),
    ...skipped.map((step) => `No time left: ${step}`),
  ].filter((text) => text !== "").join("\n");
}
