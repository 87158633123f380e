/**
 * The Llama-family decoder, driven from TypeScript: what a layer is, in the order it runs.
 *
 * @module
 */
import { revisedEstimate } from "../attention/revise.ts";
import {
  enqueueAttention,
  enqueueIndex,
  needsEstimate,
  type SequenceShape,
} from "../attention/sequence.ts";
import { statsBytes } from "../attention/stats.ts";
import type { WorkList } from "../attention/work_list.ts";
import type { CallOptions, Device } from "../device/device.ts";
import { byteLength, FORMAT } from "../device/dtype.ts";
import { convertCopy, embed, linear, rmsNorm, rope, sample, siluMul } from "../device/ops.ts";
import type { SampleOptions } from "../device/ops.ts";
import { Scratch } from "../device/scratch.ts";
import type { Tensor } from "../device/tensor.ts";
import type { Ref, View } from "../native/structs.ts";
import type { ModelConfig } from "./config.ts";
import type { KvCache } from "./kv_cache.ts";
import type { LayerPass } from "./kv_pass.ts";
import { Lookahead } from "./lookahead.ts";
import type { LayerParameters, LinearParameters, ModelParameters } from "./parameters.ts";
import {
  type Activation,
  activationDtype,
  activationSizes,
  attentionShape,
  indexOptions,
  listedPatterns,
  ROW_CHUNK,
  type SparseOptions,
} from "./pass.ts";

/** Options of {@linkcode Decoder.forward}. */
export interface ForwardOptions extends CallOptions {
  /** Sparse attention; dense without. */
  readonly sparse?: SparseOptions;
  /** Rows whose logits are wanted. Default `last`, which also spares the last layer every other row. */
  readonly logits?: "last" | "all";
  /** Called with the layers done so far, as they are. */
  readonly onLayer?: (done: number) => void;
  /**
   * Called before each layer's attention with its operands, queries of every row, for the pattern search.
   * It may queue work of its own; its attention must not write to q.
   */
  readonly inspect?: (operands: LayerOperands) => Promise<void>;
}

/** What a layer's attention works on. */
export interface LayerOperands {
  /** Which layer. */
  readonly layer: number;
  /** Sizes and softmax scale. */
  readonly shape: SequenceShape;
  /** [heads, rows, headDim]. */
  readonly q: View;
  /** [kvHeads, kvLen, headDim]. */
  readonly k: View;
  /** [kvHeads, kvLen, headDim]. */
  readonly v: View;
}

/** A window of rows of the activations. */
interface Rows {
  readonly first: number;
  readonly count: number;
}

/** The activations of a pass, [rows, columns] each, from a row on. */
type Activations = Readonly<Record<Activation, (row?: number) => View>>;

/** Runs tokens through the model on one device. Not reentrant: callers take turns. */
export class Decoder implements Disposable {
  readonly #scratch: Scratch;

  /**
   * @param config What the model is.
   * @param parameters Its weights.
   * @param precision Arithmetic of the linear layers.
   */
  constructor(
    readonly device: Device,
    readonly config: ModelConfig,
    readonly parameters: ModelParameters,
    readonly precision: "f32" | "bf16",
  ) {
    this.#scratch = new Scratch(device);
  }

  /** Bytes of workspace held. */
  get workspaceBytes(): number {
    return this.#scratch.byteLength;
  }

  /** Frees workspace that long prompts left; the next pass takes what it needs. */
  trim(): void {
    this.#scratch[Symbol.dispose]();
  }

