/**
 * Progress on stderr: a bar on a terminal, now and then a line elsewhere.
 *
 * @module
 */
import process from "node:process";
import { styleText } from "node:util";
import type { OnProgress, Progress } from "../model/progress.ts";
import { bytes, count, duration } from "./format.ts";
import { writeStderr } from "./output.ts";

/** Between lines where there is no terminal. */
const LINE_EVERY_MS = 10_000;
/** Between redraws, so that the time moves on while a long step reports nothing. */
const REDRAW_EVERY_MS = 250;

/** Where progress goes. */
export interface ProgressTarget {
  /** Whether lines can be redrawn there. */
  readonly terminal: boolean;
  /** Cells of a line. */
  readonly columns: number;
  /** Writes text. */
  write(text: string): void;
}

function stderrTarget(): ProgressTarget {
  const terminal = Deno.stderr.isTerminal();
  return {
    terminal,
    columns: terminal && Deno.consoleSize().columns || 80, // some pseudo-terminals say 0
    write: writeStderr,
  };
}

const UNITS: Readonly<Record<Progress["stage"], (n: number) => string>> = {
  load: bytes,
  tokenize: (n) => `${count(n)} characters`,
  prefill: (n) => `${count(n)} tokens`,
  decode: (n) => `${count(n)} tokens`,
  search: (n) => `${count(n)} layers`,
};

/** Shows the stages of one piece of work, one after the other. Dispose it before other text is written. */
export class ProgressBar implements Disposable {
  readonly #target: ProgressTarget;
  readonly #label: string;
  #timer: ReturnType<typeof setInterval> | undefined;
  #latest: Progress | undefined;
  #at = 0; // when the latest report came
  #lineAt = performance.now();

  /**
   * @param label Put before the stage, e.g. the name of the variant that runs.
   * @param target Default stderr.
   */
  constructor(label = "", target: ProgressTarget = stderrTarget()) {
    this.#label = label;
    this.#target = target;
  }

  /** To be given as `onProgress`. */
  readonly onProgress: OnProgress = (progress) => {
    this.#latest = progress;
    this.#at = performance.now();
    if (this.#target.terminal) {
      this.#draw();
      this.#timer ??= setInterval(() => this.#draw(), REDRAW_EVERY_MS);
    } else if (this.#at - this.#lineAt >= LINE_EVERY_MS) {
      this.#lineAt = this.#at;
      this.#target.write(`${this.#text(progress)}\n`);
    }
  };

  #text({ stage, done, total, elapsedMs }: Progress): string {
    const label = this.#label ? `${this.#label}: ${stage}` : stage;
    const running = done < total;
    const elapsed = elapsedMs + (running ? performance.now() - this.#at : 0);
    const remaining = done > 0 && running
      ? `, about ${duration(Math.max(0, elapsedMs * total / done - elapsed))} left`
      : "";
    const share = Math.floor(100 * done / Math.max(1, total));
    return `${label} ${share}% of ${UNITS[stage](total)}, ${duration(elapsed)}${remaining}`;
  }

  #draw(): void {
    const progress = this.#latest!;
    const text = this.#text(progress);
    const width = Math.min(30, this.#target.columns - text.length - 4);
    const filled = Math.round(width * Math.min(1, progress.done / Math.max(1, progress.total)));
    const bar = width >= 8
      ? `${styleText("cyan", "█".repeat(filled), { stream: process.stderr })}${
        "░".repeat(width - filled)
      } `
      : "";
    this.#target.write(`\r\x1b[2K${bar}${text.slice(0, this.#target.columns - 1)}`);
  }

  /** Wipes the bar. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    if (this.#target.terminal && this.#latest) this.#target.write("\r\x1b[2K");
    this.#latest = undefined;
  }
}
