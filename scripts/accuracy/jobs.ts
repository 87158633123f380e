// Several jobs on one device: while one makes tokens, others compute.
import type { Answer } from "./journal.ts";
import type { Report, Setup, Work } from "./worker.ts";

/**
 * Runs work in `jobs` workers of this process, which share the GPU's context; each takes the next piece when it is free.
 *
 * @param onAnswer Called with each answer as it comes.
 * @throws {Error} What a worker failed with.
 */
export async function runJobs(
  setup: Setup,
  jobs: number,
  work: readonly Work[],
  onAnswer: (answer: Answer) => void,
): Promise<void> {
  const left = [...work];
  const runJob = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
      worker.addEventListener("error", (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      });
      worker.addEventListener("message", ({ data }: MessageEvent<Report>) => {
        if (data === "next") worker.postMessage(left.shift() ?? null);
        else if (data === "end") resolve();
        else onAnswer(data.answer);
      });
      worker.postMessage(setup);
    });
  await Promise.all(Array.from({ length: Math.min(jobs, work.length) }, runJob));
}