  /** The activations of a pass of `rows` tokens. */
  #activations(rows: number): Activations {
    const { device, config } = this;
    const dtype = activationDtype(device);
    const sizes = Object.entries(activationSizes(config, device.kind, rows));
    const views = sizes.map(([name, [rows, columns]]) => {
      const base = this.#scratch.buffer(name, byteLength(dtype, rows * columns)).view();
      const from = (row = 0): View => ({
        ...base,
        offset: byteLength(dtype, row * columns),
        rowStride: columns,
        headStride: 0,
        dtype: FORMAT[dtype].code,
      });
      return [name, from];
    });
    return Object.fromEntries(views);
  }

  /** Rows [first, end) in pieces that fit the workspace. */
  *#chunks(first: number, end: number): Generator<Rows> {
    const most = ROW_CHUNK[this.device.kind];
    for (let row = first; row < end; row += most) {
      yield { first: row, count: Math.min(most, end - row) };
    }
  }

  #linear(x: View, p: LinearParameters, y: View, rows: number, accumulate = false): void {
    const { bias } = p;
    linear(this.device, this.#scratch, x, p.weight, y, rows, {
      bias,
      accumulate,
      precision: this.precision,
    });
  }

  /**
   * Runs `tokens` at positions `cache length` on, appends their keys and values to the cache and computes
   * logits.
   *
   * @param tokens Token ids, at least one.
   * @param cache Cache with room for them.
   * @param position Tokens the cache holds already.
   * @param logits Receives f32 logits: [vocabulary] of the last token, or [tokens, vocabulary] of all.
   */
  async forward(
    tokens: Uint32Array,
    cache: KvCache,
    position: number,
    logits: Tensor,
    options: ForwardOptions = {},
  ): Promise<void> {
    const { device, config, parameters } = this;
    const rows = tokens.length;
    await cache.ids.write(new Int32Array(tokens), position);
    if (position === 0) cache.ropeLength = rows;
    if (rows === 1 && !options.inspect) {
      this.step(cache, position, logits);
      options.onLayer?.(config.layers);
      return;
    }
    const all = options.logits === "all";
    const activations = this.#activations(rows);
    embed(device, cache.ids.ref(position), parameters.embedding, activations.hidden(), rows);
    const angles = parameters.rope(cache.ropeLength);
    const ahead = new Lookahead(device, options);
    for (let layer = 0; layer < config.layers; layer++) {
      // Only the last row of the last layer reaches the logits.
      const whole = all || options.inspect || layer < config.layers - 1;
      const first = whole ? 0 : rows - 1;
      const weights = parameters.layers[layer];
      const kv = cache.pass(layer, position, rows, this.#scratch);
      const q = this.#project(weights, activations, rows, first, kv, position, angles);
      const operands = kv.complete();
      const { k, v } = operands;
      const shape = attentionShape(config, rows - first, position + rows);
      if (options.inspect) {
        await device.sync(options);
        await options.inspect({ layer, shape, q, k, v });
      }
      const list = await this.#index(layer, shape, q, k, options);
      enqueueAttention(device, this.#scratch, shape, { q, ...operands, out: q, list });
      kv.leave();
      this.#feedForward(weights, activations, q, rows, first);
      await ahead.step();
      options.onLayer?.(layer);
    }
    this.#logits(activations, rows, all ? 0 : rows - 1, logits);
    await ahead.finish();
    options.onLayer?.(config.layers);
  }

  /**
   * Queues the pass of one token whose id is in the cache, whether the host knows it yet or not, and returns.
   *
   * @param cache Cache with room for it.
   * @param position Where the token stands: tokens before it.
   * @param logits Receives f32 logits [vocabulary].
   */
  step(cache: KvCache, position: number, logits: Tensor): void {
    const { device, config, parameters } = this;
    const angles = parameters.rope(cache.ropeLength);
    const activations = this.#activations(1);
    const shape = attentionShape(config, 1, position + 1);
    const queue = (): void => {
      embed(device, cache.ids.ref(position), parameters.embedding, activations.hidden(), 1);
      parameters.layers.forEach((weights, layer) => {
        const kv = cache.pass(layer, position, 1, this.#scratch);
        const q = this.#project(weights, activations, 1, 0, kv, position, angles);
        enqueueAttention(device, this.#scratch, shape, { q, ...kv.complete(), out: q });
        kv.leave();
        this.#feedForward(weights, activations, q, 1, 0);
      });
      this.#logits(activations, 1, 0, logits);
    };
    if (cache.shape.offloaded) queue(); // with copies in between, which no batch takes
    else device.batch(queue);
  }

  /** Norm, q/k/v projections, rotary embedding; k and v go to `kv`. Returns q of rows from `first`. */
  #project(
    weights: LayerParameters,
    { hidden, normed, q, k, v }: Activations,
    rows: number,
    first: number,
    kv: LayerPass,
    position: number,
    angles: { invFreq: Ref; scale: number },
  ): View {
    const { device, config } = this;
    const { heads, kvHeads, headDim, normEps: eps } = config;
    const { rotaryDim, interleaved } = config.rope;
    // [rows, heads * headDim] seen as [heads, rows, headDim].
    const asHeads = (view: View): View => ({ ...view, headStride: headDim });
    const turn = { headDim, rotaryDim, interleaved, scale: angles.scale };
    for (const { first: row, count } of this.#chunks(0, rows)) {
      const at = position + row;
      rmsNorm(device, hidden(row), weights.attentionNorm, normed(), {
        rows: count,
        dim: config.hiddenSize,
        eps,
      });
      const skip = Math.max(0, first - row); // rows of this chunk whose q nobody needs
      const target = skip < count ? asHeads(q(row + skip - first)) : undefined;
      const queries = { rows: count - skip, heads, dim: headDim };
      // One after the other: a GPU runs the three of a single row in one launch.
      this.#linear(normed(), weights.k, k(), count);
      this.#linear(normed(), weights.v, v(), count);
      if (target) this.#linear(normed(skip), weights.q, target, queries.rows);
      const perHead = { rows: count, heads: kvHeads, dim: headDim };
      const keys = asHeads(k());
      if (weights.kNorm) rmsNorm(device, keys, weights.kNorm, keys, { ...perHead, eps });
      const kTurn = { ...turn, rows: count, heads: kvHeads, position: at };
      rope(device, keys, angles.invFreq, kv.keys(row), kTurn);
      convertCopy(device, asHeads(v()), kv.values(row), perHead);
      if (!target) continue;
      if (weights.qNorm) rmsNorm(device, target, weights.qNorm, target, { ...queries, eps });
      const qTurn = { ...turn, rows: queries.rows, heads, position: at + skip };
      rope(device, target, angles.invFreq, target, qTurn);
    }
    return asHeads(q());
  }

  /** The layer's work list, or undefined where dense attention is chosen. */
  async #index(
    layer: number,
    shape: SequenceShape,
    q: View,
    k: View,
    { sparse, signal }: ForwardOptions,
  ): Promise<WorkList | undefined> {
    const { device } = this;
    const patterns = listedPatterns(device.kind, shape, layer, sparse);
    if (!sparse || !patterns) return undefined;
    const { lastQ, reviseEstimate: revise, stats } = sparse;
    const operands = { layer, q, k };
    const options = { lastQ, signal };
    using revised = revise && needsEstimate(patterns)
      ? await revisedEstimate(device, this.#scratch, shape, operands, revise, options)
      : undefined;
    return enqueueIndex(device, this.#scratch, shape, q, k, patterns, {
      ...indexOptions(device.kind, sparse),
      stats: stats?.ref(layer * statsBytes(shape.qHeads)),
    }, revised?.sums);
  }

  /** Output projection, then norm, gate, up, down; both added to the residual stream. */
  #feedForward(
    weights: LayerParameters,
    { hidden, normed, gate, up, update }: Activations,
    attended: View,
    rows: number,
    first: number,
  ): void {
    const { device, config } = this;
    const { hiddenSize, intermediateSize, normEps: eps } = config;
    for (const { first: row, count } of this.#chunks(first, rows)) {
      const size = { rows: count, dim: hiddenSize, eps };
      const at = (row - first) * attended.rowStride;
      const offset = attended.offset + byteLength(activationDtype(device), at);
      const from = { ...attended, headStride: 0, offset };
      this.#addLinear(from, weights.output, hidden(row), update(), size, weights.attentionPostNorm);
      rmsNorm(device, hidden(row), weights.feedForwardNorm, normed(), size);
      this.#linear(normed(), weights.gate, gate(), count);
      this.#linear(normed(), weights.up, up(), count);
      siluMul(device, gate(), up(), gate(), count, intermediateSize);
      this.#addLinear(
        gate(),
        weights.down,
        hidden(row),
        update(),
        size,
        weights.feedForwardPostNorm,
      );
    }
  }

  /** hidden += x wᵀ, or the norm of it where the model has one before the residual (GLM-4). */
  #addLinear(
    x: View,
    p: LinearParameters,
    hidden: View,
    update: View,
    size: { rows: number; dim: number; eps: number },
    postNorm?: Ref,
  ): void {
    if (!postNorm) return this.#linear(x, p, hidden, size.rows, true);
    this.#linear(x, p, update, size.rows);
    rmsNorm(this.device, update, postNorm, update, size);
    // The sum is wanted, not the norm of it: that lands on `update` and is dropped.
    rmsNorm(this.device, hidden, postNorm, update, size, update);
  }

  #logits({ hidden, normed }: Activations, rows: number, first: number, logits: Tensor): void {
    const { device, config, parameters } = this;
    const { hiddenSize, vocabSize, normEps: eps } = config;
    for (const { first: row, count } of this.#chunks(first, rows)) {
      const size = { rows: count, dim: hiddenSize, eps };
      rmsNorm(device, hidden(row), parameters.outputNorm, normed(), size);
      const y = logits.view({ offset: (row - first) * vocabSize, rowStride: vocabSize });
      this.#linear(normed(), { weight: parameters.output }, y, count);
    }
  }

  /**
   * Queues the draw of the token after the first `length` of a cache, to its place among the cache's ids:
   * its {@linkcode Decoder.step} can be queued before the host knows it.
   *
   * @param logits f32 [vocabulary].
   * @param cache Whose tokens the repetition penalty applies to.
   * @returns The token. The draw is queued already.
   */
  async draw(
    logits: Tensor,
    options: SampleOptions,
    cache: KvCache,
    length: number,
  ): Promise<number> {
    const { device, config } = this;
    const { ids } = cache;
    const past = options.repetitionPenalty === 1 ? 0 : length;
    const [from, to] = [past > 0 ? ids.ref() : undefined, ids.ref(length)];
    sample(device, logits.ref(), to, config.vocabSize, options, from, past);
    const { buffer } = await device.readQueued(ids, length * 4, 4);
    return new Int32Array(buffer)[0];
  }

  /** Frees the workspace. */
  [Symbol.dispose](): void {
    this.#scratch[Symbol.dispose]();
  }
}
