/**
 * Times of operations on a GPU: the device's own, of several runs after a warm-up.
 *
 * @module
 */
import { median } from "../../src/cli/format.ts";
import type { Device } from "../../src/device/device.ts";

/** Median, range and, where the work is known, the rate. */
export interface Summary {
  /** Median, milliseconds. */
  readonly ms: number;
  /** Least. */
  readonly min: number;
  /** Most. */
  readonly max: number;
  /** Readings taken. */
  readonly readings: number;
  /** 10^12 floating-point operations a second. */
  readonly tflops?: number;
}

/** Milliseconds by operation. */
export type Timings = Record<string, number>;

/** Of all operations. */
export const total = (one: Timings): number => Object.values(one).reduce((a, b) => a + b, 0);

/** Milliseconds by operation of each of several runs of some bodies, [body][run]; they run in turns. */
export async function readingsInTurns(
  device: Device,
  bodies: readonly (() => void)[],
): Promise<Timings[][]> {
  const once = async (body: () => void): Promise<Timings> => {
    device.timings();
    body();
    await device.sync();
    return device.timings();
  };
  let longest = 0;
  for (const body of bodies) {
    let first = await once(body);
    if (total(first) < 2000) { for (let i = 0; i < 2; i++) first = await once(body); }
    longest = Math.max(longest, total(first));
  }
  const count = Math.max(3, Math.min(20, Math.floor(400 / longest)));
  const all: Timings[][] = bodies.map(() => []);
  for (let i = 0; i < count; i++) {
    for (const [n, body] of bodies.entries()) all[n].push(await once(body));
  }
  return all;
}

/** Milliseconds by operation of each of several runs of `body`. */
export async function readings(device: Device, body: () => void): Promise<Timings[]> {
  return (await readingsInTurns(device, [body]))[0];
}

/** Of an operation that takes `flop` floating-point operations. */
export function summary(times: readonly number[], flop?: number): Summary {
  const ms = median(times);
  return {
    ms,
    min: Math.min(...times),
    max: Math.max(...times),
    readings: times.length,
    ...(flop === undefined ? {} : { tflops: flop / ms * 1e-9 }),
  };
}

/** An operation's milliseconds in each run. */
export const column = (all: readonly Timings[], name: string): number[] =>
  all.map((one) => one[name] ?? 0);

/** In words. */
export function describe({ ms, tflops }: Summary): string {
  return `${ms.toFixed(3)} ms${tflops === undefined ? "" : `, ${tflops.toFixed(0)} TFLOP/s`}`;
}
