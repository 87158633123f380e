// The TypeScript writers against the compiler: every offset, size and type of every struct.
import assert from "node:assert/strict";
import { openLibrary } from "../../src/native/library.ts";
import * as params from "../../src/native/params.ts";
import { Struct } from "../../src/native/structs.ts";

interface Description {
  abi: number;
  structs: Record<string, { size: number; fields: Record<string, [string, number]> }>;
}

const native = openLibrary();

function describe(): Description {
  const size = Number(native.mi_describe(null, 0n));
  const bytes = new Uint8Array(size);
  native.mi_describe(bytes, BigInt(size));
  return JSON.parse(new TextDecoder().decode(bytes));
}

const description = describe();
const structs = Object.values(params).filter((value) => value instanceof Struct);

Deno.test("ABI version is the one this package needs", () => {
  assert.equal(description.abi, params.ABI_VERSION);
});

for (const struct of structs) {
  Deno.test(`${struct.name} lies in memory as TypeScript writes it`, () => {
    const native = description.structs[struct.name];
    assert.ok(native, "the library does not know it");
    assert.equal(struct.size, native.size);
    const fields = Object.entries(native.fields).filter(([name]) => name !== "header");
    const written = Object.keys(struct.fields).map((name) => {
      return [name, [struct.fields[name as never], struct.offsets[name as never]]];
    });
    assert.deepEqual(written, fields);
  });
}

Deno.test("every parameter struct of the library has a writer", () => {
  const names = new Set(structs.map((struct) => struct.name));
  const missing = Object.keys(description.structs).filter((name) =>
    name.endsWith("_params") && !names.has(name)
  );
  assert.deepEqual(missing, []);
});

Deno.test("a description is cut at the capacity, never past it", () => {
  const bytes = new Uint8Array(16);
  const size = native.mi_describe(bytes.subarray(0, 8), 8n);
  assert.ok(size > 8n);
  assert.deepEqual([...bytes.subarray(8)], Array(8).fill(0));
});
