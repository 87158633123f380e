/**
 * A model's weights on a device.
 *
 * @module
 */
import type { CallOptions, Device } from "../device/device.ts";
import type { DeviceKind } from "../device/info.ts";
import { byteLength, type DType, FORMAT } from "../device/dtype.ts";
import { convert, quantiseRows, type Weight } from "../device/ops.ts";
import type { Tensor } from "../device/tensor.ts";
import { MInferenceError } from "../native/errors.ts";
import type { Ref } from "../native/structs.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { ModelConfig } from "./config.ts";
import { type OnProgress, Reporter } from "./progress.ts";
import { inverseFrequencies } from "./rope.ts";
import type { TensorSource } from "./weight_types.ts";
import { type LayerWeight, layerWeight } from "./weights.ts";

/** A linear layer: y = x wᵀ + bias. */
export interface LinearParameters {
  /** [out, in]. */
  readonly weight: Weight;
  /** f32 [out]. */
  readonly bias?: Ref;
}

/** Weights of one decoder layer. */
export interface LayerParameters {
  /** f32 [hidden]. */
  readonly attentionNorm: Ref;
  /** Query projection. */
  readonly q: LinearParameters;
  /** Key projection. */
  readonly k: LinearParameters;
  /** Value projection. */
  readonly v: LinearParameters;
  /** f32 [headDim], RMS norm of each query head. */
  readonly qNorm?: Ref;
  /** f32 [headDim], RMS norm of each key head. */
  readonly kNorm?: Ref;
  /** Output projection. */
  readonly output: LinearParameters;
  /** f32 [hidden], RMS norm of the attention's output. */
  readonly attentionPostNorm?: Ref;
  /** f32 [hidden]. */
  readonly feedForwardNorm: Ref;
  /** Gate projection. */
  readonly gate: LinearParameters;
  /** Up projection. */
  readonly up: LinearParameters;
  /** Down projection. */
  readonly down: LinearParameters;
  /** f32 [hidden], RMS norm of the feed-forward's output. */
  readonly feedForwardPostNorm?: Ref;
}

/** All weights of a model. */
export interface ModelParameters extends Disposable {
  /** [vocabulary, hidden]. */
  readonly embedding: Weight;
  /** By layer. */
  readonly layers: readonly LayerParameters[];
  /** f32 [hidden]. */
  readonly outputNorm: Ref;
  /** [vocabulary, hidden]; the embedding where the two are tied. */
  readonly output: Weight;
  /** Bytes on the device. */
  readonly byteLength: number;
  /** Inverse frequencies (f32 [rotaryDim / 2]) and scale for a context of `length` tokens. */
  rope(length: number): { invFreq: Ref; scale: number };
}

/**
 * How a model's weights are kept: as `stored` in the checkpoint (on a GPU in bf16, as its activations are: cuBLASLt has no
 * product of f16 that gives bf16), or the matrices of its decoder layers in `fp8`, e4m3 with a scale per output feature.
 */
export type WeightFormat = "stored" | "fp8";

/** Options of {@linkcode loadParameters}. */
export interface LoadParametersOptions extends CallOptions {
  /** How the weights are kept. Default `stored`. */
  weights?: WeightFormat;
  /** Receives bytes loaded. */
  onProgress?: OnProgress;
}

/** Sizes of matrices of e4m3 are multiples of this (`MI_E4M3_COLUMNS`; cuBLASLt asks it of the output features, too). */
const E4M3_MULTIPLE = 16;

/** Whether `fp8` concerns a weight: the embedding, the output projection and odd sizes stay as they are. */
function quantisable(config: ModelConfig, name: string, shape: readonly number[]): boolean {
  const { kvHeads, headDim, intermediateSize } = config;
  const sizes = [...shape];
  // Parts of fused projections are matrices of their own.
  if (name.endsWith(".attn_qkv.weight")) sizes.push(kvHeads * headDim);
  if (name.endsWith(".ffn_gate_up.weight")) sizes.push(intermediateSize);
  return name.startsWith("layers.") && shape.length === 2 &&
    sizes.every((size) => size % E4M3_MULTIPLE === 0);
}

