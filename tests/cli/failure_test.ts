// Failures: one line with a code, an object with --json, exit code 1.
import assert from "node:assert/strict";
import meta from "../../deno.json" with { type: "json" };
import { ended, minference, MODEL, passkeyPrompt, ROOT, type StartOptions } from "./support.ts";

interface Failure {
  readonly code: string;
  readonly message: string;
  readonly details: Record<string, unknown>;
}

async function failureOf(args: readonly string[], options?: StartOptions): Promise<Failure> {
  const { code, stdout, stderr } = await minference([...args, "--json"], options);
  assert.equal(code, 1, stderr);
  const { error } = JSON.parse(stdout);
  const lines = stderr.trimEnd().split("\n");
  assert.equal(lines.at(-1), `minference: ${error.message} [${error.code}]`);
  assert.ok(!stderr.includes("    at "), "a stack is no message");
  return error;
}

Deno.test("a missing model is told with every place tried", async () => {
  const folder = await Deno.makeTempDir();
  const error = await failureOf(["run", "no-such-model", "-p", "x"], {
    env: { MINFERENCE_MODELS: folder },
  });
  assert.equal(error.code, "IO");
  const tried = error.details.tried as string[];
  assert.ok(tried.includes(`${folder}/no-such-model`) && tried.length === 3, `${tried}`);
  for (const path of tried) assert.ok(error.message.includes(path));
  await Deno.remove(folder);
});

Deno.test("unreadable prompts and damaged models are named", async () => {
  const damaged = await Deno.makeTempFile({ suffix: ".gguf" });
  const whole = await Deno.readFile(`${MODEL}/needle-27m-q8_0.gguf`);
  await Deno.writeFile(damaged, whole.subarray(0, 10_000));
  const latin = await Deno.makeTempFile();
  await Deno.writeFile(latin, new Uint8Array([0x63, 0x61, 0x66, 0xe9, 0x0a]));
  const [encoding, prompt, model, other] = await Promise.all([
    failureOf(["run", MODEL, "-f", latin]),
    failureOf(["run", MODEL, "-f", "/no/such/file"]),
    failureOf(["inspect", damaged]),
    failureOf(["run", MODEL, "-p", "x", "--patterns", "/no/patterns.json"]),
  ]);
  assert.equal(encoding.code, "IO");
  assert.match(encoding.message, /is not UTF-8 text/);
  assert.equal(prompt.code, "IO");
  assert.match(prompt.message, /\/no\/such\/file: no such file/);
  assert.equal(model.code, "CHECKPOINT");
  assert.ok(model.message.includes(damaged));
  assert.match(other.message, /\/no\/patterns\.json/);
  await Promise.all([Deno.remove(damaged), Deno.remove(latin)]);
});

Deno.test("a prompt beyond the context is refused with the numbers", async () => {
  const { text } = passkeyPrompt(2000);
  const error = await failureOf(["run", MODEL, "-f", "-", "--context", "100"], { stdin: text });
  assert.equal(error.code, "CONTEXT_OVERFLOW");
  assert.equal(error.details.capacity, 100);
  assert.ok((error.details.tokens as number) > 400);
  assert.match(error.message, new RegExp(`${error.details.tokens} .*100`));
});

Deno.test("a missing library is told with the path tried and the way to build it", async () => {
  const error = await failureOf(["run", MODEL, "-p", "x"], {
    env: { MINFERENCE_LIB: "/no/libminference.so" },
  });
  assert.equal(error.code, "LIBRARY_NOT_FOUND");
  assert.deepEqual(error.details.tried, ["/no/libminference.so"]);
  assert.match(error.message, /deno task build/);
});

Deno.test("missing permissions are told with the flag to add", async () => {
  const [library, file] = await Promise.all([
    failureOf(["run", MODEL, "-p", "x"], { permissions: ["--allow-read", "--allow-env"] }),
    failureOf(["inspect", MODEL], { permissions: ["--allow-env"] }),
  ]);
  assert.equal(library.code, "PERMISSION");
  assert.match(library.message, /--allow-ffi=/);
  assert.equal(file.code, "PERMISSION");
  assert.match(file.message, /--allow-read/);
});

