import assert from "node:assert/strict";
import fc from "fast-check";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { readGguf } from "../../src/model/gguf.ts";
import { PRESETS } from "../../src/model/pretokenizers.ts";
import { sliceEnds } from "../../src/model/slices.ts";
import { Tokenizer } from "../../src/model/tokenizer.ts";
import { tokenizerFromGguf } from "../../src/model/tokenizer_gguf.ts";
import { f32, numbers, text, texts, tinyLlama, u32, writeGguf } from "./gguf_writer.ts";
import { failure, NEEDLE, temporaryDirectory } from "./support.ts";

const needle = await (await openCheckpoint(NEEDLE)).loadTokenizer();
const rebuilt = await (await openCheckpoint(new URL("needle-27m-q8_0.gguf", NEEDLE)))
  .loadTokenizer();
const novel = await Deno.readTextFile(new URL("haystack.txt", NEEDLE));

/** Text in which every rule of the splitting expressions gets its chance. */
const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 200 }),
  fc.array(
    fc.constantFrom(
      ..."a B 1 23 é ß 中 \u0301 👩‍👩‍👧 \uFEFF \u0085 \u00A0 \u3000 . ... !? -- ' 's 'LL 't \t \n \r\n \n\n"
        .split(" "),
      " ",
      "  ",
      "   ",
      "\n ",
      "<|end_of_text|>",
      "<|begin_of_text|>",
      "<|",
    ),
    { maxLength: 60 },
  ).map((parts) => parts.join("")),
);

Deno.test("tokenizer: GGUF metadata and tokenizer.json give the same ids", () => {
  assert.deepEqual(rebuilt.encode(novel), needle.encode(novel));
  fc.assert(
    fc.property(anyText, (text) => {
      assert.deepEqual(rebuilt.encode(text), needle.encode(text));
    }),
    { numRuns: 500 },
  );
});

Deno.test("tokenizer: decoding inverts encoding", () => {
  assert.equal(needle.decode(needle.encode(novel)), novel);
  fc.assert(
    fc.property(anyText, (text) => {
      const ids = needle.encode(text, { addSpecialTokens: false });
      // Lone surrogates are no Unicode text.
      assert.equal(needle.decode(ids, { skipSpecialTokens: false }), text.toWellFormed());
    }),
    { numRuns: 500 },
  );
});

Deno.test("tokenizer: special tokens at the beginning and in the text", () => {
  const evil = "a<|end_of_text|>b";
  assert.equal(needle.encode(evil)[0], 0);
  assert.equal(needle.encode(evil, { addSpecialTokens: false })[0], needle.idOf("a"));
  assert(needle.encode(evil).includes(1));
  const plain = needle.encode(evil, { parseSpecial: false, addSpecialTokens: false });
  assert(!plain.includes(1));
  assert.equal(needle.decode(plain), evil);
  assert.equal(needle.decode(needle.encode(evil)), "ab");
  assert.equal(needle.decode([0]), "");
  assert.equal(needle.decode([]), "");
  fc.assert(fc.property(anyText, (text) => {
    const ids = needle.encode(text, { parseSpecial: false, addSpecialTokens: false });
    assert(ids.every((id) => id > 1));
  }));
});

Deno.test("tokenizer: a text in slices has the ids of the whole", async () => {
  assert.deepEqual(await needle.encodeAsync(novel), needle.encode(novel));
  const piece = fc.constantFrom("word\n", "\n", "x \n", "A", "é.", " word", "B ", "\r\n");
  const lines = fc.array(fc.oneof(anyText, piece)).map((parts) => parts.join(""));
  await fc.assert(
    fc.asyncProperty(lines, fc.boolean(), fc.boolean(), async (text, parseSpecial, special) => {
      const options = { parseSpecial, addSpecialTokens: special };
      assert.deepEqual(
        await needle.encodeAsync(text, { ...options, sliceLength: 1 }),
        needle.encode(text, options),
      );
    }),
  );
});

