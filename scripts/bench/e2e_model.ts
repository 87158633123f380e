/**
 * A model without a checkpoint: a known shape, weights drawn at random on the device.
 *
 * @module
 */
import type { HeadPattern } from "../../src/attention/patterns.ts";
import type { Device } from "../../src/device/device.ts";
import { quantiseRows, type Weight } from "../../src/device/ops.ts";
import type { Tensor } from "../../src/device/tensor.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import type {
  LayerParameters,
  LinearParameters,
  ModelParameters,
  WeightFormat,
} from "../../src/model/parameters.ts";
import { inverseFrequencies } from "../../src/model/rope.ts";
import type { Ref } from "../../src/native/structs.ts";
import { LAYER_BUDGETS } from "./gpu_inputs.ts";
import { normals, STOCK_SIZE } from "./gpu_operands.ts";

const LLAMA_3_8B: ModelConfig = {
  architecture: "llama",
  hiddenSize: 4096,
  layers: 32,
  heads: 32,
  kvHeads: 8,
  headDim: 128,
  intermediateSize: 14336,
  vocabSize: 128256,
  normEps: 1e-5,
  tieEmbeddings: false,
  rope: { theta: 500_000, rotaryDim: 128, interleaved: false, scaling: { kind: "none" } },
  qkvBias: false,
  outBias: false,
  mlpBias: false,
  qkNorm: false,
  fusedQkv: false,
  fusedGateUp: false,
  postNorms: false,
  maxPositions: 2 ** 21,
  eosIds: [],
};

/** Shapes to measure, by name. `tiny` tries the benchmark itself. */
export const SHAPES: Readonly<Record<string, ModelConfig>> = {
  "llama-3-8b": LLAMA_3_8B,
  tiny: {
    ...LLAMA_3_8B,
    hiddenSize: 256,
    layers: 4,
    heads: 4,
    kvHeads: 2,
    intermediateSize: 512,
    vocabSize: 1024,
  },
};

/** The published budgets in each layer, in their proportion, banded: their cost does not depend on the data. */
export function publishedPatterns({ layers, heads }: ModelConfig): HeadPattern[][] {
  const layer = Array.from({ length: heads }, (_, head): HeadPattern => {
    const { vertical, slash } = LAYER_BUDGETS[Math.floor(head * LAYER_BUDGETS.length / heads)];
    return { kind: "vertical_slash", vertical, slash, selection: "banded" };
  });
  return Array(layers).fill(layer);
}

/** Draws matrices: pieces of a stock of normal numbers, from a random place each. */
class Draw {
  readonly #stocks = new Map<number, Tensor>();

  constructor(readonly device: Device, readonly owned: DisposableStack) {}

  #stock(columns: number): Tensor {
    let stock = this.#stocks.get(columns);
    if (!stock) {
      const data = normals(1 / Math.sqrt(columns));
      stock = this.device.tensor([STOCK_SIZE], { dtype: "bf16", data });
      this.#stocks.set(columns, stock);
    }
    return stock;
  }

  /** bf16 [rows, columns] of deviation 1 / sqrt(columns). */
  matrix(rows: number, columns: number): Weight {
    const tensor = this.owned.use(this.#draw(rows, columns));
    return { view: tensor.view(), rows, columns };
  }

  /** The same as e4m3 with a scale per row. */
  quantised(rows: number, columns: number): Weight {
    const { device, owned } = this;
    using tensor = this.#draw(rows, columns);
    const codes = owned.use(device.tensor([rows, columns], { dtype: "e4m3" }));
    const scales = owned.use(device.tensor([rows])).ref();
    const weight = { view: codes.view(), rows, columns, scales };
    quantiseRows(device, tensor.view(), weight);
    return weight;
  }

  #draw(rows: number, columns: number): Tensor {
    const { device } = this;
    const tensor = device.tensor([rows, columns], { dtype: "bf16" });
    const stock = this.#stock(columns);
    const step = STOCK_SIZE / 2;
    for (let at = 0; at < tensor.length; at += step) {
      const from = 16 * Math.floor(Math.random() * step / 16);
      device.copy(tensor, 2 * at, stock, 2 * from, 2 * Math.min(step, tensor.length - at));
    }
    return tensor;
  }

  /** f32 ones. */
  ones(length: number): Ref {
    return this.owned.use(this.device.tensor([length], { data: new Float32Array(length).fill(1) }))
      .ref();
  }

  [Symbol.dispose](): void {
    for (const stock of this.#stocks.values()) stock.dispose();
  }
}

function drawLayer(draw: Draw, config: ModelConfig, weights: WeightFormat): LayerParameters {
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize } = config;
  const linear = (rows: number, columns: number): LinearParameters => ({
    weight: weights === "fp8" ? draw.quantised(rows, columns) : draw.matrix(rows, columns),
  });
  return {
    attentionNorm: draw.ones(hiddenSize),
    q: linear(heads * headDim, hiddenSize),
    k: linear(kvHeads * headDim, hiddenSize),
    v: linear(kvHeads * headDim, hiddenSize),
    output: linear(hiddenSize, heads * headDim),
    feedForwardNorm: draw.ones(hiddenSize),
    gate: linear(intermediateSize, hiddenSize),
    up: linear(intermediateSize, hiddenSize),
    down: linear(hiddenSize, intermediateSize),
  };
}

/** Draws all weights of a model, bf16, or those of its decoder layers in fp8. */
export async function randomParameters(
  device: Device,
  config: ModelConfig,
  weights: WeightFormat,
): Promise<ModelParameters> {
  const before = device.info().allocated;
  using owned = new DisposableStack();
  using draw = new Draw(device, owned);
  const matrix = (): ReturnType<Draw["matrix"]> => draw.matrix(config.vocabSize, config.hiddenSize);
  const embedding = matrix();
  const layers: LayerParameters[] = [];
  while (layers.length < config.layers) {
    layers.push(drawLayer(draw, config, weights));
    await device.sync(); // what was quantised is gone before more is drawn
  }
  const outputNorm = draw.ones(config.hiddenSize);
  const output = matrix();
  const { invFreq, scale } = inverseFrequencies(config.rope, config.maxPositions);
  const frequencies = owned.use(
    device.tensor([invFreq.length], { data: new Float32Array(invFreq) }),
  );
  draw[Symbol.dispose]();
  await device.sync();
  const byteLength = device.info().allocated - before;
  const kept = owned.move();
  return {
    embedding,
    layers,
    outputNorm,
    output,
    byteLength,
    rope: () => ({ invFreq: frequencies.ref(), scale }),
    [Symbol.dispose]: (): void => kept.dispose(),
  };
}
