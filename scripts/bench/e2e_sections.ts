/**
 * What the end-to-end benchmark measures of this library.
 *
 * @module
 */
import type { HeadPattern } from "../../src/attention/patterns.ts";
import { enqueueAttention } from "../../src/attention/sequence.ts";
import { decodeStats, statsBytes } from "../../src/attention/stats.ts";
import { median } from "../../src/cli/format.ts";
import type { Device } from "../../src/device/device.ts";
import { Scratch } from "../../src/device/scratch.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { Decoder } from "../../src/model/decoder.ts";
import { KvCache } from "../../src/model/kv_cache.ts";
import {
  isOffloaded,
  KV_BLOCK,
  kvBytes,
  type KvPlace,
  type KvShape,
  kvShape,
  usualKvDtype,
} from "../../src/model/kv_shape.ts";
import { type MemoryPlan, planMemory } from "../../src/model/memory.ts";
import type { ModelParameters, WeightFormat } from "../../src/model/parameters.ts";
import { publishedPatterns } from "./e2e_model.ts";
import type { DecodeRow, DenseAttentionRow, PrefillRow } from "./e2e_results.ts";
import { HEAD_DIM, makeOperands } from "./gpu_operands.ts";

/** Runs shorter than this are read three times. */
const SHORT_MS = 2000;
/** Prompts from here on get the attention of one group of query heads timed, as the peer's. */
const GROUP_FROM = 1 << 20;
/** The guard measures every list, as in a session, and none falls below this: random attention keeps little. */
const IDLE_GUARD = { retained: 1e-9, retainedMin: 0 };
const PRECISION = "bf16";
const GREEDY = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0n,
  step: 0n,
};

/** Multiply-adds of the linear layers of a prompt, twice. */
function linearFlop(config: ModelConfig, tokens: number): number {
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, layers, vocabSize } = config;
  const keys = 2 * kvHeads * headDim * hiddenSize;
  const others = hiddenSize * (2 * heads * headDim + 3 * intermediateSize);
  // The last layer computes keys and values of every row, the rest for the last row alone.
  const rows = (layers - 1) * tokens + 1;
  return 2 * (layers * tokens * keys + rows * others + vocabSize * hiddenSize);
}

function randomTokens(count: number, vocabSize: number): Uint32Array {
  return Uint32Array.from({ length: count }, () => Math.floor(Math.random() * vocabSize));
}

/** The model under test with its decoder; measures one thing at a time. */
export class E2eModel implements Disposable {
  readonly #decoder: Decoder;
  readonly #logits: Tensor;
  readonly #kv: Readonly<Record<"stored" | "fp8", KvShape>>;
  readonly #patterns: HeadPattern[][];

