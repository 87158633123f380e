/**
 * Results on stdout, everything for human eyes on stderr.
 *
 * @module
 */
import process from "node:process";
import { styleText } from "node:util";
import type { ErrorJson } from "./failure.ts";

const encoder = new TextEncoder();

function writeAll(stream: { writeSync(data: Uint8Array): number }, text: string): void {
  for (let bytes = encoder.encode(text); bytes.length > 0;) {
    bytes = bytes.subarray(stream.writeSync(bytes));
  }
}

function jsonValue(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  return ArrayBuffer.isView(value) ? Array.from(value as Uint8Array) : value;
}

/** Where a command writes. */
export class Output {
  /** @param json Results are wanted as JSON. */
  constructor(readonly json: boolean) {}

  /** Writes a piece of the result as it is. */
  write(text: string): void {
    writeAll(Deno.stdout, text);
  }

  /** Writes a result: the value as JSON where that is wanted, else its text. */
  result(value: unknown, text: () => string): void {
    this.write(this.json ? `${JSON.stringify(value, jsonValue, 2)}\n` : text());
  }

  /** Writes a line to stderr. */
  note(line: string): void {
    writeAll(Deno.stderr, `${line}\n`);
  }

  /** Writes a failure: a line to stderr, and where JSON is wanted an object to stdout. */
  failure(line: string, error: ErrorJson): void {
    const label = styleText("red", "minference:", { stream: process.stderr });
    this.note(`${label} ${line}`);
    if (!this.json) return;
    try {
      this.write(`${JSON.stringify({ error }, jsonValue, 2)}\n`);
    } catch {
      // The failure may be stdout's own; stderr has told it.
    }
  }

  /** Emphasis in text for stdout, where it is a terminal that wants colours. */
  bold(text: string): string {
    return styleText("bold", text, { stream: process.stdout });
  }
}
