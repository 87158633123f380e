// Each command on the repository's model.
import assert from "node:assert/strict";
import { examine, type Finding } from "../../src/cli/doctor.ts";
import { addText } from "../model/gguf_writer.ts";
import { temporaryDirectory } from "../model/support.ts";
import { minference, MODEL, passkeyPrompt } from "./support.ts";

Deno.test("run writes the answer to stdout and figures to stderr", async () => {
  const { text, question } = passkeyPrompt(6000);
  const args = ["run", "needle-27m", "-f", "-", "-p", question, "--max-tokens", "6"];
  const { code, stdout, stderr } = await minference(args, { stdin: text });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, " 48213\n");
  assert.match(stderr, /prompt tokens, first token after .* tok\/s/);
});

Deno.test("run --json gives text and figures", async () => {
  const args = ["run", MODEL, "-p", "The", "--max-tokens", "5", "--temperature", "0.8"];
  const seeded = [...args, "--top-k", "40", "--top-p", "0.9", "--seed", "7", "--json"];
  const [a, b] = await Promise.all([minference(seeded), minference(seeded)]);
  const result = JSON.parse(a.stdout);
  assert.equal(result.finishReason, "length");
  assert.equal(result.completionTokens, 5);
  assert.ok(result.promptTokens > 0 && result.ttftMs > 0 && result.density === 1);
  assert.equal(JSON.parse(b.stdout).text, result.text, "equal seeds draw equal answers");
});

Deno.test("run --chat sends the prompt in the model's chat form", async () => {
  using directory = temporaryDirectory();
  const file = Deno.readFileSync(`${MODEL}/needle-27m-q8_0.gguf`);
  const template = "{{ bos_token }}{{ messages[0].content }} The pass key is";
  const model = directory.write("m.gguf", addText(file, "tokenizer.chat_template", template));
  const { text } = passkeyPrompt(6000);
  const args = ["run", model, "--chat", "-f", "-", "-p", "What is the pass key?"];
  const options = { stdin: text };
  const [answered, refused] = await Promise.all([
    minference([...args, "--max-tokens", "6"], options),
    minference(["run", MODEL, ...args.slice(2)], options),
  ]);
  assert.equal(answered.code, 0, answered.stderr);
  assert.equal(answered.stdout, " 48213\n");
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /has no chat template/);
});

/** Characters of a prompt that is read sparsely: more on a GPU, where short ones are read densely by themselves. */
const SPARSE = Deno.env.get("MINFERENCE_DEVICE") === "cuda" ? 90_000 : 9000;

Deno.test("prefill --compare dense measures both and compares the answers", async () => {
  const { text, question } = passkeyPrompt(SPARSE);
  const args = ["prefill", MODEL, "-f", "-", "-p", question, "--compare", "dense"];
  const options = { stdin: text };
  const [json, human] = await Promise.all([
    minference([...args, "--json", "--max-tokens", "6"], options),
    minference(args, options),
  ]);
  assert.equal(json.code, 0, json.stderr);
  const report = JSON.parse(json.stdout);
  const [sparse, dense] = report.variants;
  assert.deepEqual([sparse.name, dense.name], ["auto", "dense"]);
  assert.equal(dense.density, 1);
  assert.ok(sparse.density > 0 && sparse.density < 1, `${sparse.density}`);
  assert.equal(sparse.answer, " 48213");
  assert.equal(report.sameAnswer, true);
  assert.ok(report.speedup > 0 && report.peakBytes > 28e6);
  assert.deepEqual([report.layers.length, report.layers[0].groups.length], [7, 2]);
  for (const { split, prefillMs } of report.variants) {
    const sum = split.index + split.attention + split.linear + split.other;
    assert.ok(Math.abs(sum - prefillMs) < 0.02 * prefillMs, `${sum} of ${prefillMs} ms`);
  }
  assert.ok(sparse.split.index > 0 && dense.split.index === 0);
  assert.match(human.stdout, /x (faster|slower) to the first token, the same answer/);
  assert.match(human.stdout, /^layer {2}group 0 {2}group 1/m);
});

