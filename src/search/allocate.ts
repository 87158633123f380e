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

/**
 * A head's offers that are worth their price: from the cheapest on, each step dearer by recall than the last. Of equal
 * offers the last is taken: candidates come with the narrower first, and what the sample does not tell apart another
 * prompt may.
 */
function steps(offers: readonly Offer[], head: number): { first: number; steps: Step[] } {
  const order = [...offers.keys()].sort((a, b) =>
    offers[a].cost - offers[b].cost || offers[b].recall - offers[a].recall || b - a
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
 * The offers that bring the mean recall to `mean` at low cost: each head begins with its cheapest, then steps are bought
 * where recall costs least. Of the offers that bring what is missing at the end the cheapest is bought.
 *
 * @param heads The offers of each head, at least one each.
 * @param mean Least mean recall; where the offers do not reach it, all that they have is bought.
 * @param counted The mean is of this many heads, the first ones; the others buy at the price that these come to pay.
 * Default all.
 * @returns For each head the index of its offer.
 */
export function allocate(
  heads: readonly (readonly Offer[])[],
  mean: number,
  counted = heads.length,
): number[] {
  const all = heads.map(steps);
  const chosen = all.map(({ first }) => first);
  let missing = counted * mean;
  for (let head = 0; head < counted; head++) missing -= heads[head][chosen[head]].recall;
  const enough = 1e-12 * counted; // what rounding leaves
  const byPrice = all.flatMap(({ steps }) => steps).sort((a, b) => a.price - b.price);
  for (const { head, to, gain } of byPrice) {
    if (missing <= enough) break;
    if (head < counted && gain >= missing) {
      const last = cheapestWith(missing - enough, heads.slice(0, counted), chosen);
      chosen[last.head] = last.to;
      break;
    }
    chosen[head] = to;
    if (head < counted) missing -= gain;
  }
  return chosen;
}

/** The cheapest offer that adds `gain` to what is chosen; there is one. */
function cheapestWith(
  gain: number,
  heads: readonly (readonly Offer[])[],
  chosen: readonly number[],
): { head: number; to: number } {
  return heads.flatMap((offers, head) => {
    const { cost, recall } = offers[chosen[head]];
    return [...offers.keys()]
      .filter((to) => offers[to].recall - recall >= gain)
      .map((to) => ({ head, to, dearer: offers[to].cost - cost }));
  }).reduce((best, offer) => offer.dearer < best.dearer ? offer : best);
}