  /**
   * @param device Opened with `profile`.
   * @param config Shape.
   * @param parameters Its weights; disposed with the model.
   * @param weights How they are kept.
   * @param kvPlace Where keys and values are kept.
   */
  constructor(
    readonly device: Device,
    readonly config: ModelConfig,
    readonly parameters: ModelParameters,
    readonly weights: WeightFormat,
    kvPlace: KvPlace = "device",
  ) {
    const { vocabSize } = config;
    this.#decoder = new Decoder(device, config, parameters, PRECISION);
    this.#logits = device.tensor([vocabSize]);
    const usual = usualKvDtype(device);
    const offloaded = isOffloaded(device, kvPlace);
    this.#kv = {
      stored: kvShape(config, usual, usual, offloaded),
      fp8: kvShape(config, "fp8", usual, offloaded),
    };
    this.#patterns = publishedPatterns(config);
  }

  #plan(kv: KvShape, mode: "dense" | "sparse", tokens: number): MemoryPlan {
    return planMemory({
      device: this.device,
      config: this.config,
      kv,
      patterns: mode === "sparse" ? this.#patterns : null,
      precision: PRECISION,
      weightDtype: () => this.weights === "fp8" ? "e4m3" : "bf16",
      weights: this.parameters.byteLength,
      free: this.device.info().freeMemory,
      hostFree: this.device.info().hostFreeMemory,
    }, tokens);
  }

  /** A prompt's first token; NaN logits are an error. */
  async #first(
    tokens: Uint32Array,
    cache: KvCache,
    mode: "dense" | "sparse",
    stats: Tensor,
  ): Promise<{ ms: number; timings: Record<string, number> }> {
    const { device } = this;
    const sparse = { patterns: this.#patterns, stats, guard: IDLE_GUARD };
    device.timings(); // from here on
    const start = performance.now();
    await this.#decoder.forward(tokens, cache, 0, this.#logits, {
      sparse: mode === "sparse" ? sparse : undefined,
    });
    await this.#decoder.draw(this.#logits, GREEDY, cache, tokens.length);
    const ms = performance.now() - start;
    const timings = device.timings();
    if (!(await this.#logits.read()).every(Number.isFinite)) throw new Error("logits not finite");
    return { ms, timings };
  }

  /** Mean density of the layers that run over every row; 1 for those that ran densely. */
  async #density(stats: Tensor): Promise<number> {
    const heads = decodeStats(await stats.readBytes());
    const { layers, heads: perLayer } = this.config;
    const whole = heads.slice(0, Math.max(1, layers - 1) * perLayer);
    const guarded = heads.filter((head) => head.guarded).length;
    if (guarded > 0) throw new Error(`the guard gave up ${guarded} lists`);
    const sum = whole.reduce((n, head) => n + (head.causalTiles > 0 ? head.density : 1), 0);
    return sum / whole.length;
  }

  /** Time to the first token of a random prompt, whole run. */
  async prefill(count: number, mode: "dense" | "sparse"): Promise<PrefillRow> {
    const { device, config } = this;
    this.#decoder.trim();
    const stored = this.#plan(this.#kv.stored, mode, count);
    const kv = stored.fits ? "stored" : "fp8";
    const plan = stored.fits ? stored : this.#plan(this.#kv.fp8, mode, count);
    using cache = new KvCache(device, this.#kv[kv]);
    await cache.reserve(count, 0);
    using stats = device.tensor([config.layers * statsBytes(config.heads)], { dtype: "u8" });
    stats.writeNow(new Uint8Array(stats.byteLength));
    const tokens = randomTokens(count, config.vocabSize);
    const all = [await this.#first(tokens, cache, mode, stats)];
    const readings = all[0].ms < SHORT_MS ? 3 : 1;
    while (all.length < readings) all.push(await this.#first(tokens, cache, mode, stats));
    const { ms, timings } = all.toSorted((a, b) => a.ms - b.ms)[all.length >> 1];
    const part = (name: string): number => timings[name] ?? 0;
    const [linearMs, attentionMs] = [part("linear"), part("attention")];
    const indexMs = part("estimate") + part("index");
    const { allocated, totalMemory, freeMemory } = device.info();
    return {
      tokens: count,
      ms,
      readings: all.map((reading) => reading.ms),
      linearMs,
      attentionMs,
      indexMs,
      restMs: ms - linearMs - attentionMs - indexMs,
      timings,
      linearTflops: linearFlop(config, count) / linearMs * 1e-9,
      density: mode === "sparse" ? await this.#density(stats) : 1,
      // Nothing is given back during a run, so that what is held after it is the most.
      peakBytes: allocated,
      plannedBytes: plan.total,
      usedBytes: totalMemory - freeMemory,
      kv: kv === "fp8" ? "fp8" : "all",
    };
  }

  /** Dense attention of one layer, over all its rows. */
  async denseAttention(tokens: number): Promise<DenseAttentionRow> {
    const { device, config } = this;
    this.#decoder.trim();
    const groups = tokens < GROUP_FROM ? config.kvHeads : 1;
    const heads = groups * config.heads / config.kvHeads;
    using operands = await makeOperands(device, tokens, heads, groups, "random");
    using scratch = new Scratch(device);
    const once = async (): Promise<number> => {
      device.timings();
      enqueueAttention(device, scratch, {
        qHeads: heads,
        kvHeads: groups,
        headDim: HEAD_DIM,
        qLen: tokens,
        kvLen: tokens,
        scale: 1 / Math.sqrt(HEAD_DIM),
      }, {
        q: operands.q.view(),
        k: operands.k.view(),
        v: operands.v.view(),
        out: operands.out.view(),
      });
      await device.sync();
      return device.timings().attention;
    };
    const readings = [await once()];
    if (readings[0] < SHORT_MS) readings.push(await once(), await once());
    const ms = median(readings);
    const flop = 4 * HEAD_DIM * heads * tokens * (tokens + 1) / 2;
    return { tokens, groups, ms, readings, tflops: flop / ms * 1e-9 };
  }

  /** Generation after a prompt of `count` tokens, read sparsely, kept in 16 bits or in fp8. */
  async decode(count: number, steps: number, kv: "stored" | "fp8"): Promise<DecodeRow> {
    const { device, config } = this;
    const shape = this.#kv[kv];
    const warmUp = 4;
    this.#decoder.trim();
    using cache = new KvCache(device, shape);
    await cache.reserve(count + warmUp + 2 * steps, 0);
    const sparse = { patterns: this.#patterns };
    const tokens = randomTokens(count, config.vocabSize);
    await this.#decoder.forward(tokens, cache, 0, this.#logits, { sparse });
    let at = count;
    // As a session generates: the next pass is queued before the token is known.
    const next = async (): Promise<number> => {
      const start = performance.now();
      const drawn = this.#decoder.draw(this.#logits, GREEDY, cache, at);
      this.#decoder.step(cache, at++, this.#logits);
      await drawn;
      return performance.now() - start;
    };
    device.profile(false); // an event around each operation costs as much as a short one, and rules out a graph
    const times: number[] = [];
    for (let i = 0; i < warmUp + steps; i++) {
      const ms = await next();
      if (i >= warmUp) times.push(ms);
    }
    await device.sync();
    device.profile(true);
    device.timings();
    for (let i = 0; i < steps; i++) await next();
    await device.sync();
    const all = device.timings();
    const { vocabSize, hiddenSize } = config;
    const held = Math.ceil((count + warmUp + steps / 2) / KV_BLOCK) * KV_BLOCK;
    const embedding = vocabSize * hiddenSize * 2; // one row of it is read
    return {
      tokens: count,
      steps,
      ms: median(times),
      deviceMs: Object.values(all).reduce((sum, ms) => sum + ms, 0) / steps,
      timings: all,
      bytes: this.parameters.byteLength - embedding + kvBytes(shape, held),
      hostBytes: shape.offloaded ? kvBytes(shape, held) : undefined,
    };
  }

  /** Frees workspace that the last measurement left. */
  trim(): void {
    this.#decoder.trim();
  }

  [Symbol.dispose](): void {
    this.#logits.dispose();
    this.#decoder[Symbol.dispose]();
    this.parameters[Symbol.dispose]();
  }
}

/** Bytes copied in a second from one tensor to another, the best of several readings. */
async function rate(to: Tensor, from: Tensor): Promise<number> {
  const { device, byteLength } = from;
  const copies = 10;
  const once = async (): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < copies; i++) device.copy(to, 0, from, 0, byteLength);
    await device.sync();
    return byteLength * copies / (performance.now() - start) * 1000;
  };
  await once();
  let best = 0;
  for (let i = 0; i < 5; i++) best = Math.max(best, await once());
  return best;
}

/** Bytes read and written in a second by copies on the device. */
export async function copyRate(device: Device): Promise<number> {
  const bytes = device.kind === "cuda" ? 2 ** 31 : 2 ** 26;
  using from = device.tensor([bytes], { dtype: "u8" });
  using to = device.tensor([bytes], { dtype: "u8" });
  return 2 * await rate(to, from);
}

/** Bytes that copies bring from host memory in a second. */
export async function hostRate(device: Device): Promise<number> {
  const bytes = 2 ** 28;
  using from = await device.hostTensor([bytes], { dtype: "u8" });
  using to = device.tensor([bytes], { dtype: "u8" });
  return await rate(to, from);
}