Deno.test("tokenizer: every preset that is sliced gives the ids of the whole", async () => {
  using directory = temporaryDirectory();
  const lines = fc.array(
    fc.constantFrom(
      "word",
      "\n",
      " ",
      "A",
      "é",
      ".",
      "\u0085",
      "\uFEFF",
      "12345",
      "\r",
      "\t",
      "'s",
    ),
    { maxLength: 40 },
  ).map((parts) => parts.join(""));
  for (const pre of Object.keys(PRESETS)) {
    const { fields, tensors } = tinyLlama();
    const changed = fields.map((f) => f.key === "tokenizer.ggml.pre" ? text(f.key, pre) : f);
    const path = directory.write("tiny.gguf", writeGguf({ fields: changed, tensors }));
    const source = tokenizerFromGguf(readGguf(path), 258);
    // A cut can only change pieces, and without merges the ids would not show that: any two of these become a token.
    const alphabet = [..."ĠĊčĉwordA.'s123"];
    const merges = alphabet.flatMap((a) => alphabet.map((b) => [a, b]));
    const vocab = { ...(source.json.model as { vocab: Record<string, number> }).vocab };
    for (const [a, b] of merges) vocab[a + b] ??= Object.keys(vocab).length;
    const json = { ...source.json, model: { type: "BPE", vocab, merges } };
    const tokenizer = new Tokenizer({ ...source, json, vocabSize: 1000 });
    await fc.assert(
      fc.asyncProperty(lines, async (text) => {
        assert.deepEqual(
          await tokenizer.encodeAsync(text, { sliceLength: 1 }),
          tokenizer.encode(text),
          pre,
        );
      }),
    );
  }
});

Deno.test("tokenizer: slices cover the text and begin with words", () => {
  fc.assert(fc.property(anyText, fc.integer({ min: 1, max: 50 }), (text, length) => {
    const ends = [...sliceEnds(text, length)];
    assert.equal(ends.at(-1), text.length);
    ends.slice(0, -1).forEach((end, i) => {
      assert(end - (ends[i - 1] ?? 0) >= length);
      assert.match(text.slice(end - 1), /^(?:\n|\p{L} )\p{L}/u);
    });
  }));
});

Deno.test("tokenizer: whatever its lines end with, a text has slices", () => {
  const lines = novel.split("\n");
  for (
    const text of [
      lines.join("\r\n"),
      lines.join(" \n"),
      lines.map((l) => `{"t":"${l}"}`).join("\n"),
    ]
  ) {
    const ends = [...sliceEnds(text, 10_000)];
    assert(ends.length > 0.9 * text.length / 10_000, `${ends.length} slices`);
  }
});

Deno.test("tokenizer: progress, abort, and the event loop stays alive", async () => {
  const done: number[] = [];
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  await needle.encodeAsync(novel, {
    sliceLength: 20_000,
    onProgress: (units, total) => {
      assert.equal(total, novel.length);
      done.push(units);
    },
  });
  clearInterval(timer);
  assert(done.length > 15 && done.at(-1) === novel.length);
  assert(done.every((units, i) => i === 0 || units > done[i - 1]));
  assert(ticks >= 5, `${ticks} ticks`);

  const controller = new AbortController();
  const reason = new Error("enough");
  let slices = 0;
  const aborted = needle.encodeAsync(novel, {
    signal: controller.signal,
    sliceLength: 20_000,
    onProgress: () => ++slices === 3 && controller.abort(reason),
  });
  await assert.rejects(aborted, reason);
  assert.equal(slices, 3);
});

Deno.test("tokenizer: ids outside the vocabulary", async () => {
  for (const id of [8192, -1, 1.5, NaN]) {
    const error = await failure("INVALID_ARGUMENT", () => needle.decode([id]));
    assert.match(error.message, /outside the vocabulary of 8192/);
  }
  const json = JSON.parse(await Deno.readTextFile(new URL("tokenizer.json", NEEDLE)));
  const small = new Tokenizer({ path: "t.json", json, vocabSize: 300 });
  const error = await failure("CHECKPOINT", () => small.encode("hello world"));
  assert.match(error.message, /has id \d+, the model's vocabulary has 300/);
  // Padding rows of an embedding have no token.
  assert.equal(new Tokenizer({ path: "t.json", json, vocabSize: 9000 }).decode([8999]), "");
});

/** SentencePiece's own algorithm: join the best-scored neighbours, leftmost first, until none is left. */
function sentencePiece(
  tokens: readonly string[],
  scores: readonly number[],
  text: string,
): number[] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const symbols = Array.from("▁" + text.replaceAll(" ", "▁"));
  for (;;) {
    let best = -1;
    let bestScore = -Infinity;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const id = ids.get(symbols[i] + symbols[i + 1]);
      if (id !== undefined && id >= 259 && scores[id] > bestScore) {
        best = i;
        bestScore = scores[id];
      }
    }
    if (best < 0) break;
    symbols.splice(best, 2, symbols[best] + symbols[best + 1]);
  }
  return symbols.flatMap((symbol) => {
    const id = ids.get(symbol);
    if (id !== undefined) return [id];
    return Array.from(new TextEncoder().encode(symbol), (byte) => 3 + byte);
  });
}

