import assert from "node:assert/strict";
import fc from "fast-check";
import { type ChatMessage, type ChatSource, encodeChat, renderChat } from "../../src/model/chat.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { loadModel } from "../../src/model/model.ts";
import type { Progress } from "../../src/model/progress.ts";
import { device } from "../support.ts";
import { addText } from "./gguf_writer.ts";
import { needlePrompt, novel } from "./needle.ts";
import { failure, NEEDLE, temporaryDirectory } from "./support.ts";

const tokenizer = await (await openCheckpoint(NEEDLE)).loadTokenizer();

const TEMPLATE =
  `{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content | trim }}{{ eos_token }}
{% endfor %}{% if messages[0].role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% if add_generation_prompt %}[assistant]{% endif %}`;

const source = (chatTemplate?: string): ChatSource => ({
  path: "model",
  chatTemplate,
  specialTokens: { bos: "<|begin_of_text|>", eos: "<|end_of_text|>" },
});
const user = (content: string): ChatMessage => ({ role: "user", content });

Deno.test("chat: the template sees messages and special tokens", () => {
  assert.equal(
    renderChat(source(TEMPLATE), [user(" hi "), { role: "assistant", content: "yes" }]),
    "<|begin_of_text|>[user] hi<|end_of_text|>\n[assistant] yes<|end_of_text|>\n[assistant]",
  );
  assert.equal(
    renderChat(source("{{ mode }}"), [], { variables: { mode: "x" } }),
    "x",
  );
});

Deno.test("chat: special tokens of the template are special, those of a message are text", async () => {
  const plain = await encodeChat(source(TEMPLATE), tokenizer, [user("hi")]);
  const rendered = renderChat(source(TEMPLATE), [user("hi")]);
  assert.deepEqual(plain, tokenizer.encode(rendered, { addSpecialTokens: false }));

  await fc.assert(fc.asyncProperty(
    fc.array(
      fc.constantFrom("<|end_of_text|>", "<|begin_of_text|>", "<|", "x", " y", "\uFDD0", "é\n"),
      {
        minLength: 1,
      },
    ),
    async (parts) => {
      const content = parts.join("");
      const messages = [user(content), user("b")];
      const ids = await encodeChat(source(TEMPLATE), tokenizer, messages);
      assert.equal(ids.filter((id) => id === 0).length, 1);
      assert.equal(ids.filter((id) => id === 1).length, 2);
      assert.equal(
        tokenizer.decode(ids, { skipSpecialTokens: false }),
        renderChat(source(TEMPLATE), messages).replaceAll("\uFDD0", "\uFFFD"),
      );
    },
  ));
});

Deno.test("chat: what goes wrong has a type", async () => {
  await failure("UNSUPPORTED_MODEL", () => renderChat(source(), [user("hi")]));
  await failure("CHECKPOINT", () => renderChat(source("{% if %}"), [user("hi")]));
  const error = await failure(
    "INVALID_ARGUMENT",
    () => renderChat(source(TEMPLATE), [{ role: "tool", content: "" }]),
  );
  assert.match(error.message, /no tools/);
});

Deno.test("chat: a long message is encoded in slices, with progress, as it is in one go", async () => {
  const messages = [user(`${novel}<|end_of_text|>${novel}`), user("b")];
  const stages: Progress[] = [];
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const ids = await encodeChat(source(TEMPLATE), tokenizer, messages, {
    onProgress: (progress) => stages.push(progress),
  });
  clearInterval(timer);
  const rendered = renderChat(source(TEMPLATE), messages);
  assert.equal(tokenizer.decode(ids, { skipSpecialTokens: false }), rendered);
  const { stage, done, total } = stages.at(-1)!;
  assert.deepEqual([stage, done, total], ["tokenize", rendered.length, rendered.length]);
  assert.ok(stages.every((now, i) => i === 0 || now.done > stages[i - 1].done));
  assert.ok(ticks >= 5, `${ticks} ticks`);

  const controller = new AbortController();
  const reason = new Error("enough");
  const aborted = encodeChat(source(TEMPLATE), tokenizer, messages, {
    signal: controller.signal,
    onProgress: () => controller.abort(reason),
  });
  await assert.rejects(aborted, reason);
});

Deno.test("chat: a model answers by its checkpoint's template", async () => {
  using directory = temporaryDirectory();
  const file = await Deno.readFile(new URL("needle-27m-q8_0.gguf", NEEDLE));
  const template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
  const path = directory.write("chat.gguf", addText(file, "tokenizer.chat_template", template));
  await using model = await loadModel(path, { device, patterns: "dense" });
  const content = needlePrompt(3000, "tall-lantern", "7482913");
  const generation = model.chat([user(content)], { maxTokens: 10, stop: ["."] });
  assert.equal((await generation.text).trim(), "7482913");
  const stats = await generation.stats;
  assert.equal(stats.promptTokens, model.tokenizer.encode(content).length);

  const reason = new Error("enough");
  const stages = new Set<string>();
  const controller = new AbortController();
  const left = model.chat([user(novel)], {
    signal: controller.signal,
    onProgress: ({ stage }) => {
      stages.add(stage);
      controller.abort(reason);
    },
  });
  await assert.rejects(left.text, reason);
  assert.deepEqual([...stages], ["tokenize"]);
});

Deno.test("chat: without a template a generation fails with a type", async () => {
  await using model = await loadModel(NEEDLE, { device });
  await failure("UNSUPPORTED_MODEL", () => model.chat([user("hi")]).text);
});
