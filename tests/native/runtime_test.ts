import assert from "node:assert/strict";
import { checkDeno } from "../../src/native/runtime.ts";
import { failure } from "../support.ts";

Deno.test("a Deno too old for native calls is refused with both versions", async () => {
  checkDeno();
  for (const version of ["2.7.6", "2.7.10", "2.10.0", "3.0.0-rc.1", "2.9.6+1234567"]) {
    checkDeno(version);
  }
  for (const version of ["2.7.5", "2.6.99", "1.46.3"]) {
    const { code, details } = await failure(() => checkDeno(version));
    assert.equal(code, "UNSUPPORTED");
    assert.deepEqual(details, { found: version, oldest: "2.7.6" });
  }
});
