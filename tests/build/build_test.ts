// The native build, on a tree of two small files.
import assert from "node:assert/strict";
import { buildLibrary } from "../../src/build/build.ts";
import { findToolchain } from "../../src/build/toolchain.ts";
import { failure } from "../model/support.ts";
import { names, temporaryFolder, TREE, writeTree } from "./support.ts";

function answerOf(library: string): number {
  using lib = openToy(library);
  return lib.answer();
}

function openToy(library: string): Disposable & { answer(): number } {
  const lib = Deno.dlopen(library, { toy_answer: { parameters: [], result: "i32" } });
  return { answer: () => lib.symbols.toy_answer(), [Symbol.dispose]: () => lib.close() };
}

Deno.test("compiles what changed, headers included, and nothing else", async () => {
  using folder = temporaryFolder();
  const source = `${folder.path}/cuda`;
  const out = `${folder.path}/out`;
  writeTree(source, TREE);
  const build = () => buildLibrary({ source, out, cuda: false });
  const first = await build();
  assert.deepEqual([first.compiled, first.reused, first.cuda], [2, 0, false]);
  assert.equal(answerOf(first.path), 42);
  const second = await build();
  assert.deepEqual([second.compiled, second.reused], [0, 2]);
  writeTree(source, { "core/answer.h": "#define ANSWER 43\n" });
  const third = await build();
  assert.deepEqual([third.compiled, third.reused], [1, 1]);
  assert.equal(answerOf(third.path), 43);
  assert.equal(names(`${out}/obj`).filter((name) => name.endsWith(".o")).length, 2);
});

Deno.test("an error tells what the compiler said and leaves the library alone", async () => {
  using folder = temporaryFolder();
  const source = `${folder.path}/cuda`;
  const out = `${folder.path}/out`;
  writeTree(source, TREE);
  const { path } = await buildLibrary({ source, out, cuda: false });
  writeTree(source, { "core/broken.cpp": "int broken( { return 1; }\n" });
  const error = await failure("BUILD", () => buildLibrary({ source, out, cuda: false }));
  assert.match(error.message, /compiling .*broken\.cpp failed/);
  assert.match(error.message, /error: /);
  assert.equal(answerOf(path), 42);
  assert.ok(names(`${out}/obj`).every((name) => !name.endsWith(".tmp")));
});

Deno.test("an abort stops the compilers", async () => {
  using folder = temporaryFolder();
  writeTree(`${folder.path}/cuda`, TREE);
  const reason = new Error("enough");
  const signal = AbortSignal.abort(reason);
  const options = { source: `${folder.path}/cuda`, out: `${folder.path}/out`, cuda: false, signal };
  await assert.rejects(() => buildLibrary(options), reason);
  assert.ok(!names(options.out).includes("libminference.so"));
});

Deno.test("a compiler that was named stands alone; without one it is told what was tried", async () => {
  const path = Deno.env.get("PATH")!;
  const cxx = Deno.env.get("CXX");
  try {
    Deno.env.set("CXX", "no-such-compiler");
    const named = await failure("BUILD", () => findToolchain());
    assert.match(named.message, /tried no-such-compiler\)/);
    Deno.env.set("PATH", "/nowhere");
    Deno.env.set("CXX", "");
    const none = await failure("BUILD", () => findToolchain());
    assert.match(none.message, /tried g\+\+, clang\+\+, c\+\+\).*install/);
  } finally {
    Deno.env.set("PATH", path);
    if (cxx === undefined) Deno.env.delete("CXX");
    else Deno.env.set("CXX", cxx);
  }
});
