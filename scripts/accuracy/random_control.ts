// Random columns and diagonals, as many as make a wanted density: what sparsity alone is worth.
import type { ReviseEstimate, Tensor, VerticalSlashPattern } from "../../mod.ts";
import { Random } from "../../src/tasks/random.ts";

/** What the library adds to every vertical-slash head. */
const FORCED_COLUMNS = 30;
const FORCED_DIAGONALS = 100;

/** Rows and keys of a tile. */
const BLOCK = 64;

/** A pattern for every head, and the estimate that makes it select at random. */
export interface RandomControl {
  readonly pattern: VerticalSlashPattern;
  readonly reviseEstimate: ReviseEstimate;
}

/**
 * Counts with which a head computes about `density` of the causal tiles, half of what is not forced for columns and
 * half for diagonals.
 *
 * A column, as a diagonal, is met by half of the row blocks on average. A diagonal alone takes a tile per block; the
 * forced ones are 163 keys wide, 3 tiles; columns are gathered 64 to a tile, and the last tile of a block is half
 * empty on average.
 */
function randomPattern(density: number, tokens: number): VerticalSlashPattern {
  const blocks = Math.ceil(tokens / BLOCK);
  const causal = blocks * (blocks + 1) / 2;
  const forcedBand = Math.ceil((FORCED_DIAGONALS + BLOCK - 1) / BLOCK) * blocks;
  const always = forcedBand + (0.5 + FORCED_COLUMNS / BLOCK) * blocks;
  const each = Math.max(0, density * causal - always) / 2;
  const inBands = Math.min(0.5, (forcedBand + each) / causal); // columns there cost nothing
  const diagonals = 2 * each / blocks;
  const columns = BLOCK * diagonals / (1 - inBands);
  return {
    kind: "vertical_slash",
    vertical: Math.min(tokens, FORCED_COLUMNS + Math.round(columns)),
    slash: Math.min(tokens, FORCED_DIAGONALS + Math.round(diagonals)),
  };
}

/** Sums [heads, keys]: 1 at the forced places and at random others up to `count` for each head, else 0. */
function randomSums(
  sums: Tensor,
  count: number,
  forced: number,
  random: Random,
): Float32Array<ArrayBuffer> {
  const [heads, keys] = sums.shape;
  const data = new Float32Array(sums.length);
  for (let head = 0; head < heads; head++) {
    const ofHead = data.subarray(head * keys, (head + 1) * keys);
    ofHead.fill(1, 0, forced);
    for (let left = Math.min(count, keys) - forced; left > 0;) {
      const at = random.below(keys);
      if (ofHead[at] === 1) continue;
      ofHead[at] = 1;
      left--;
    }
  }
  return data;
}

/** Random indices for a prompt of `tokens` tokens, each head's own. */
export function randomControl(density: number, tokens: number, seed: number): RandomControl {
  const pattern = randomPattern(density, tokens);
  const { vertical: columns = 0, slash: diagonals = 0 } = pattern;
  const random = new Random(seed);
  return {
    pattern,
    async reviseEstimate({ vertical, slash }): Promise<void> {
      await vertical.write(randomSums(vertical, columns, FORCED_COLUMNS, random));
      await slash.write(randomSums(slash, diagonals, FORCED_DIAGONALS, random));
    },
  };
}