/** The element type that a weight of `weightSpecs` has on a device. */
export function weightDtype(
  device: { readonly kind: DeviceKind },
  { config, tensors }: Pick<Checkpoint, "config" | "tensors">,
  name: string,
  weights: WeightFormat = "stored",
): DType {
  const source = tensors.get(name)!;
  if (source.shape.length < 2) return "f32";
  if (weights === "fp8" && quantisable(config, name, source.shape)) return "e4m3";
  return device.kind === "cpu" ? source.dtype : "bf16";
}

/** Bytes that a checkpoint's weights take on a device, with their scales. */
export function weightBytes(
  device: { readonly kind: DeviceKind },
  checkpoint: Pick<Checkpoint, "config" | "tensors">,
  weights: WeightFormat = "stored",
): number {
  let sum = 0;
  for (const [name, { shape }] of checkpoint.tensors) {
    const dtype = weightDtype(device, checkpoint, name, weights);
    sum += byteLength(dtype, shape.reduce((a, b) => a * b, 1));
    if (dtype === "e4m3") sum += byteLength("f32", shape[0]);
  }
  return sum;
}

/** Loads tensors and keeps what must be freed. */
class Loader implements Disposable {
  readonly #owned: Tensor[] = [];
  readonly #report: Reporter;
  #loaded = 0;

  constructor(
    readonly device: Device,
    readonly checkpoint: Checkpoint,
    readonly options: LoadParametersOptions,
  ) {
    let total = 0;
    for (const { bytes } of checkpoint.tensors.values()) total += bytes;
    this.#report = new Reporter("load", total, options.onProgress);
  }

  get byteLength(): number {
    return this.#owned.reduce((sum, tensor) => sum + tensor.byteLength, 0);
  }

  own(tensor: Tensor): Tensor {
    this.#owned.push(tensor);
    return tensor;
  }

  has(name: string): boolean {
    return this.checkpoint.tensors.has(name);
  }

  #source(name: string): TensorSource {
    this.options.signal?.throwIfAborted();
    const source = this.checkpoint.tensors.get(name);
    if (source) return source;
    throw new MInferenceError("CHECKPOINT", `tensor ${name} is missing`, { details: { name } });
  }

  /** Counts what was read. */
  #count({ bytes }: TensorSource): void {
    this.#loaded += bytes;
    this.#report.update(this.#loaded);
  }

  /** The tensor in the type it has there: its bytes go from the file to the device, never through JavaScript. */
  async #load(name: string): Promise<Tensor> {
    const { device, options } = this;
    const source = this.#source(name);
    const dtype = this.#dtype(name);
    const target = this.own(device.tensor(source.shape, { dtype }));
    if (dtype === source.dtype) {
      await device.load(target, 0, source.path, source.offset, source.bytes);
    } else {
      using staged = device.tensor([source.bytes], { dtype: "u8" });
      await device.load(staged, 0, source.path, source.offset, source.bytes);
      const { code } = FORMAT[source.dtype];
      convert(device, staged.ref(), code, target.ref(), FORMAT[dtype].code, target.length);
      await device.sync(options);
    }
    this.#count(source);
    return target;
  }

  /** A matrix as e4m3; what the file holds stays on the device only until it is quantised. */
  async #quantised(name: string): Promise<Weight> {
    const { device, options } = this;
    const source = this.#source(name);
    const [rows, columns] = source.shape;
    const codes = this.own(device.tensor(source.shape, { dtype: "e4m3" }));
    const scales = this.own(device.tensor([rows])).ref();
    const weight = { view: codes.view(), rows, columns, scales };
    using staged = device.tensor(source.shape, { dtype: source.dtype });
    await device.load(staged, 0, source.path, source.offset, source.bytes);
    quantiseRows(device, staged.view(), weight);
    await device.sync(options);
    this.#count(source);
    return weight;
  }

  #dtype(name: string): DType {
    return weightDtype(this.device, this.checkpoint, name, this.options.weights);
  }

  async vector(name: string): Promise<Ref> {
    return (await this.#load(name)).ref();
  }

  async matrix(name: string): Promise<Weight> {
    if (this.checkpoint.tensors.has(name) && this.#dtype(name) === "e4m3") {
      return await this.#quantised(name);
    }
    const tensor = await this.#load(name);
    const [rows, columns] = tensor.shape;
    return { view: tensor.view(), rows, columns };
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#owned) tensor.dispose();
  }
}