Deno.test("bench shows a row for each length", async () => {
  const args = ["bench", MODEL, "--lengths", "100,0.25k", "--repeat", "1"];
  const { code, stdout, stderr } = await minference([...args, "--json"]);
  assert.equal(code, 0, stderr);
  const { rows } = JSON.parse(stdout);
  assert.deepEqual(rows.map((row: { tokens: number }) => row.tokens), [100, 256]);
  for (const row of rows) assert.ok(row.denseMs > 0 && row.sparseMs > 0 && row.density <= 1);
});

Deno.test("bench refuses a length beyond the context before it measures the others", async () => {
  const args = ["bench", MODEL, "--lengths", "16,32,200", "--context", "100"];
  const { code, stdout, stderr } = await minference(args);
  assert.deepEqual([code, stdout], [2, ""]);
  assert.match(stderr, /--lengths goes to 200 tokens, the context is 100/);
});

Deno.test("inspect needs no library, and its plan grows with the context", async () => {
  const args = ["inspect", "needle-27m", "--context", "4k,8k"];
  const env = { MINFERENCE_LIB: "/no/libminference.so" };
  const [json, human] = await Promise.all([
    minference([...args, "--json"], { env }),
    minference(args),
  ]);
  assert.equal(json.code, 0, json.stderr);
  const { config, tensors, weightBytes, parameters, plans } = JSON.parse(json.stdout);
  assert.equal(config.layers, 8);
  assert.equal(tensors.length, 74);
  const sum = tensors.reduce((n: number, tensor: { bytes: number }) => n + tensor.bytes, 0);
  assert.equal(weightBytes, sum);
  assert.equal(Math.round(parameters / 1e5), 267);
  assert.ok(plans[0].fits && plans[1].kvCache === 2 * plans[0].kvCache);
  assert.match(human.stdout, /^embed\.weight +\[8192, 512\] +q8_0 +4\.5 MB$/m);
  assert.match(human.stdout, /^ +4,096 .* fits$/m);
});

Deno.test("inspect plans an fp8 cache at half the memory; other types are wrong usage", async () => {
  const plan = ["inspect", "needle-27m", "--context", "8k", "--json"];
  const [stored, fp8, odd, host] = await Promise.all([
    minference(plan),
    minference([...plan, "--kv", "fp8"]),
    minference([...plan, "--kv", "int8"]),
    minference([...plan, "--kv-place", "host", "--device", "cpu"]),
  ]);
  assert.equal(JSON.parse(host.stdout).plans[0].hostKvCache, 0); // the CPU's memory is the host's
  const [{ kvCache: whole }, { kvCache: half, fitsAsFp8 }] = [stored, fp8].map(({ stdout }) =>
    JSON.parse(stdout).plans[0]
  );
  assert.ok(half > 0.5 * whole && half < 0.51 * whole, `${half} of ${whole}`);
  assert.equal(fitsAsFp8, true);
  assert.equal(odd.code, 2);
  assert.match(odd.stderr, /--kv is one of f32, f16, bf16, fp8; got "int8"/);
});

Deno.test("inspect --weights fp8 plans fewer bytes, and run answers with them", async () => {
  const plan = ["inspect", "needle-27m", "--context", "8k", "--json"];
  const { text, question } = passkeyPrompt(6000);
  const run = ["run", MODEL, "-f", "-", "-p", question, "--max-tokens", "6", "--weights", "fp8"];
  const [stored, fp8, answer] = await Promise.all([
    minference(plan),
    minference([...plan, "--weights", "fp8"]),
    minference(run, { stdin: text }),
  ]);
  const weights = [stored, fp8].map(({ stdout }) => JSON.parse(stdout).plans[0].weights);
  assert.ok(weights[1] < weights[0], `${weights}`); // 8.5 bits an element against 8 and the scales
  assert.equal(answer.stdout, " 48213\n", answer.stderr);
});