Deno.test("a file that cannot be written is told before the work for it", async () => {
  const started = performance.now();
  const search = ["search-patterns", MODEL, "-o"];
  const read = ["--allow-read", "--allow-env", "--allow-ffi"];
  const [folder, nameless, missing, permission, page] = await Promise.all([
    failureOf([...search, "."]),
    failureOf([...search, ""]),
    failureOf([...search, "/no/such/p.json"]),
    failureOf([...search, "p.json"], { permissions: read }),
    failureOf(["inspect", MODEL, "--patterns", "--html", "/no/such/p.html"]),
  ]);
  assert.match(folder.message, /cannot write .: it is a folder/);
  assert.match(nameless.message, /cannot write "": a file needs a name/);
  assert.match(missing.message, /cannot write \/no\/such\/p.json: no such folder/);
  assert.equal(permission.code, "PERMISSION");
  assert.match(permission.message, /--allow-write=p.json/);
  assert.equal(page.code, "IO");
  assert.ok(performance.now() - started < 30_000, "a search takes longer");
});

Deno.test("a bundler that cannot be had is told before the sample is read", async () => {
  const imports = { ...meta.imports, esbuild: "file:///no/such/esbuild.js" };
  const map = await Deno.makeTempFile({ suffix: ".json" });
  await Deno.writeTextFile(map, JSON.stringify({ imports }));
  const html = await Deno.makeTempFile({ suffix: ".html" });
  const args = ["inspect", MODEL, "--patterns", "--html", html, "-f", "/no/such/text"];
  const error = await failureOf(args, { permissions: ["-A", `--import-map=${map}`] });
  assert.equal(error.code, "NETWORK");
  assert.match(error.message, /the page needs esbuild/);
  assert.equal(await Deno.readTextFile(html), "");
  await Promise.all([Deno.remove(map), Deno.remove(html)]);
});

Deno.test("output that cannot be written: a closed pipe is the reader's wish, a full disk is told", async () => {
  const shell = async (line: string): Promise<{ code: number; stdout: string; stderr: string }> => {
    const script =
      `minference() { "$DENO" run -A --no-prompt "$MAIN" "$@"; }; set -o pipefail; ${line}`;
    return await ended(
      new Deno.Command("bash", {
        args: ["-c", script],
        env: { NO_COLOR: "1", DENO: Deno.execPath(), MAIN: `${ROOT}src/cli/main.ts` },
        stdout: "piped",
        stderr: "piped",
      }).spawn(),
    );
  };
  const run = `minference run '${MODEL}' -p The --max-tokens`;
  const [help, endless, full, silent] = await Promise.all([
    shell("minference --help | true"),
    shell(`${run} 100000 | head -c 6`),
    shell(`${run} 3 --json > /dev/full`),
    shell(`${run} 3 2> /dev/full`),
  ]);
  assert.deepEqual(help, { code: 0, stdout: "", stderr: "" });
  assert.deepEqual([endless.code, endless.stdout.length, endless.stderr], [0, 6, ""]);
  assert.equal(full.code, 1);
  assert.match(
    full.stderr,
    /^minference: cannot write to standard output: No space left .*\[IO\]$/m,
  );
  assert.ok(!full.stderr.includes("    at "), "a stack is no message");
  assert.equal(silent.code, 0);
  assert.match(silent.stdout, /\w/);
});

Deno.test("what makes the page is looked for before the model is loaded", async () => {
  const out = await Deno.makeTempFile({ suffix: ".html" });
  const error = await failureOf(["inspect", MODEL, "--patterns", "--html", out], {
    permissions: ["--allow-read", "--allow-env", "--allow-write", "--allow-ffi"],
    env: { MINFERENCE_LIB: "/no/libminference.so" }, // to open it would fail, too
  });
  assert.equal(error.code, "PERMISSION");
  assert.match(error.message, /esbuild.*--allow-run/);
  await Deno.remove(out);
});
