/**
 * How busy the machine was while something was timed, read from /proc.
 *
 * @module
 */

/** How undisturbed a reading was. */
export interface Load {
  /** Processor seconds of this process, all threads. */
  readonly ownCpu: number;
  /** Fraction of the machine's processor time that went elsewhere: other processes, the hypervisor. */
  readonly disturbance: number;
}

/**
 * A reading with a higher disturbance is set aside. A disturbed peer would look slow: its threads wait for
 * each other in spinning loops.
 */
export const DISTURBED_ABOVE = 0.05;

const TICKS_PER_SECOND = 100; // USER_HZ, the unit of /proc on every Linux architecture

/** Processor time since start, in ticks: of this process, and of the machine by what it went to. */
function ticks(): { own: number; busy: number; stolen: number } {
  const self = Deno.readTextFileSync("/proc/self/stat");
  const [utime, stime] = self.slice(self.lastIndexOf(")") + 2).split(" ").slice(11, 13);
  const [user, nice, system, , , irq, softirq, steal] = Deno.readTextFileSync("/proc/stat")
    .split("\n")[0].split(/\s+/).slice(1).map(Number);
  return {
    own: Number(utime) + Number(stime),
    busy: user + nice + system + irq + softirq,
    stolen: steal,
  };
}

/** Runs `body` and reports how much processor time the machine gave to others meanwhile. */
export async function underLoad<T>(body: () => Promise<T>): Promise<T & Load> {
  const before = ticks();
  const start = performance.now();
  const result = await body();
  const seconds = (performance.now() - start) / 1000;
  const after = ticks();
  const own = after.own - before.own;
  const elsewhere = after.busy - before.busy - own + after.stolen - before.stolen;
  const capacity = seconds * TICKS_PER_SECOND * navigator.hardwareConcurrency;
  return {
    ...result,
    ownCpu: own / TICKS_PER_SECOND,
    disturbance: Math.max(0, elsewhere / capacity),
  };
}

/** Waits until the machine is idle for a second, at most `seconds`. */
export async function waitForQuiet(seconds: number): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const second = (): Promise<object> => new Promise((done) => setTimeout(done, 1000, {}));
    if ((await underLoad(second)).disturbance <= DISTURBED_ABOVE) return;
  }
}

/** The undisturbed readings. */
export function undisturbed<T extends Load>(readings: readonly T[]): readonly T[] {
  return readings.filter(({ disturbance }) => disturbance <= DISTURBED_ABOVE);
}

/** The undisturbed readings, or all where none is. */
export function quiet<T extends Load>(readings: readonly T[]): readonly T[] {
  const kept = undisturbed(readings);
  return kept.length > 0 ? kept : readings;
}

/** Peak resident set of this process, bytes. */
export function peakResident(): number {
  const kib = /VmHWM:\s*(\d+) kB/.exec(Deno.readTextFileSync("/proc/self/status"))?.[1];
  return Number(kib ?? 0) * 1024;
}
