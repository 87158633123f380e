// Numbers in, numbers out, and the progress bar.
import assert from "node:assert/strict";
import { toNumber, UsageError } from "../../src/cli/args.ts";
import { densityByGroup, densityTable } from "../../src/cli/density.ts";
import { bytes, duration, median, millions, rate, table } from "../../src/cli/format.ts";
import { guardOf } from "../../src/cli/guard.ts";
import { ProgressBar, type ProgressTarget } from "../../src/cli/progress.ts";
import type { HeadStats } from "../../src/attention/stats.ts";

Deno.test("numbers on the command line", () => {
  const read = (text: string): number => toNumber("n", text, { least: 1 });
  assert.equal(read("28k"), 28_672);
  assert.equal(read("1M"), 1_048_576);
  assert.equal(read("1e3"), 1000);
  for (const text of ["", "k", "-1", "0", "1.5", "1x", "0x10", "9e15k", "NaN", "Infinity", "1 2"]) {
    assert.throws(() => read(text), UsageError, text);
  }
  assert.equal(toNumber("t", "0.7", { least: 0, whole: false }), 0.7);
  assert.equal(toNumber("t", undefined, { least: 0 }), undefined);
});

Deno.test("numbers for human eyes", () => {
  assert.deepEqual([0, 999, 1000, 28_722_464, 3e11].map(bytes), [
    "0 B",
    "999 B",
    "1.0 kB",
    "28.7 MB",
    "300 GB",
  ]);
  assert.deepEqual([0, 4.2, 85, 999.6, 12_345, 174_700].map(duration), [
    "0",
    "4.2 ms",
    "85 ms",
    "1.00 s",
    "12.3 s",
    "2 min 55 s",
  ]);
  assert.deepEqual([9.26, 1730].map(rate), ["9.3 tok/s", "1,730 tok/s"]);
  assert.deepEqual([26_744_320, 8.03e9].map(millions), ["26.7M", "8.03B"]);
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.equal(
    table([["name", "n"], ["a", "1"], ["long", "10"]]),
    "name   n\na      1\nlong  10\n",
  );
});

Deno.test("density by head group", () => {
  const head = (kind: HeadStats["kind"], density: number): HeadStats => ({
    ...{ kind, density, retainedMean: NaN, retainedMin: NaN },
    ...{ bands: 0, columns: 0, tiles: 0, causalTiles: 1 },
  });
  const sparse = [0.1, 0.3, 0.2].map((density) => head("vertical_slash", density));
  const layers = densityByGroup([[...sparse, head("dense", 1)], [], []], 4, 2);
  assert.deepEqual(layers, [
    { groups: [0.2, 0.6], patterns: { vertical_slash: 3, dense: 1 } },
    { groups: [1, 1], patterns: { dense: 4 } },
  ]);
  assert.match(densityTable(layers), /0 +20\.0% +60\.0% {2}vertical-slash 3, dense 1/);
});

class Recorder implements ProgressTarget {
  readonly columns = 80;
  text = "";
  constructor(readonly terminal: boolean) {}
  write(text: string): void {
    this.text += text;
  }
}

Deno.test("a terminal gets a bar that is wiped at the end", () => {
  const target = new Recorder(true);
  {
    using bar = new ProgressBar("dense", target);
    bar.onProgress({ stage: "prefill", done: 500, total: 1000, elapsedMs: 2000 });
  }
  assert.match(
    target.text,
    /█+.*░+ dense: prefill 50% of 1,000 tokens, 2\.00 s, about 2\.00 s left/,
  );
  assert.ok(target.text.endsWith("\r\x1b[2K"));
  for (const line of target.text.split("\r")) assert.ok(line.length < 100);
});

Deno.test("elsewhere short work says nothing", () => {
  const target = new Recorder(false);
  {
    using bar = new ProgressBar("", target);
    for (let done = 0; done <= 10; done++) {
      bar.onProgress({ stage: "load", done, total: 10, elapsedMs: done });
    }
  }
  assert.equal(target.text, "");
});

Deno.test("guard options", () => {
  assert.equal(guardOf({}), true);
  assert.equal(guardOf({ "no-guard": true }), false);
  assert.deepEqual(guardOf({ guard: "0.85" }), { retained: 0.85, retainedMin: 0 });
  assert.deepEqual(guardOf({ guard: "0,.1" }), { retained: 0, retainedMin: 0.1 });
  for (const guard of ["", "1.1", "-0.1", "0.5,2", "0.1,0.1,0.1", "half"]) {
    assert.throws(() => guardOf({ guard }), UsageError, guard);
  }
  assert.throws(() => guardOf({ guard: "0.5", "no-guard": true }), UsageError);
});
