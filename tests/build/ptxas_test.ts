// What ptxas said of the Hopper kernels when this tree was built: a spill or a serialised wgmma is a silent loss of
// half the speed.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { names } from "./support.ts";

const OBJECTS = fileURLToPath(new URL("../../build/obj", import.meta.url));
const LOG = /^[\w-]+_sm90\.cu\.\w+\.o\.log$/;

function hopperLogs(): string[] {
  try {
    return names(OBJECTS).filter((name) => LOG.test(name));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return []; // MINFERENCE_LIB names a library built elsewhere
    throw error;
  }
}

const logs = hopperLogs();

Deno.test("sm_90a kernels: no spills, no serialised wgmma", { ignore: logs.length === 0 }, () => {
  for (const name of logs) {
    const text = Deno.readTextFileSync(`${OBJECTS}/${name}`);
    const spills = [...text.matchAll(/(\d+) bytes spill stores, (\d+) bytes spill loads/g)];
    assert.ok(spills.length > 0, `${name}: no kernel compiled`);
    for (const [line, stores, loads] of spills) {
      assert.equal(Number(stores) + Number(loads), 0, `${name}: ${line}`);
    }
    assert.doesNotMatch(text, /C75\d\d/, name);
  }
});
