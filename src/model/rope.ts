/**
 * Rotary position embedding: inverse frequencies under every scaling in use.
 *
 * @module
 */

/** How a model stretches its rotary embedding beyond the length it was trained at. */
export type RopeScaling =
  | { readonly kind: "none" }
  /** Position interpolation (arXiv 2306.15595): all frequencies divided by `factor`. */
  | { readonly kind: "linear"; readonly factor: number }
  /** NTK-aware: a base that grows with the length beyond `originalPositions`. */
  | { readonly kind: "dynamic"; readonly factor: number; readonly originalPositions: number }
  /** Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between. */
  | {
    readonly kind: "llama3";
    readonly factor: number;
    readonly lowFreqFactor: number;
    readonly highFreqFactor: number;
    readonly originalPositions: number;
  }
  /** YaRN (arXiv 2309.00071). `attentionFactor` multiplies cos and sin. */
  | {
    readonly kind: "yarn";
    readonly factor: number;
    readonly betaFast: number;
    readonly betaSlow: number;
    readonly originalPositions: number;
    readonly attentionFactor: number;
  }
  /** LongRoPE (arXiv 2402.13753), Phi-3's "su": one divisor per frequency, two sets of them. */
  | {
    readonly kind: "longrope";
    readonly shortFactors: readonly number[];
    readonly longFactors: readonly number[];
    readonly originalPositions: number;
    readonly attentionFactor: number;
  }
  /** GGUF's `rope_freqs`: one divisor per frequency, computed by the converter. */
  | { readonly kind: "factors"; readonly factors: readonly number[] };

/** Rotary embedding of a model. */
export interface RopeConfig {
  /** Base of the frequencies. */
  readonly theta: number;
  /** Leading elements of a head that are rotated, even. */
  readonly rotaryDim: number;
  /** Pairs (2i, 2i+1) instead of (i, i + rotaryDim/2). */
  readonly interleaved: boolean;
  /** Length extension. */
  readonly scaling: RopeScaling;
}

/** What the rotary kernel takes. */
export interface RopeFrequencies {
  /** Radians per position, `[rotaryDim / 2]`. */
  readonly invFreq: Float32Array;
  /** Factor of cos and sin. */
  readonly scale: number;
}

/** YaRN's attention factor, `0.1 m ln(s) + 1` (arXiv 2309.00071, section 3.4). */
export function yarnAttentionFactor(factor: number, multiplier = 1): number {
  return factor <= 1 ? 1 : 0.1 * multiplier * Math.log(factor) + 1;
}

/** LongRoPE's attention factor, `sqrt(1 + ln(s) / ln(L))`. */
export function longropeAttentionFactor(factor: number, originalPositions: number): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalPositions));
}

/** Frequencies without scaling. Rounded to float32 at the points where PyTorch rounds, as models were trained with. */
function plainFrequencies(theta: number, rotaryDim: number): Float64Array {
  return Float64Array.from(
    { length: rotaryDim / 2 },
    (_, i) => Math.fround(1 / Math.fround(theta ** Math.fround((2 * i) / rotaryDim))),
  );
}

function llama3(plain: Float64Array, s: RopeScaling & { kind: "llama3" }): Float64Array {
  const { factor, lowFreqFactor, highFreqFactor, originalPositions } = s;
  return plain.map((frequency) => {
    const turns = originalPositions * frequency / (2 * Math.PI); // over the trained length
    if (turns < lowFreqFactor) return frequency / factor;
    if (turns > highFreqFactor) return frequency;
    const smooth = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return (1 - smooth) * frequency / factor + smooth * frequency;
  });
}

function yarn(rope: RopeConfig, s: RopeScaling & { kind: "yarn" }): Float64Array {
  const { theta, rotaryDim } = rope;
  // The dimension whose frequency makes `turns` full turns over the trained length.
  const dimension = (turns: number): number =>
    rotaryDim * Math.log(s.originalPositions / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(dimension(s.betaFast)), 0);
  const high = Math.min(Math.ceil(dimension(s.betaSlow)), rotaryDim - 1);
  const width = high === low ? 0.001 : high - low;
  return plainFrequencies(theta, rotaryDim).map((frequency, i) => {
    const interpolated = Math.min(Math.max((i - low) / width, 0), 1);
    return frequency / s.factor * interpolated + frequency * (1 - interpolated);
  });
}

/**
 * Computes the frequencies to rotate with.
 *
 * @param rope The model's rotary embedding.
 * @param length Tokens the sequence will reach. It matters to `dynamic` and `longrope` alone, whose frequencies differ
 * by length; keep it fixed for the life of a KV cache.
 * @returns Frequencies and the factor of cos and sin.
 *
 * @example
 * ```ts
 * import { inverseFrequencies } from "./rope.ts";
 *
 * const rope = { theta: 10000, rotaryDim: 64, interleaved: false, scaling: { kind: "none" } } as const;
 * console.log(inverseFrequencies(rope, 4096).invFreq[0]); // 1
 * ```
 */
export function inverseFrequencies(rope: RopeConfig, length: number): RopeFrequencies {
  const { theta, rotaryDim, scaling } = rope;
  const divided = (factors: readonly number[]): Float64Array =>
    plainFrequencies(theta, rotaryDim).map((frequency, i) => frequency / factors[i]);
  const result = (frequencies: Float64Array, scale = 1): RopeFrequencies => ({
    invFreq: Float32Array.from(frequencies),
    scale,
  });
  switch (scaling.kind) {
    case "none":
      return result(plainFrequencies(theta, rotaryDim));
    case "linear":
      return result(plainFrequencies(theta, rotaryDim).map((f) => f / scaling.factor));
    case "dynamic": {
      const stretch = Math.max(length, scaling.originalPositions) / scaling.originalPositions;
      const base = theta *
        (scaling.factor * stretch - (scaling.factor - 1)) ** (rotaryDim / (rotaryDim - 2));
      return result(plainFrequencies(base, rotaryDim));
    }
    case "llama3":
      return result(llama3(plainFrequencies(theta, rotaryDim), scaling));
    case "yarn":
      return result(yarn(rope, scaling), scaling.attentionFactor);
    case "longrope": {
      const long = length > scaling.originalPositions;
      return result(
        divided(long ? scaling.longFactors : scaling.shortFactors),
        scaling.attentionFactor,
      );
    }
    case "factors":
      return result(divided(scaling.factors));
  }
}

/** Whether sequences of two lengths are rotated alike: what is cached of one serves the other. */
export function rotatesAlike(rope: RopeConfig, a: number, b: number): boolean {
  const [x, y] = [inverseFrequencies(rope, a), inverseFrequencies(rope, b)];
  return x.scale === y.scale && x.invFreq.every((frequency, i) => frequency === y.invFreq[i]);
}