/** Rows [first, first + rows) of a weight and its bias: the parts of a fused projection. */
function slice(
  whole: LinearParameters,
  dtype: DType,
  first: number,
  rows: number,
): LinearParameters {
  const { view, columns, scales } = whole.weight;
  const offset = view.offset + byteLength(dtype, first * columns);
  const from = (vector?: Ref): Ref | undefined =>
    vector && { ...vector, offset: vector.offset + first * 4 };
  const weight = { view: { ...view, offset }, rows, columns, scales: from(scales) };
  return { weight, bias: from(whole.bias) };
}

async function loadLayer(loader: Loader, layer: number): Promise<LayerParameters> {
  const { config } = loader.checkpoint;
  const name = (weight: LayerWeight, part?: "bias"): string => layerWeight(layer, weight, part);
  const vector = (weight: LayerWeight): Promise<Ref> => loader.vector(name(weight));
  const optional = (weight: LayerWeight): Promise<Ref> | undefined =>
    loader.has(name(weight)) ? vector(weight) : undefined;
  const linear = async (weight: LayerWeight): Promise<LinearParameters> => ({
    weight: await loader.matrix(name(weight)),
    bias: loader.has(name(weight, "bias")) ? await loader.vector(name(weight, "bias")) : undefined,
  });
  const parts = async (
    fused: LayerWeight,
    rows: readonly number[],
  ): Promise<LinearParameters[]> => {
    const whole = await linear(fused);
    const dtype = weightDtype(
      loader.device,
      loader.checkpoint,
      name(fused),
      loader.options.weights,
    );
    let first = 0;
    return rows.map((count) => slice(whole, dtype, (first += count) - count, count));
  };
  const qRows = config.heads * config.headDim;
  const kvRows = config.kvHeads * config.headDim;
  const attentionNorm = await vector("attn_norm");
  const [q, k, v] = config.fusedQkv
    ? await parts("attn_qkv", [qRows, kvRows, kvRows])
    : [await linear("attn_q"), await linear("attn_k"), await linear("attn_v")];
  const qNorm = await optional("attn_q_norm");
  const kNorm = await optional("attn_k_norm");
  const output = await linear("attn_o");
  const attentionPostNorm = await optional("attn_post_norm");
  const feedForwardNorm = await vector("ffn_norm");
  const [gate, up] = config.fusedGateUp
    ? await parts("ffn_gate_up", [config.intermediateSize, config.intermediateSize])
    : [await linear("ffn_gate"), await linear("ffn_up")];
  const down = await linear("ffn_down");
  const feedForwardPostNorm = await optional("ffn_post_norm");
  return {
    ...{ attentionNorm, q, k, v, qNorm, kNorm, output, attentionPostNorm },
    ...{ feedForwardNorm, gate, up, down, feedForwardPostNorm },
  };
}

/**
 * Loads every weight of a checkpoint.
 *
 * @param device Where to.
 * @param checkpoint Where from.
 * @param options Format, signal and progress.
 * @throws {MInferenceError} `IO`, `OUT_OF_MEMORY`; `signal.reason` on abort. Nothing stays allocated.
 */
export async function loadParameters(
  device: Device,
  checkpoint: Checkpoint,
  options: LoadParametersOptions = {},
): Promise<ModelParameters> {
  const { config } = checkpoint;
  using cleanup = new DisposableStack();
  const loader = cleanup.use(new Loader(device, checkpoint, options));
  const embedding = await loader.matrix("embed.weight");
  const layers: LayerParameters[] = [];
  for (let layer = 0; layer < config.layers; layer++) layers.push(await loadLayer(loader, layer));
  const outputNorm = await loader.vector("norm.weight");
  const output = config.tieEmbeddings ? embedding : await loader.matrix("lm_head.weight");
  const invFreq = loader.own(device.tensor([config.rope.rotaryDim / 2]));
  let written: Float32Array | undefined;
  cleanup.move();
  return {
    embedding,
    layers,
    outputNorm,
    output,
    get byteLength(): number {
      return loader.byteLength;
    },
    rope(length: number): { invFreq: Ref; scale: number } {
      const { invFreq: values, scale } = inverseFrequencies(config.rope, length);
      if (!written || values.some((value, i) => value !== written![i])) {
        invFreq.writeNow(new Float32Array(values));
        written = values;
      }
      return { invFreq: invFreq.ref(), scale };
    },
    [Symbol.dispose]: () => loader[Symbol.dispose](),
  };
}
