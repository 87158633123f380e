/**
 * A sample prompt through the model: what its patterns keep there, what other budgets would, and pictures.
 *
 * @module
 */
import { type HeadPattern, resolvePattern } from "../attention/patterns.ts";
import { enqueueIndex, type SequenceShape } from "../attention/sequence.ts";
import { type HeadList, readWorkList } from "../attention/work_list.ts";
import type { CallOptions, Device } from "../device/device.ts";
import { Scratch } from "../device/scratch.ts";
import type { LayerOperands } from "../model/decoder.ts";
import { engineOf, type Model } from "../model/model.ts";
import { type OnProgress, Reporter } from "../model/progress.ts";
import { firstMeasuredRow, LayerMeter, type Measurement } from "../search/measure.ts";
import { BLOCK, type BlockMass, blockMass, gridOf } from "./block_mass.ts";
import { type BudgetRange, budgetRanges, SHARES } from "./budgets.ts";
import { packMask, packMass } from "./byte_map.ts";
import { chooseHeads, type ChosenHead } from "./choose_heads.ts";
import { budgetText } from "./describe.ts";
import { coverage } from "./mask.ts";
import { oracle } from "./oracle.ts";
import type { ByteMap, Curve, SampleReport } from "./page_data.ts";
import type { HeadFigures, HeadReport } from "./patterns.ts";

/** Options of {@linkcode measureSample}. */
export interface SampleOptions extends CallOptions {
  /** Heads to show as pictures. Default as {@linkcode chooseHeads}. */
  heads?: readonly ChosenHead[];
  /** Receives progress in layers. */
  onProgress?: OnProgress;
}

/** What one layer gave. */
interface LayerResult {
  readonly shape: SequenceShape;
  /** [head]: the pattern of the head. */
  readonly own: readonly HeadFigures[];
  /** [budget of all ranges][head]. */
  readonly budgets: readonly (readonly HeadFigures[])[];
  /** [share][head]. */
  readonly oracle: readonly (readonly HeadFigures[])[];
  /** [head]: dense attention. */
  readonly mass: readonly ByteMap[];
  /** [head]: what the head's pattern leaves out. */
  readonly missed: readonly ByteMap[];
  /** [head]: what it computes. */
  readonly lists: readonly HeadList[];
}

/** A list of more tiles than dense attention has would never be walked: the head is computed densely. */
function figuresOf({ density, recallMean }: Measurement): HeadFigures {
  return density < 1 ? { density, recall: recallMean } : { density: 1, recall: 1 };
}

/** What the layer's own patterns compute on this prompt. */
interface Computed {
  /** [head]: the cells. */
  readonly lists: readonly HeadList[];
  /** Attention mass left out, [heads][row block][key block], flat. */
  readonly missed: Float32Array;
}

/** Differences below this fraction of a block's mass are the arithmetic's, not the mask's. */
const ARITHMETIC = 0.01;

async function compute(
  device: Device,
  operands: LayerOperands,
  patterns: readonly HeadPattern[],
  { mass, lse }: BlockMass,
  options: CallOptions,
): Promise<Computed> {
  const { q, k, shape } = operands;
  using scratch = new Scratch(device);
  const resolved = patterns.map(resolvePattern);
  const list = enqueueIndex(device, scratch, shape, q, k, resolved, { keep: true });
  using _memory = list.memory;
  const kept = await blockMass(device, operands, { ...options, list, dense: lse });
  const missed = mass.map((all, i) => {
    const left = all - kept.mass[i];
    return left > ARITHMETIC * all ? left : 0;
  });
  return { lists: await readWorkList(list, shape), missed };
}

