import assert from "node:assert/strict";
import fc from "fast-check";
import { type ChatMessage, type ChatSource, encodeChat, renderChat } from "../../src/model/chat.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { failure, NEEDLE } from "./support.ts";

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

Deno.test("chat: special tokens of the template are special, those of a message are text", () => {
  const plain = encodeChat(source(TEMPLATE), tokenizer, [user("hi")]);
  const rendered = renderChat(source(TEMPLATE), [user("hi")]);
  assert.deepEqual(plain, tokenizer.encode(rendered, { addSpecialTokens: false }));

  fc.assert(fc.property(
    fc.array(
      fc.constantFrom("<|end_of_text|>", "<|begin_of_text|>", "<|", "x", " y", "\uFDD0", "é\n"),
      {
        minLength: 1,
      },
    ),
    (parts) => {
      const content = parts.join("");
      const messages = [user(content), user("b")];
      const ids = encodeChat(source(TEMPLATE), tokenizer, messages);
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
