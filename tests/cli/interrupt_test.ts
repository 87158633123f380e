// Ctrl-C in the middle of a long prefill.
import assert from "node:assert/strict";
import { ended, MODEL, start } from "./support.ts";

/** Starts a prefill of minutes and waits until it runs. */
async function longPrefill(...more: string[]): Promise<Deno.ChildProcess> {
  const file = `${MODEL}/haystack.txt`;
  const child = start("src/cli/main.ts", [
    "run",
    MODEL,
    "-f",
    file,
    "--patterns",
    "dense",
    ...more,
  ]);
  await new Promise((resolve) => setTimeout(resolve, 3000));
  return child;
}

Deno.test("Ctrl-C ends a prefill in order, with exit code 130", async () => {
  const child = await longPrefill("--json");
  const sent = performance.now();
  child.kill("SIGINT");
  const { code, stdout, stderr } = await ended(child);
  const took = performance.now() - sent;
  assert.equal(code, 130);
  assert.equal(JSON.parse(stdout).error.code, "ABORTED");
  assert.match(stderr, /interrupted/);
  assert.ok(took < 2000, `took ${took} ms`);
});

Deno.test("Ctrl-C during an answer keeps what was written", async () => {
  const args = ["run", MODEL, "-p", "The", "--max-tokens", "100000", "--context", "200000"];
  const child = start("src/cli/main.ts", args);
  await new Promise((resolve) => setTimeout(resolve, 3000));
  child.kill("SIGINT");
  const { code, stdout } = await ended(child);
  assert.equal(code, 130);
  assert.ok(stdout.length > 0);
});