Deno.test("inspect --precision shows each kind of layer and the predictions", async () => {
  const text = ["-f", `${MODEL}/haystack.txt`, "--tokens", "1k"];
  const args = ["inspect", MODEL, "--precision", ...text];
  const [json, human] = await Promise.all([minference([...args, "--json"]), minference(args)]);
  assert.equal(json.code, 0, json.stderr);
  const { kinds, matrices, sample } = JSON.parse(json.stdout);
  assert.deepEqual(
    kinds.map(({ kind }: { kind: string }) => kind),
    ["q", "k", "v", "output", "gate", "up", "down"],
  );
  assert.equal(matrices.length, 8 * 7);
  for (const { weight, output, worst } of kinds) {
    assert.ok(weight > 0.01 && weight < 0.04 && worst.output >= output, `${weight} ${output}`);
  }
  assert.ok(sample.tokens === 1024 && sample.logits < 0.15 && sample.topAgreement > 0.75);
  assert.ok(sample.klMean > 0 && sample.klMean < 0.2, `${sample.klMean}`);
  assert.match(human.stdout, /^linear +weights +outputs +worst outputs +of layer$/m);
  assert.match(human.stdout, /logits off by .*%, the same top token at .*%, KL divergence/);
});

Deno.test("doctor finds everything here, and tells what to do where something is missing", async () => {
  const [well, ill] = await Promise.all([
    minference(["doctor", "--json"]),
    minference(["doctor"], { env: { MINFERENCE_LIB: "/no/libminference.so" } }),
  ]);
  assert.equal(well.code, 0, well.stdout);
  const { ok, findings } = JSON.parse(well.stdout);
  assert.equal(ok, true);
  const names: string[] = findings.map((finding: { name: string }) => finding.name);
  for (
    const name of ["runtime", "--allow-ffi", "tried", "library", "C++ compiler", "CPU", "model"]
  ) {
    assert.ok(names.includes(name), `${name} in ${names}`);
  }
  assert.equal(ill.code, 1);
  assert.match(
    ill.stdout,
    /^problem +library .*\/no\/libminference\.so.*\n +fix: deno task build/m,
  );
});

Deno.test("doctor tells one cause once", async () => {
  const permissions = ["--allow-read", "--allow-env"];
  const { code, stdout } = await minference(["doctor", "--json"], { permissions });
  assert.equal(code, 1);
  const problems = (findings: readonly Finding[]): string[] =>
    findings.filter(({ state }) => state === "problem").map(({ name }) => name);
  assert.deepEqual(problems(JSON.parse(stdout).findings), ["--allow-ffi"]);

  const { version } = Deno;
  Object.defineProperty(Deno, "version", { value: { ...version, deno: "2.5.0" } });
  try {
    assert.deepEqual(problems(await examine()), ["runtime"]);
  } finally {
    Object.defineProperty(Deno, "version", { value: version });
  }
});

Deno.test("search-patterns refuses a sample that is too short, and writes nothing", async () => {
  const out = await Deno.makeTempFile();
  const args = ["search-patterns", MODEL, "-f", "-", "-o", out];
  const { code, stderr } = await minference(args, { stdin: "Once upon a time." });
  assert.equal(code, 1);
  assert.match(stderr, /a sample of \d tokens is too short to search on, 1024 are needed/);
  assert.equal(await Deno.readTextFile(out), "");
  await Deno.remove(out);
});

Deno.test("run and prefill take a guard; --no-guard keeps every list", async () => {
  const { text, question } = passkeyPrompt(SPARSE);
  const args = ["prefill", MODEL, "-f", "-", "-p", question, "--max-tokens", "1"];
  const guarded = async (...options: string[]): Promise<number> => {
    const { code, stdout, stderr } = await minference([...args, "--json", ...options], {
      stdin: text,
    });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout).variants[0].guarded;
  };
  assert.ok(await guarded("--guard", "0.99") > 0);
  assert.equal(await guarded("--no-guard"), 0);
  const run = ["run", MODEL, "-f", "-", "-p", question, "--max-tokens", "1", "--guard", "1"];
  const { stderr } = await minference(run, { stdin: text });
  assert.match(stderr, /the guard made \d+ heads dense/);
});
