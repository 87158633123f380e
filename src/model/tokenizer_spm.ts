/**
 * SentencePiece scores as ranks of merges.
 *
 * @module
 */

const NORMAL_TOKEN = 1;

/**
 * Ranks of all merges of a SentencePiece vocabulary.
 *
 * SentencePiece joins, again and again, the neighbours whose union has the highest score, the leftmost pair on ties. That
 * is BPE with a merge for every way to halve every token, ranked by score. Merges of equal score get the *same* rank:
 * the library then prefers the leftmost, as SentencePiece does; a plain list of merges would order the halves of one
 * token among each other, and give other ids for runs such as "=====".
 *
 * @param tokens The vocabulary.
 * @param types GGUF's type of each token; only normal ones are built by merging.
 * @param scores Score of each token.
 * @returns Rank of each merge, keyed as the library does: the JSON of the two halves.
 */
export function mergeRanks(
  tokens: readonly string[],
  types: Int32Array,
  scores: Float32Array,
): Map<string, number> {
  const normal = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (types[id] === NORMAL_TOKEN && !normal.has(token)) normal.set(token, id);
  });
  const byScore = [...normal].sort(([, a], [, b]) => scores[b] - scores[a]);

  const ranks = new Map<string, number>();
  let rank = -1;
  let previous = NaN;
  for (const [token, id] of byScore) {
    const characters = Array.from(token);
    if (characters.length < 2) continue;
    if (scores[id] !== previous) {
      rank++;
      previous = scores[id];
    }
    let left = "";
    for (let i = 0; i + 1 < characters.length; i++) {
      left += characters[i];
      const right = token.slice(left.length);
      // A half is a token or a single character, which need not be one.
      const exist = (i === 0 || normal.has(left)) &&
        (i + 2 === characters.length || normal.has(right));
      if (exist) ranks.set(JSON.stringify([left, right]), rank);
    }
  }
  return ranks;
}
