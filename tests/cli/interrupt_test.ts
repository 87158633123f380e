// Ctrl-C in the middle of long work.
import assert from "node:assert/strict";
import { ended, MODEL, start } from "./support.ts";

/** CPU seconds that a process has used. */
function cpuSeconds(pid: number): number {
  const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100; // utime and stime, 100 ticks a second
}

/** Starts `minference run` on the CPU and waits until it is long past loading, however slow the machine. */
async function startLong(...args: string[]): Promise<Deno.ChildProcess> {
  const child = start("src/cli/main.ts", ["run", MODEL, "--device", "cpu", ...args]);
  while (cpuSeconds(child.pid) < 3) await new Promise((resolve) => setTimeout(resolve, 50));
  return child;
}

Deno.test("Ctrl-C ends a prefill in order, with exit code 130", async () => {
  const file = `${MODEL}/haystack.txt`; // 130K tokens: minutes
  const child = await startLong("-f", file, "--patterns", "dense", "--json");
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
  const child = await startLong("-p", "The", "--max-tokens", "100000");
  child.kill("SIGINT");
  const { code, stdout, stderr } = await ended(child);
  assert.equal(code, 130);
  assert.ok(stdout.length > 1);
  assert.match(stderr, /interrupted[^]* tok\/s/);
});

Deno.test("a second Ctrl-C ends at once", async () => {
  const child = await startLong("-p", "The", "--max-tokens", "100000");
  child.kill("SIGINT");
  child.kill("SIGINT");
  assert.equal((await ended(child)).code, 130);
});

/** Whether a process has a handler for SIGINT. */
function catchesInterrupt(pid: number): boolean {
  const [, mask] = /^SigCgt:\s*(\w+)/m.exec(Deno.readTextFileSync(`/proc/${pid}/status`))!;
  return (BigInt(`0x${mask}`) & 2n) !== 0n; // the second signal
}

Deno.test("Ctrl-C ends the wait for standard input", async () => {
  const child = start("src/cli/main.ts", ["run", MODEL, "-f", "-"], { stdin: "" });
  const input = child.stdin.getWriter(); // stays open, with nothing in it
  while (!catchesInterrupt(child.pid)) await new Promise((resolve) => setTimeout(resolve, 10));
  child.kill("SIGINT");
  const { code, stdout, stderr } = await ended(child);
  await input.close();
  assert.deepEqual([code, stdout], [130, ""]);
  assert.match(stderr, /^minference: interrupted$/m);
});
