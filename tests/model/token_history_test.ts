// What a session holds and what its cache does, without a model: against the plain statement of it.
import assert from "node:assert/strict";
import fc from "fast-check";
import { TokenHistory } from "../../src/model/token_history.ts";

const stored = { resumeAt: (tokens: number) => tokens };
const inBlocks = { resumeAt: (tokens: number) => tokens - tokens % 128 };

function computed(cache: typeof stored, length: number): TokenHistory {
  const history = new TokenHistory(cache);
  history.append(Array.from({ length }, (_, i) => i));
  history.markComputed();
  return history;
}

Deno.test("what is appended is pending until it is computed", () => {
  const history = computed(stored, 3);
  history.append([7, 8]);
  assert.deepEqual([history.length, history.computed], [5, 3]);
  assert.deepEqual([...history.ids()], [0, 1, 2, 7, 8]);
  assert.deepEqual([...history.pending()], [7, 8]);
  history.markComputed();
  assert.equal(history.pending().length, 0);
});

Deno.test("truncation keeps what is computed, to the block where the cache is quantised", () => {
  for (const [cache, after] of [[stored, 300], [inBlocks, 256]] as const) {
    const history = computed(cache, 500);
    history.truncate(500);
    assert.equal(history.computed, 500);
    history.truncate(300);
    assert.deepEqual([history.length, history.computed], [300, after]);
  }
});

Deno.test("an empty history has nothing to repeat and nothing to resume from", () => {
  const history = new TokenHistory(inBlocks);
  history.repeatLast();
  history.resumeFrom(-1);
  assert.deepEqual([history.length, history.computed], [0, 0]);
  assert.equal(history.commonPrefix(new Uint32Array(2)), 0);
});

Deno.test("the last token alone is repeated; a failure resumes before what it may have written", () => {
  const history = computed(inBlocks, 500);
  history.repeatLast();
  assert.equal(history.computed, 499);
  history.resumeFrom(499);
  assert.equal(history.computed, 384);
});

Deno.test("a fork goes its own way", () => {
  const history = computed(stored, 4);
  const fork = history.fork(stored);
  fork.truncate(1);
  fork.append([9]);
  assert.deepEqual([...history.ids()], [0, 1, 2, 3]);
  assert.deepEqual([...fork.ids()], [0, 9]);
  assert.deepEqual([history.computed, fork.computed], [4, 1]);
});

Deno.test("the common prefix is the longest one", () => {
  const ids = fc.array(fc.nat(1), { maxLength: 12 });
  fc.assert(fc.property(ids, ids, (held, tokens) => {
    const history = new TokenHistory(stored);
    history.append(held);
    const n = history.commonPrefix(Uint32Array.from(tokens));
    assert.deepEqual(held.slice(0, n), tokens.slice(0, n));
    assert.ok(n === held.length || n === tokens.length || held[n] !== tokens[n]);
  }));
});
