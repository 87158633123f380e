/**
 * Reading a work list back from the device: what each head will compute, cell by cell. The layout is that of
 * cuda/index/work_list.h.
 *
 * @module
 */
import type { Tensor } from "../device/tensor.ts";
import { PATTERN_KINDS } from "../native/params.ts";
import type { HeadPattern } from "./patterns.ts";
import type { SequenceShape } from "./sequence.ts";

/** A work list in device memory. */
export interface WorkList {
  /** u8, as long as the list or longer. */
  readonly memory: Tensor;
  /** Bytes of the list. */
  readonly bytes: number;
}

/** Keys [end - far, end - near) of every row block, `end` being the position after the block's last row. */
export interface Band {
  /** Nearest distance from the block's end. */
  readonly near: number;
  /** Farthest distance, exclusive. */
  readonly far: number;
}

/** The decoded list of one query head. */
export interface HeadList {
  /** Pattern the head was given. */
  readonly kind: HeadPattern["kind"];
  /** A-shape: keys at the start. */
  readonly sink: number;
  /** A-shape: most recent keys. */
  readonly local: number;
  /** Vertical-slash: bands, nearest first. */
  readonly bands: readonly Band[];
  /** Vertical-slash: columns, ascending. */
  readonly columns: readonly number[];
  /** Vertical-slash: columns that row block m needs beside its bands. */
  columnsOf(block: number): number[];
  /** Block-sparse: key blocks of row block m, ascending. */
  blocksOf(block: number): number[];
}

const HEAD_BYTES = 64;

/**
 * Reads a work list, after the work queued so far.
 *
 * @param list From {@linkcode enqueueIndex}.
 * @param shape The sequence it was built for.
 * @returns One list per query head.
 */
export async function readWorkList(list: WorkList, shape: SequenceShape): Promise<HeadList[]> {
  return decode(await list.memory.readBytes(0, list.bytes), shape);
}

function decode(bytes: Uint8Array<ArrayBuffer>, shape: SequenceShape): HeadList[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u32 = (at: number): number => view.getUint32(at, true);
  const rowBlocks = Math.ceil(shape.qLen / 64);
  return Array.from({ length: shape.qHeads }, (_, head) => {
    const at = head * HEAD_BYTES;
    const [bandCount, columnCount, words, sink, local, stride] = [4, 8, 12, 16, 20, 24].map((o) =>
      u32(at + o)
    );
    const [bands, columns, coverage, blocks] = [32, 40, 48, 56].map((o) =>
      Number(view.getBigUint64(at + o, true))
    );
    const kind = PATTERN_KINDS[u32(at)];
    const slashes = kind === "vertical_slash";
    const columnList = Array.from(
      { length: slashes ? columnCount : 0 },
      (_, c) => u32(columns + 4 * c),
    );
    return {
      kind,
      sink,
      local,
      bands: Array.from({ length: slashes ? bandCount : 0 }, (_, b) => ({
        near: u32(bands + 8 * b),
        far: u32(bands + 8 * b + 4),
      })),
      columns: columnList,
      columnsOf: (block) =>
        columnList.filter((_, c) =>
          u32(coverage + 4 * (block * words + (c >> 5))) >>> (c & 31) & 1
        ),
      blocksOf: (block) =>
        Array.from(
          { length: u32(blocks + 4 * block) },
          (_, i) => u32(blocks + 4 * (rowBlocks + block * stride + i)),
        ),
    };
  });
}

/**
 * How often the list visits each key for one query row: 0 or 1 everywhere for a well-formed list.
 *
 * @param list One head.
 * @param shape The sequence.
 * @param row Query row.
 * @returns Visits by key, [kvLen].
 */
export function visits(list: HeadList, shape: SequenceShape, row: number): Uint8Array {
  const { qLen, kvLen } = shape;
  const position = kvLen - qLen + row;
  const block = Math.floor(row / 64);
  const end = kvLen - qLen + 64 * (block + 1);
  const count = new Uint8Array(kvLen);
  const range = (from: number, to: number): void => {
    for (let key = Math.max(0, from); key < Math.min(to, position + 1, kvLen); key++) count[key]++;
  };
  switch (list.kind) {
    case "dense":
      range(0, kvLen);
      break;
    case "a_shape":
      range(0, Math.min(list.sink, position - list.local + 1));
      range(position - list.local + 1, kvLen);
      break;
    case "vertical_slash":
      for (const { near, far } of list.bands) range(end - far, end - near);
      for (const key of list.columnsOf(block)) count[key]++; // never masked: a later one is an error
      break;
    case "block_sparse":
      for (const b of list.blocksOf(block)) range(64 * b, 64 * b + 64);
  }
  return count;
}
