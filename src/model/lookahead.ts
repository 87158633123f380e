/**
 * Queueing ahead of a device, but not far.
 *
 * @module
 */
import type { CallOptions, Device } from "../device/device.ts";

/**
 * Keeps one step of work queued behind the step that runs: the device never waits for the next step to be
 * queued, and an abort drops one step at most beside the running operation.
 */
export class Lookahead {
  #queued: Promise<void> = Promise.resolve();

  /**
   * @param device Where the steps are queued.
   * @param options Signal that stops them.
   */
  constructor(readonly device: Device, readonly options: CallOptions) {}

  /**
   * Ends a step; returns when the step before it has run.
   *
   * @throws As {@linkcode Device.sync}; nothing is queued then.
   */
  async step(): Promise<void> {
    const before = this.#queued;
    this.#queued = this.device.sync(this.options);
    this.#queued.catch(() => {}); // whoever waits for this step gets its failure
    try {
      await before;
    } catch (error) {
      await Promise.allSettled([this.#queued]);
      throw error;
    }
  }

  /** Ends the last step; returns when everything has run. */
  async finish(): Promise<void> {
    await this.step();
    await this.#queued;
  }
}