async function measureLayer(
  meter: LayerMeter,
  operands: LayerOperands,
  patterns: readonly HeadPattern[],
  ranges: readonly BudgetRange[],
  options: CallOptions,
): Promise<LayerResult> {
  const { device } = meter;
  const { shape } = operands;
  const tried = ranges.flatMap((range) => range.patterns);
  const distinct = [...new Map(patterns.map((p) => [JSON.stringify(p), p])).entries()]
    .filter(([, { kind }]) => kind !== "dense"); // always measured, last
  const measured = await meter.measure(
    operands,
    [...tried, ...distinct.map(([, pattern]) => pattern)],
    options,
  );
  const own = patterns.map((pattern, head) => {
    const at = distinct.findIndex(([key]) => key === JSON.stringify(pattern));
    return figuresOf(measured[head].at(at < 0 ? -1 : tried.length + at)!);
  });
  const dense = await blockMass(device, operands, options);
  const computed = await compute(device, operands, patterns, dense, options);
  const grid = gridOf(shape);
  const perHead = (blocks: Float32Array): Float32Array[] =>
    patterns.map((_, head) =>
      blocks.subarray(head * grid.rows * grid.keys, (head + 1) * grid.rows * grid.keys)
    );
  const heads = perHead(dense.mass);
  const firstRow = Math.floor(firstMeasuredRow(shape.qLen) / BLOCK);
  return {
    shape,
    own,
    budgets: tried.map((_, c) => measured.map((head) => figuresOf(head[c]))),
    oracle: SHARES.map((share) => heads.map((head) => oracle(head, grid, share, firstRow))),
    mass: heads.map((head) => packMass(head, grid)),
    missed: perHead(computed.missed).map((head) => packMass(head, grid)),
    lists: computed.lists,
  };
}

function curve(
  method: Curve["method"],
  budgets: readonly string[],
  figures: readonly (readonly HeadFigures[])[],
): Curve {
  const round = (value: number): number => Number(value.toPrecision(4));
  return {
    method,
    budgets,
    density: figures.map((heads) => heads.map(({ density }) => round(density))),
    recall: figures.map((heads) => heads.map(({ recall }) => round(recall))),
  };
}

/** Figures of one budget, [layer * heads + head]. */
function acrossLayers(
  layers: readonly LayerResult[],
  of: (layer: LayerResult) => readonly (readonly HeadFigures[])[],
): HeadFigures[][] {
  return of(layers[0]).map((_, budget) => layers.flatMap((layer) => of(layer)[budget]));
}

/**
 * Runs a sample densely through the model and measures every layer on the way.
 *
 * @param model The model.
 * @param name What the sample is, for the page.
 * @param tokens Token ids of the sample.
 * @param patterns What each head computes, [layer][head].
 * @throws {MInferenceError} `INVALID_ARGUMENT` naming layer and head, `OUT_OF_MEMORY`; `signal.reason` on abort.
 */
export async function measureSample(
  model: Model,
  name: string,
  tokens: Uint32Array,
  patterns: readonly (readonly HeadReport[])[],
  options: SampleOptions = {},
): Promise<SampleReport> {
  const { device, config } = model;
  const { decoder, createCache } = engineOf(model);
  const ranges = budgetRanges(tokens.length);
  const progress = new Reporter("search", config.layers, options.onProgress);
  const layers: LayerResult[] = [];
  await device.exclusive(async () => {
    using cache = createCache();
    using logits = device.tensor([config.vocabSize]);
    using owned = new DisposableStack();
    await cache.reserve(tokens.length, 0);
    let meter: LayerMeter | undefined;
    await decoder.forward(tokens, cache, 0, logits, {
      signal: options.signal,
      inspect: async (operands): Promise<void> => {
        meter ??= owned.use(new LayerMeter(device, operands.shape));
        const own = patterns[operands.layer].map(({ pattern }) => pattern);
        layers.push(await measureLayer(meter, operands, own, ranges, options));
        progress.update(layers.length);
      },
    });
  });
  const own = layers.map((layer) => layer.own);
  const budgets = acrossLayers(layers, (layer) => layer.budgets);
  const curves: Curve[] = [];
  for (const { method, patterns } of ranges) {
    curves.push(curve(method, patterns.map(budgetText), budgets.splice(0, patterns.length)));
  }
  const shares = SHARES.map((share) => `${100 * share}%`);
  curves.push(curve("oracle", shares, acrossLayers(layers, (layer) => layer.oracle)));
  const thumbnails = (options.heads ?? chooseHeads(patterns, own)).map((chosen) => {
    const { shape, mass, missed, lists } = layers[chosen.layer];
    const mask = packMask(coverage(lists[chosen.head], shape), gridOf(shape));
    return { ...chosen, mass: mass[chosen.head], missed: missed[chosen.head], mask };
  });
  return { name, tokens: tokens.length, layers: own, curves, thumbnails };
}
