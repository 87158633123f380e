import assert from "node:assert/strict";
import { inverseFrequencies, type RopeConfig, type RopeScaling } from "../../src/model/rope.ts";

const rope = (scaling: RopeScaling, theta = 10000, rotaryDim = 128): RopeConfig => ({
  theta,
  rotaryDim,
  interleaved: false,
  scaling,
});
const NONE: RopeScaling = { kind: "none" };

function close(actual: ArrayLike<number>, expected: readonly number[], tolerance = 1e-6): void {
  assert.equal(actual.length, expected.length);
  expected.forEach((value, i) =>
    assert(
      Math.abs(actual[i] - value) <= tolerance * Math.abs(value),
      `${i}: ${actual[i]} ${value}`,
    )
  );
}

/** theta^(-2i/dim) in double precision. */
const plain = (theta: number, dim: number): number[] =>
  Array.from({ length: dim / 2 }, (_, i) => theta ** (-2 * i / dim));

Deno.test("rope: plain and linear", () => {
  close(inverseFrequencies(rope(NONE), 1).invFreq, plain(10000, 128));
  const linear = inverseFrequencies(rope({ kind: "linear", factor: 4 }), 1);
  close(linear.invFreq, plain(10000, 128).map((f) => f / 4));
  assert.equal(linear.scale, 1);
});

Deno.test("rope: Llama 3.1 keeps high frequencies, divides low ones, joins them monotonically", () => {
  const { invFreq } = inverseFrequencies(
    rope(
      { kind: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalPositions: 8192 },
      500000,
    ),
    1,
  );
  const base = plain(500000, 128);
  const turns = base.map((f) => 8192 * f / (2 * Math.PI));
  base.forEach((f, i) => {
    const expected = turns[i] > 4
      ? f
      : turns[i] < 1
      ? f / 8
      : f * (1 / 8 + (1 - 1 / 8) * (turns[i] - 1) / 3);
    close([invFreq[i]], [expected]);
  });
  assert(invFreq.every((f, i) => i === 0 || f < invFreq[i - 1]));
});

Deno.test("rope: YaRN leaves fast dimensions and interpolates slow ones", () => {
  const { invFreq, scale } = inverseFrequencies(
    rope({
      kind: "yarn",
      factor: 4,
      betaFast: 32,
      betaSlow: 1,
      originalPositions: 32768,
      attentionFactor: 1.1386294,
    }, 1000000),
    1,
  );
  const base = plain(1000000, 128);
  // Dimensions of 32 turns and of 1 turn over 32768 positions: 23.6 and 39.6.
  close(invFreq.subarray(0, 24), base.slice(0, 24));
  close(invFreq.subarray(40), base.slice(40).map((f) => f / 4));
  const middle = (31 - 23) / (40 - 23);
  close([invFreq[31]], [base[31] * (1 - middle) + base[31] / 4 * middle]);
  assert.equal(scale, 1.1386294);
});

Deno.test("rope: dynamic scaling begins beyond the trained length", () => {
  const scaling: RopeScaling = { kind: "dynamic", factor: 2, originalPositions: 4096 };
  close(inverseFrequencies(rope(scaling), 4096).invFreq, plain(10000, 128));
  const base = 10000 * (2 * 3 - 1) ** (128 / 126);
  close(inverseFrequencies(rope(scaling), 3 * 4096).invFreq, plain(base, 128));
});

Deno.test("rope: LongRoPE chooses its factors by the length", () => {
  const scaling: RopeScaling = {
    kind: "longrope",
    shortFactors: Array(4).fill(2),
    longFactors: [1, 2, 3, 4],
    originalPositions: 4096,
    attentionFactor: 1.19,
  };
  const base = plain(10000, 8);
  close(inverseFrequencies(rope(scaling, 10000, 8), 4096).invFreq, base.map((f) => f / 2));
  const long = inverseFrequencies(rope(scaling, 10000, 8), 4097);
  close(long.invFreq, base.map((f, i) => f / (i + 1)));
  assert.equal(long.scale, 1.19);
});

Deno.test("rope: GGUF's factors reproduce Llama 3.1", () => {
  const scaling: RopeScaling = {
    kind: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalPositions: 8192,
  };
  const expected = inverseFrequencies(rope(scaling, 500000), 1).invFreq;
  const factors = plain(500000, 128).map((f, i) => f / expected[i]);
  close(
    inverseFrequencies(rope({ kind: "factors", factors }, 500000), 1).invFreq,
    Array.from(expected),
  );
});
