// The table of patterns, and pattern files and options that are refused.
import assert from "node:assert/strict";
import { minference, MODEL } from "../cli/support.ts";
import { temporaryDirectory } from "../model/support.ts";

const FILE = `${MODEL}/minference-patterns.json`;

Deno.test("inspect --patterns shows every head of the file beside the model", async () => {
  const args = ["inspect", "needle-27m", "--patterns"];
  const [human, json] = await Promise.all([minference(args), minference([...args, "--json"])]);
  assert.equal(human.code, 0, human.stderr);
  const given = JSON.parse(Deno.readTextFileSync(FILE));
  const { layers, file } = JSON.parse(json.stdout);
  assert.match(file, /minference-patterns\.json$/);
  assert.equal(layers.length, 8);
  layers.forEach((layer: Record<string, unknown>[], l: number) =>
    layer.forEach(({ pattern, density, recall }, h) => {
      const entry = given[l].minference[h];
      assert.deepEqual([pattern, density, recall], [entry.pattern, entry.density, entry.recall]);
    })
  );
  assert.match(human.stdout, /^layer +head +0 .* 7$/m);
  const rows = human.stdout.match(/^ +\d +pattern( +(?:[AVPD] [\d.+%]+|dense)){8}$/gm);
  assert.equal(rows?.length, 8, human.stdout);
  assert.match(human.stdout, /mean density 1\d\.\d%, mean recall 9\d\.\d%/);
});

Deno.test("upstream's own format has patterns and no figures", async () => {
  using folder = temporaryDirectory();
  const head = Object.fromEntries(
    Array.from({ length: 8 }, (_, h) => [h, ["vertical_and_slash", 30, 800, 1]]),
  );
  const file = folder.write("upstream.json", JSON.stringify(Array(8).fill(head)));
  const { code, stdout } = await minference(["inspect", MODEL, file, "--patterns"]);
  assert.equal(code, 0);
  assert.match(stdout, /pattern {2}V 30\+800/);
  assert.match(stdout, /no density or recall measured/);
});

Deno.test("a file that does not fit the model is refused with what does not fit", async () => {
  using folder = temporaryDirectory();
  const whole = JSON.parse(Deno.readTextFileSync(FILE));
  const extraHead = structuredClone(whole);
  extraHead[3][8] = ["stream_llm", 64, 256, 1];
  const badFigure = structuredClone(whole);
  badFigure[2].minference[5].density = "12%";
  const cases: readonly [name: string, content: string | undefined, message: RegExp][] = [
    ["layers", JSON.stringify(whole.slice(1)), /patterns of 7 layers, needle-27m has 8/],
    ["heads", JSON.stringify(extraHead), /layer 3: head "8", needle-27m has heads 0 to 7/],
    ["figure", JSON.stringify(badFigure), /layer 2, head 5: density is "12%"/],
    ["json", "[{", /not valid JSON/],
    ["missing", undefined, /no pattern file/],
  ];
  const runs = await Promise.all(cases.map(([name, content]) => {
    const file = `${folder.path}/${name}.json`;
    if (content !== undefined) Deno.writeTextFileSync(file, content);
    return minference(["inspect", MODEL, file, "--patterns", "--json"]);
  }));
  cases.forEach(([name, , message], i) => {
    assert.equal(runs[i].code, 1, name);
    const { error } = JSON.parse(runs[i].stdout);
    assert.equal(error.code, name === "missing" ? "IO" : "CHECKPOINT");
    assert.match(error.message, message);
  });
});

Deno.test("a pattern file needs --patterns", async () => {
  const { code, stderr } = await minference(["inspect", MODEL, FILE]);
  assert.equal(code, 2);
  assert.match(stderr, /a pattern file needs --patterns/);
});

Deno.test("what makes no sense for the page is told before anything is measured", async () => {
  const page = ["inspect", MODEL, "--patterns", "--html", "/tmp/never-written.html"];
  const cases: readonly [args: readonly string[], code: number, message: RegExp][] = [
    [["inspect", MODEL, "--html", "page.html"], 2, /--html needs --patterns/],
    [["inspect", MODEL, "--patterns", "--heads", "1:1"], 2, /--heads needs --html/],
    [[...page, "--heads", "1:1,8:0"], 2, /LAYER:HEAD,\.\.\. up to 7:7, got "8:0"/],
    [[...page, "--heads", "3"], 2, /got "3"/],
    [[...page, "--tokens", "500"], 2, /--tokens .* from 1024, got "500"/],
    [[...page.slice(0, 4), "/no/folder/page.html"], 1, /cannot write \/no\/folder\/page\.html/],
    [[...page, "-f", `${MODEL}/config.json`], 2, /has \d+ tokens, a sample needs 1024/],
    [[...page, "-f", "/no/such.txt"], 1, /no such file/],
  ];
  const runs = await Promise.all(cases.map(([args]) => minference(args)));
  cases.forEach(([args, code, message], i) => {
    assert.equal(runs[i].code, code, `${args}: ${runs[i].stderr}`);
    assert.match(runs[i].stderr, message);
  });
});
