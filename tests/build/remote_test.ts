// The build of a published package: sources fetched over HTTP, verified, compiled.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { buildLibrary } from "../../src/build/build.ts";
import { installLibrary } from "../../src/build/install.ts";
import { makeManifest } from "../../src/build/manifest.ts";
import manifest from "../../src/build/manifest.json" with { type: "json" };
import { fetchSources, type Manifest, sha256 } from "../../src/build/remote.ts";
import { failure } from "../model/support.ts";
import { names, serve, temporaryFolder, TREE } from "./support.ts";

const CUDA = fileURLToPath(new URL("../../cuda", import.meta.url));

const TREE_MANIFEST: Manifest = Object.fromEntries(
  Object.entries(TREE).map(([path, text]) => [path, sha256(text)]),
);

Deno.test("the published list of sources is in step with cuda/", () => {
  const published: Manifest = manifest;
  const real = makeManifest(CUDA);
  const stale = Object.keys({ ...published, ...real }).filter((p) => published[p] !== real[p]);
  assert.deepEqual(stale, [], "run deno task manifest");
});

Deno.test("sources are fetched once, verified, and build", async () => {
  using folder = temporaryFolder();
  await using server = await serve((path) => TREE[path]);
  const lines: string[] = [];
  const fetchTree = (): Promise<string> =>
    fetchSources({
      base: server.url,
      manifest: TREE_MANIFEST,
      folder: folder.path,
      onLog: (line) => lines.push(line),
    });
  const source = await fetchTree();
  assert.deepEqual(makeManifest(source), TREE_MANIFEST);
  assert.equal(await fetchTree(), source);
  assert.equal(server.requests.length, 3);
  assert.equal(lines.length, 1);
  const { compiled } = await buildLibrary({ source, out: `${folder.path}/out`, cuda: false });
  assert.equal(compiled, 2);
});

Deno.test("a source that is not the published one is refused, and nothing stays", async () => {
  using folder = temporaryFolder();
  await using server = await serve((path) =>
    path === "core/abi.cpp" ? `${TREE[path]}// one more line\n` : TREE[path]
  );
  const options = { base: server.url, manifest: TREE_MANIFEST, folder: `${folder.path}/sources` };
  const error = await failure("BUILD", () => fetchSources(options));
  assert.match(error.message, /core\/abi\.cpp is not the file that was published/);
  assert.equal(error.details.expected, TREE_MANIFEST["core/abi.cpp"]);
  assert.deepEqual(names(options.folder), []);
});

Deno.test("a missing source and an abort leave nothing behind", async () => {
  using folder = temporaryFolder();
  await using server = await serve((path) => path.endsWith(".h") ? undefined : TREE[path]);
  const options = { base: server.url, manifest: TREE_MANIFEST, folder: `${folder.path}/sources` };
  const error = await failure("NETWORK", () => fetchSources(options));
  assert.match(error.message, /core\/answer\.h: 404/);
  const reason = new Error("enough");
  const signal = AbortSignal.abort(reason);
  await assert.rejects(() => fetchSources({ ...options, signal }), reason);
  assert.deepEqual(names(options.folder), []);
});

Deno.test("a package served over HTTP is built from its own list of sources", async () => {
  using folder = temporaryFolder();
  const real = makeManifest(CUDA);
  // Everything as published but for one file, so that it ends before the compilers start.
  const [tampered] = Object.keys(real);
  await using server = await serve((path) => {
    const below = path.replace(/^cuda\//, "");
    if (!path.startsWith("cuda/") || !(below in real)) return undefined;
    return below === tampered ? "tampered" : Deno.readFileSync(`${CUDA}/${below}`);
  });
  const options = { package: server.url, out: folder.path, cuda: false };
  const error = await failure("BUILD", () => installLibrary(options));
  assert.match(error.message, /is not the file that was published/);
  assert.ok(server.requests.every((path) => path.startsWith("cuda/")));
  assert.ok(!names(folder.path).includes("libminference.so"));
});
