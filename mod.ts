/**
 * MInference for Deno: fast prefill of very long prompts with dynamic sparse attention
 * (arXiv 2407.02490), on one NVIDIA GPU or the CPU.
 *
 * Importing this module has no side effect; {@linkcode openDevice} and {@linkcode loadModel} open the
 * native library.
 *
 * @example Answer a question about a long text
 * ```ts ignore
 * import { loadModel } from "@minference/minference";
 *
 * await using model = await loadModel("models/needle-27m");
 * const book = await Deno.readTextFile("book.txt");
 * const answer = model.generate(`${book}\nWhat is the pass key? The pass key is`, { maxTokens: 8 });
 * console.log(await answer.text, (await answer.stats).ttftMs);
 * ```
 *
 * @module
 */
export { MInferenceError } from "./src/native/errors.ts";
export type { ErrorCode, MInferenceErrorOptions } from "./src/native/errors.ts";
export { Device } from "./src/device/device.ts";
export { deviceCount, openDevice } from "./src/device/open.ts";
export type { CallOptions, Plan, QueueProgress } from "./src/device/device.ts";
export type { DeviceInfo, DeviceKind, Isa } from "./src/device/info.ts";
export type { DeviceOptions } from "./src/device/open.ts";
export { Tensor } from "./src/device/tensor.ts";
export type { HostArray, ViewOptions } from "./src/device/tensor.ts";
export type { Ref, View } from "./src/native/structs.ts";
export type { DType, FloatDType, QuantisedDType } from "./src/device/dtype.ts";
export {
  attention,
  buildIndex,
  estimate,
  readIndex,
  sparseAttention,
  SparseIndex,
} from "./src/attention/attention.ts";
export type {
  AttentionOptions,
  AttentionResult,
  BuildIndexOptions,
  EstimateResult,
  SequenceLengths,
  ShapeOptions,
  SparseAttentionOptions,
} from "./src/attention/attention.ts";
export { DEFAULT_GUARD } from "./src/attention/guard.ts";
export type { Guard, GuardOption } from "./src/attention/guard.ts";
export { DEFAULT_PATTERN } from "./src/attention/patterns.ts";
export type {
  AShapePattern,
  BlockSparsePattern,
  DensePattern,
  HeadPattern,
  VerticalSlashPattern,
} from "./src/attention/patterns.ts";
export type { LayerEstimate, ReviseEstimate } from "./src/attention/revise.ts";
export type { Band, HeadList } from "./src/attention/work_list.ts";
export type { HeadStats, Retained } from "./src/attention/stats.ts";
export { loadModel, Model } from "./src/model/model.ts";
export type { LoadOptions, SessionOptions } from "./src/model/model.ts";
export type { PatternChoice } from "./src/model/pattern_choice.ts";
export { PUBLISHED_MODELS } from "./src/model/published_patterns.ts";
export { Session } from "./src/model/session.ts";
export type { PrefillOptions, PrefillResult } from "./src/model/prefill.ts";
export { Generation } from "./src/model/generation.ts";
export type {
  FinishReason,
  GenerateOptions,
  GenerationStats,
  SamplingOptions,
  TokenChunk,
} from "./src/model/generation.ts";
export { openCheckpoint } from "./src/model/checkpoint.ts";
export type { Checkpoint, SpecialTokens } from "./src/model/checkpoint.ts";
export type { JsonObject } from "./src/model/file.ts";
export type { ModelConfig } from "./src/model/config.ts";
export type { RopeConfig, RopeScaling } from "./src/model/rope.ts";
export type { TensorSource, WeightDType } from "./src/model/weight_types.ts";
export { Tokenizer } from "./src/model/tokenizer.ts";
export type {
  DecodeOptions,
  EncodeAsyncOptions,
  EncodeOptions,
  TokenizerSource,
} from "./src/model/tokenizer.ts";
export { Detokenizer } from "./src/model/detokenizer.ts";
export type { ChatMessage } from "./src/model/chat.ts";
export type { KvDType, KvPlace } from "./src/model/kv_shape.ts";
export type { WeightFormat } from "./src/model/parameters.ts";
export type { MemoryPlan } from "./src/model/memory.ts";
export type { OnProgress, Progress } from "./src/model/progress.ts";
