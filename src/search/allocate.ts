/**
 * Shares one budget among the heads.
 *
 * @module
 */

/** One way to compute a head. */
export interface Offer {
  /** What it costs, in any unit. */
  readonly cost: number;
  /** Attention mass it retains, in [0, 1]. */
  readonly recall: number;
}

/** From an offer of a head to a dearer one. */
interface Step {
  readonly head: number;
  /** Offer it leads to. */
  readonly to: number;
  readonly gain: number;
  /** Cost of a unit of recall. */
  readonly price: number;
}

/** A head's offers that are worth their price: from the cheapest on, each step dearer by recall than the last. */
function steps(offers: readonly Offer[], head: number): { first: number; steps: Step[] } {
  const order = [...offers.keys()].sort((a, b) =>
    offers[a].cost - offers[b].cost || offers[b].recall - offers[a].recall
  );
  const first = order[0];
  const kept: Step[] = [];
  for (const to of order) {
    for (;;) {
      const last = kept.at(-1);
      const from = offers[last?.to ?? first];
      const gain = offers[to].recall - from.recall;
      if (gain <= 0) break;
      const price = (offers[to].cost - from.cost) / gain;
      if (last && price <= last.price) {
        kept.pop(); // this offer is the better step from the one before
        continue;
      }
      kept.push({ head, to, gain, price });
      break;
    }
  }
  return { first, steps: kept };
}

/**
 * The offers that bring the mean recall of all heads to `mean` at least cost: each head begins with its cheapest, then
 * steps are bought where recall costs least. A single step more than is needed may be bought.
 *
 * @param heads The offers of each head, at least one each.
 * @param mean Least mean recall; where the offers do not reach it, all that they have is bought.
 * @returns For each head the index of its offer.
 */
export function allocate(heads: readonly (readonly Offer[])[], mean: number): number[] {
  const all = heads.map(steps);
  const chosen = all.map(({ first }) => first);
  let missing = heads.length * mean -
    chosen.reduce((sum, offer, head) => sum + heads[head][offer].recall, 0);
  const byPrice = all.flatMap(({ steps }) => steps).sort((a, b) => a.price - b.price);
  for (const { head, to, gain } of byPrice) {
    if (missing <= 1e-12 * heads.length) break; // what rounding leaves
    chosen[head] = to;
    missing -= gain;
  }
  return chosen;
}
