// Downloads that fail in every way: each with a typed error, within bounds, leaving no request behind.
import assert from "node:assert/strict";
import { download } from "../../src/net/download.ts";
import { failure } from "../model/support.ts";

const CHUNK = new Uint8Array(1000).fill(65);

/** A body that begins and never ends. */
function endless(delay: number): ReadableStream<Uint8Array> {
  let timer: ReturnType<typeof setInterval> | undefined;
  return new ReadableStream({
    start(controller): void {
      timer = setInterval(() => controller.enqueue(CHUNK), delay);
    },
    cancel: () => clearInterval(timer),
  });
}

function answer(request: Request): Response {
  switch (new URL(request.url).pathname) {
    case "/small":
      return new Response(CHUNK);
    case "/endless":
      return new Response(endless(1));
    case "/slow":
      return new Response(endless(20));
    case "/moved":
      return Response.redirect(new URL("/small", request.url));
    default:
      return new Response("no", { status: 404 });
  }
}

Deno.test("download", async (t) => {
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, answer);
  const at = (path: string): URL => new URL(path, `http://127.0.0.1:${server.addr.port}`);
  await t.step("the bytes, also from where a server sends it", async () => {
    assert.deepEqual(await download(at("/small")), CHUNK);
    assert.deepEqual(await download(at("/moved")), CHUNK);
    assert.deepEqual(await download(at("/small"), { limit: CHUNK.length }), CHUNK);
  });
  await t.step("a status", async () => {
    const error = await failure("NETWORK", () => download(at("/gone")));
    assert.match(error.message, /cannot fetch http.*\/gone: 404 Not Found/);
    assert.equal(error.details.url, at("/gone").href);
  });
  await t.step("too large", async () => {
    const least = await failure("NETWORK", () => download(at("/small"), { limit: 999 }));
    assert.match(least.message, /more than the 999 bytes allowed/);
    await failure("NETWORK", () => download(at("/endless"), { limit: 50_000 }));
  });
  await t.step("too slow", async () => {
    const error = await failure("NETWORK", () => download(at("/slow"), { timeout: 100 }));
    assert.match(error.message, /not there after 100 ms/);
  });
  await t.step("aborted before and during", async () => {
    const reason = new Error("enough");
    const before = download(at("/small"), { signal: AbortSignal.abort(reason) });
    await assert.rejects(before, (error) => error === reason);
    const controller = new AbortController();
    const during = download(at("/slow"), { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 50);
    await assert.rejects(during, (error) => error === reason);
  });
  await server.shutdown();
  await t.step("nobody there", async () => {
    await failure("NETWORK", () => download(at("/small")));
  });
});

Deno.test({
  name: "download: a missing permission names the flag",
  permissions: { net: false },
  async fn(): Promise<void> {
    const error = await failure("PERMISSION", () => download(new URL("https://example.org/x")));
    assert.match(error.message, /--allow-net=example\.org/);
  },
});
