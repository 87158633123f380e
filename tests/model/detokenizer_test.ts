import assert from "node:assert/strict";
import fc from "fast-check";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { NEEDLE } from "./support.ts";

const tokenizer = await (await openCheckpoint(NEEDLE)).loadTokenizer();

function stream(ids: ArrayLike<number>): string[] {
  const detokenizer = tokenizer.detokenizer();
  return [...Array.from(ids, (id) => detokenizer.add(id)), detokenizer.flush()];
}

Deno.test("detokenizer: pieces join to the text and hold whole characters only", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 60 }), (text) => {
      fc.pre(!text.includes("\uFFFD")); // the sign of half a character, looked for below
      const ids = tokenizer.encode(text);
      const pieces = stream(ids);
      assert.equal(pieces.join(""), text);
      assert(pieces.every((piece) => piece.isWellFormed() && !piece.includes("\uFFFD")));
    }),
    { numRuns: 300 },
  );
});

Deno.test("detokenizer: bytes that are no text come out as decoding gives them", () => {
  const bytes = fc.integer({ min: 2, max: 260 }); // single bytes, many of them parts of characters
  fc.assert(
    fc.property(fc.array(fc.oneof(bytes, fc.nat(8191)), { maxLength: 50 }), (ids) => {
      assert.equal(stream(ids).join(""), tokenizer.decode(ids));
    }),
    { numRuns: 500 },
  );
});

Deno.test("detokenizer: special tokens give nothing, flush starts afresh", () => {
  const detokenizer = tokenizer.detokenizer();
  assert.equal(detokenizer.add(0), "");
  const [first, ...rest] = tokenizer.encode("é", { addSpecialTokens: false, parseSpecial: false });
  if (rest.length > 0) {
    assert.equal(detokenizer.add(first), "");
    assert.equal(detokenizer.flush(), "\uFFFD");
  }
  assert.equal(detokenizer.flush(), "");
  assert.equal(detokenizer.add(tokenizer.idOf("a")!), "a");
});

Deno.test("detokenizer: endless garbage is not held back for ever", () => {
  const lead = [...tokenizer.encode("😀", { addSpecialTokens: false })][0];
  const pieces = stream(Array(200).fill(lead));
  assert(pieces.slice(0, -1).join("").length > 100);
});
