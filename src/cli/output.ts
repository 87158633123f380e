/**
 * Results on stdout, everything for human eyes on stderr.
 *
 * @module
 */
import process from "node:process";
import { styleText } from "node:util";
import { MInferenceError } from "../native/errors.ts";
import type { ErrorJson } from "./failure.ts";

const encoder = new TextEncoder();

function writeAll(stream: { writeSync(data: Uint8Array): number }, text: string): void {
  for (let bytes = encoder.encode(text); bytes.length > 0;) {
    bytes = bytes.subarray(stream.writeSync(bytes));
  }
}

/** Writes to stderr. Where that is closed or full there is nobody left to tell. */
export function writeStderr(text: string): void {
  try {
    writeAll(Deno.stderr, text);
  } catch {
    // The work goes on: its result is stdout's.
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

  /**
   * Writes a piece of the result as it is.
   *
   * @throws {Deno.errors.BrokenPipe} Where its reader has gone.
   * @throws {MInferenceError} `IO` where it cannot be written.
   */
  write(text: string): void {
    try {
      writeAll(Deno.stdout, text);
    } catch (cause) {
      if (cause instanceof Deno.errors.BrokenPipe) throw cause;
      const message = `cannot write to standard output: ${(cause as Error).message}`;
      throw new MInferenceError("IO", message, { cause });
    }
  }

  /** Writes a result: the value as JSON where that is wanted, else its text. */
  result(value: unknown, text: () => string): void {
    this.write(this.json ? `${JSON.stringify(value, jsonValue, 2)}\n` : text());
  }

  /** Writes a line to stderr. */
  note(line: string): void {
    writeStderr(`${line}\n`);
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
}
