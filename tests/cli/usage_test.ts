// Help, and command lines that make no sense.
import assert from "node:assert/strict";
import { minference } from "./support.ts";

const COMMANDS = ["run", "prefill", "bench", "search-patterns", "inspect", "doctor", "build"];

Deno.test("--help lists the commands, and each command has its own", async () => {
  const [all, ...each] = await Promise.all([
    minference(["--help"]),
    ...COMMANDS.map((name) => minference([name, "--help"])),
  ]);
  for (const { code, stderr } of [all, ...each]) {
    assert.equal(code, 0);
    assert.equal(stderr, "");
  }
  COMMANDS.forEach((name, i) => {
    assert.match(all.stdout, new RegExp(`^ {2}${name} `, "m"));
    assert.match(each[i].stdout, new RegExp(`^Usage: minference ${name}`));
    assert.match(each[i].stdout, /--json .*\n.*--help/);
  });
  const lines = [all, ...each].flatMap(({ stdout }) => stdout.split("\n"));
  assert.deepEqual(lines.filter((line) => line.length > 100), []);
  assert.equal((await minference(["help", "run"])).stdout, each[0].stdout);
});

const WRONG: readonly [args: readonly string[], message: RegExp][] = [
  [[], /no command/],
  [["fly"], /no command "fly"/],
  [["--json=no", "run"], /the command comes first, got "--json=no"/],
  [["constructor"], /no command "constructor"/],
  [["run"], /needs MODEL/],
  [["run", "", "-p", "x"], /needs MODEL/],
  [["run", "m", "extra", "-p", "x"], /unexpected argument "extra"/],
  [["run", "m", "-p", "x", "--fast"], /'--fast'/],
  [["run", "m", "-p"], /argument missing/],
  [["run", "m"], /no prompt/],
  [["run", "m", "-p", "x", "--max-tokens", "ten"], /--max-tokens .* from 1, got "ten"/],
  [["run", "m", "-p", "x", "--top-p", "1.5"], /--top-p .* to 1, got "1.5"/],
  [["run", "m", "-p", "x", "--device", "tpu"], /cpu, cuda, cuda:INDEX or auto; got "tpu"/],
  [["run", "m", "-p", "x", "--device", "cuda:9876543210"], /--device .* got "9876543210"/],
  [["run", "m", "-p", "x", "--weights", "int4"], /--weights is one of stored, fp8; got "int4"/],
  [["inspect", "m", "--weights", "q8"], /--weights is one of stored, fp8; got "q8"/],
  [["inspect", "m", "--precision", "--patterns"], /--patterns and --precision exclude each other/],
  [["inspect", "m", "--precision", "--tokens", "9"], /--tokens .* from 1024, got "9"/],
  [["prefill", "m", "-p", "x", "--compare", "banana"], /one of dense; got "banana"/],
  [["bench", "m", "--lengths", "1k,,2k"], /--lengths/],
  [["inspect", "m", "--context", "0"], /--context .* from 1, got "0"/],
  [["inspect", "m", "--context", "4k,"], /--context .* from 1, got ""/],
  [["inspect", "m", "--context", ""], /--context .* from 1, got ""/],
  [["inspect", "m", "--patterns", "--kv", "fp8"], /--kv and --patterns exclude each other/],
  [["run", "m", "-f", "-"], /standard input is empty/],
  [["run", "m", "-p", ""], /the prompt is empty/],
  [["run", "m", "-p", "x", "--top-p", "0"], /--top-p .* got "0"/],
  [["run", "m", "-p", "x", "--max-tokens", "-3"], /begins with a dash .* --max-tokens=VALUE/],
  [["search-patterns", "m", "--recall", "0.9", "--objective", "mass"], /--recall says nothing/],
  [["search-patterns", "m", "--recall", "95"], /--recall .* from 0.000001 to 1, got "95"/],
  [["search-patterns", "m", "--tokens", "30k,9"], /--tokens .* from 1024, got "9"/],
  [["search-patterns", "m", "-f", "a", "--tokens", "9k"], /--tokens is for generated samples/],
];

Deno.test("wrong usage is told on stderr, with exit code 2", async () => {
  const runs = await Promise.all(WRONG.map(([args]) => minference(args)));
  WRONG.forEach(([args, message], i) => {
    const { code, stdout, stderr } = runs[i];
    assert.equal(code, 2, `${args}: ${stderr}`);
    assert.equal(stdout, "");
    assert.match(stderr, message);
    assert.match(stderr, /^Usage: /m);
  });
});

Deno.test("with --json wrong usage is an object on stdout, too", async () => {
  const { code, stdout } = await minference(["run", "m", "--fast", "--json"]);
  assert.equal(code, 2);
  const { error } = JSON.parse(stdout);
  assert.equal(error.code, "USAGE");
  assert.match(error.message, /--fast/);
});
