/**
 * How fast weights come from a file to a device, beside reading that file into memory.
 *
 * @module
 */
import { join } from "node:path";
import { median } from "../../src/cli/format.ts";
import type { Device } from "../../src/device/device.ts";
import { byteLength } from "../../src/device/dtype.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { loadParameters } from "../../src/model/parameters.ts";
import { weightSpecs } from "../../src/model/weights.ts";
import type { LoadRow } from "./e2e_results.ts";

const ROUNDS = 3;
const PIECE = 64 << 20;

/** config.json of a plain Llama of this shape. */
function huggingFaceConfig(config: ModelConfig): Record<string, unknown> {
  return {
    model_type: "llama",
    hidden_size: config.hiddenSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    intermediate_size: config.intermediateSize,
    vocab_size: config.vocabSize,
    max_position_embeddings: config.maxPositions,
    rms_norm_eps: config.normEps,
    rope_theta: config.rope.theta,
    tie_word_embeddings: config.tieEmbeddings,
  };
}

/** Writes a checkpoint of bf16 noise; returns the path of its weights. */
async function writeCheckpoint(folder: string, config: ModelConfig): Promise<string> {
  let end = 0;
  const header = Object.fromEntries(
    Array.from(weightSpecs(config), ({ hf, shape }) => {
      const begin = end;
      end += byteLength("bf16", shape.reduce((a, b) => a * b));
      return [hf, { dtype: "BF16", shape, data_offsets: [begin, end] }];
    }),
  );
  const text = new TextEncoder().encode(JSON.stringify(header));
  const size = new BigUint64Array([BigInt(text.length)]);
  const piece = new Uint8Array(PIECE);
  for (let at = 0; at < PIECE; at += 1 << 16) {
    crypto.getRandomValues(piece.subarray(at, at + (1 << 16)));
  }
  const path = join(folder, "model.safetensors");
  await Deno.writeTextFile(
    join(folder, "config.json"),
    JSON.stringify(huggingFaceConfig(config)),
  );
  using file = await Deno.open(path, { write: true, create: true });
  const write = async (bytes: Uint8Array): Promise<void> => {
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
  };
  await write(new Uint8Array(size.buffer));
  await write(text);
  for (let left = end; left > 0; left -= PIECE) await write(piece.subarray(0, left));
  await file.sync(); // writing it back is over before anything is timed
  return path;
}

/** Reads a file into one new buffer. */
async function readWhole(path: string): Promise<void> {
  using file = await Deno.open(path);
  const bytes = new Uint8Array((await file.stat()).size);
  for (let at = 0; at < bytes.length;) {
    const got = await file.read(bytes.subarray(at));
    if (got === null) throw new Error(`${path} ended after ${at} bytes`);
    at += got;
  }
}

async function timed(body: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await body();
  return performance.now() - start;
}

/** Writes weights of this shape to a temporary file, which the page cache then holds, and times both. */
export async function measureLoad(device: Device, config: ModelConfig): Promise<LoadRow> {
  const folder = await Deno.makeTempDir();
  try {
    const path = await writeCheckpoint(folder, config);
    const checkpoint = await openCheckpoint(folder);
    const [loads, reads]: [number[], number[]] = [[], []];
    for (let round = 0; round <= ROUNDS; round++) {
      const readMs = await timed(() => readWhole(path));
      const loadMs = await timed(async () => {
        using _parameters = await loadParameters(device, checkpoint);
      });
      if (round === 0) continue; // warms the machine up: a virtual one gets its memory when it is first used
      reads.push(readMs);
      loads.push(loadMs);
    }
    const { size: bytes } = await Deno.stat(path);
    return { bytes, loadMs: median(loads), readMs: median(reads), loads, reads };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
