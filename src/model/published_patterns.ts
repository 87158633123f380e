/**
 * Pattern files that the authors of MInference publish: which model has one, and where.
 *
 * @module
 */
import { MInferenceError } from "../native/errors.ts";

/** A commit, so that a model's patterns never change underneath it. */
const FOLDER = "https://raw.githubusercontent.com/microsoft/MInference/" +
  "fb56c917f618e8645f1cfc37535afd7424d78f0d/minference/configs/";

/** Ending of the files that the search of the paper wrote. */
const BEST = "kv_out_v32_fit_o_best_pattern";

const LLAMA_3_8B = `Llama_3_8B_Instruct_262k_${BEST}.json`;
const LLAMA_3_70B = `Llama_3_70B_Instruct_262k_${BEST}.json`;
const LLAMA_31_8B = `Llama_3.1_8B_Instruct_128k_${BEST}_v2.json`;
const LLAMA_31_70B = `Llama_3.1_70B_Instruct_128k_${BEST}_v2.json`;

/** File of each model, by its id on Hugging Face. Models of one shape and origin share a file. */
const FILES: Readonly<Record<string, string>> = {
  "gradientai/Llama-3-8B-Instruct-262k": LLAMA_3_8B,
  "gradientai/Llama-3-8B-Instruct-Gradient-1048k": LLAMA_3_8B,
  "gradientai/Llama-3-8B-Instruct-Gradient-4194k": LLAMA_3_8B,
  "gradientai/Llama-3-70B-Instruct-Gradient-262k": LLAMA_3_70B,
  "gradientai/Llama-3-70B-Instruct-Gradient-1048k": LLAMA_3_70B,
  "meta-llama/Meta-Llama-3.1-8B-Instruct": LLAMA_31_8B,
  "meta-llama/Llama-3.1-8B-Instruct": LLAMA_31_8B,
  "meta-llama/Meta-Llama-3.1-70B-Instruct": LLAMA_31_70B,
  "meta-llama/Llama-3.1-70B-Instruct": LLAMA_31_70B,
  "01-ai/Yi-9B-200K": `Yi_9B_200k_${BEST}.json`,
  "THUDM/glm-4-9b-chat-1m": `GLM_4_9B_1M_instruct_${BEST}.json`,
  "microsoft/Phi-3-mini-128k-instruct": `Phi_3_mini_128k_instruct_${BEST}.json`,
  "Qwen/Qwen2-7B-Instruct": `Qwen2_7B_Instruct_128k_instruct_${BEST}.json`,
  "Qwen/Qwen2.5-7B-Instruct": `Qwen2.5_7B_Instruct_128k_instruct_${BEST}.json`,
  "Qwen/Qwen2.5-7B-Instruct-1M": "Qwen2.5_7B_Instruct_1M.json",
  "Qwen/Qwen2.5-14B-Instruct-1M": "Qwen2.5_14B_Instruct_1M.json",
  "Qwen/Qwen2.5-32B-Instruct": `Qwen2.5_32B_Instruct_128k_${BEST}.json`,
  "Qwen/Qwen2.5-72B-Instruct": `Qwen2.5_72B_Instruct_128k_${BEST}.json`,
};

/** Ids of the models that have a published pattern file. */
export const PUBLISHED_MODELS: readonly string[] = Object.keys(FILES);

/** Letters and digits of an id's last part, which is what directories and GGUF files keep of it. */
function nameOf(id: string): string {
  return id.slice(id.lastIndexOf("/") + 1).toLowerCase().replace(/[^a-z0-9]/g, "");
}

/**
 * The published pattern file of a model.
 *
 * @param names Ids, names or paths of one model, the first known one counts. Their last parts are compared with those
 * of {@linkcode PUBLISHED_MODELS}, without case and punctuation.
 * @returns Its address.
 * @throws {MInferenceError} `INVALID_ARGUMENT` listing the known ids.
 */
export function publishedPatterns(...names: readonly string[]): URL {
  for (const name of names) {
    const id = PUBLISHED_MODELS.find((known) => nameOf(known) === nameOf(name));
    if (id !== undefined) return new URL(FILES[id], FOLDER);
  }
  throw new MInferenceError(
    "INVALID_ARGUMENT",
    `no published patterns of ${names.join(" or ")}; there are some of ${
      PUBLISHED_MODELS.join(", ")
    }`,
    { details: { names, known: PUBLISHED_MODELS } },
  );
}