Deno.test("tokenizer: SentencePiece from GGUF scores, against its own algorithm", async () => {
  using directory = temporaryDirectory();
  const byteTokens = Array.from(
    { length: 256 },
    (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
  const pieces = [
    ..."▁ab=é",
    "▁a",
    "ab",
    "ba",
    "aa",
    "==",
    "===",
    "====",
    "▁ab",
    "aba",
    "▁▁",
    "▁▁▁",
    "a▁",
    "b=",
    "aab",
  ];
  const tokens = ["<unk>", "<s>", "</s>", ...byteTokens, ...pieces];
  const types = Int32Array.from(tokens, (_, i) => i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1);
  const scoresOf = fc.array(fc.integer({ min: -12, max: 0 }), {
    minLength: pieces.length,
    maxLength: pieces.length,
  });
  const input = fc.array(fc.constantFrom(..."ab=é c😀".split(""), " ", "==", "aa"), {
    maxLength: 24,
  })
    .map((parts) => parts.join("").toWellFormed());
  await fc.assert(
    fc.asyncProperty(
      scoresOf,
      fc.array(input, { minLength: 10, maxLength: 10 }),
      async (drawn, inputs) => {
        const scores = [...Array(259).fill(0), ...drawn];
        const { fields, tensors } = tinyLlama();
        const path = directory.write(
          "spm.gguf",
          writeGguf({
            fields: [
              ...fields.filter(({ key }) => !key.startsWith("tokenizer.")),
              text("tokenizer.ggml.model", "llama"),
              texts("tokenizer.ggml.tokens", tokens),
              numbers("tokenizer.ggml.token_type", types),
              numbers("tokenizer.ggml.scores", Float32Array.from(scores)),
              u32("tokenizer.ggml.bos_token_id", 1),
              u32("tokenizer.ggml.eos_token_id", 2),
              f32("unused", 0),
            ],
            tensors,
          }),
        );
        const tokenizer = new Tokenizer(tokenizerFromGguf(readGguf(path), tokens.length));
        for (const text of inputs.filter((text) => text !== "")) {
          const expected = sentencePiece(tokens, scores, text);
          assert.deepEqual([...tokenizer.encode(text)], [1, ...expected], JSON.stringify(text));
          assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
          const long = `${text}.\na${text}\nb`;
          assert.deepEqual(
            await tokenizer.encodeAsync(long, { sliceLength: 1 }),
            tokenizer.encode(long),
          );
        }
      },
    ),
    { numRuns: 60 },
  );
});

Deno.test("tokenizer: kinds that cannot be rebuilt are named", async () => {
  using directory = temporaryDirectory();
  const cases: readonly [string, string, RegExp][] = [
    ["tokenizer.ggml.model", "t5", /tokenizer "t5"; supported are gpt2/],
    ["tokenizer.ggml.pre", "falcon3", /pre-tokenizer "falcon3"; supported are default, gpt-2/],
    ["tokenizer.ggml.pre", "constructor", /pre-tokenizer "constructor"/],
  ];
  for (const [key, value, message] of cases) {
    const { fields, tensors } = tinyLlama();
    const changed = fields.map((field) => field.key === key ? text(key, value) : field);
    const path = directory.write("tiny.gguf", writeGguf({ fields: changed, tensors }));
    const checkpoint = await openCheckpoint(path);
    const error = await failure("UNSUPPORTED_MODEL", () => checkpoint.loadTokenizer());
    assert.match(error.message, message);
  }
});
