// A small tree of native sources, and a server that publishes one.

/** Two sources that share a header. */
export const TREE: Readonly<Record<string, string>> = {
  "core/answer.h": "#pragma once\n#define ANSWER 42\n",
  "core/abi.cpp": '#include "answer.h"\nextern "C" __attribute__((visibility("default"))) int ' +
    "toy_answer() { return ANSWER; }\n",
  "cpu/other_avx2.cpp": "int other() { return 7; }\n",
};

/** Writes files below a folder. */
export function writeTree(folder: string, files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    const file = `${folder}/${path}`;
    Deno.mkdirSync(file.slice(0, file.lastIndexOf("/")), { recursive: true });
    Deno.writeTextFileSync(file, text);
  }
}

/** A folder that is gone after the scope. */
export function temporaryFolder(): Disposable & { path: string } {
  const path = Deno.makeTempDirSync({ prefix: "minference_build_" });
  return { path, [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }) };
}

/** Serves what `body` gives for a path, 404 for undefined; counts the requests. */
export async function serve(
  body: (path: string) => string | Uint8Array<ArrayBuffer> | undefined,
): Promise<AsyncDisposable & { url: URL; requests: string[] }> {
  const requests: string[] = [];
  const ready = Promise.withResolvers<number>();
  const server = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ port }) => ready.resolve(port),
  }, (request) => {
    const path = decodeURIComponent(new URL(request.url).pathname).slice(1);
    requests.push(path);
    const found = body(path);
    return found === undefined ? new Response(null, { status: 404 }) : new Response(found);
  });
  const url = new URL(`http://127.0.0.1:${await ready.promise}/`);
  return { url, requests, [Symbol.asyncDispose]: () => server.shutdown() };
}

/** Names in a folder, or none where it is missing. */
export function names(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}
