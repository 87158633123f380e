// The CUDA kernels, run on the CPU: what is tested on every machine of what a GPU computes. Order of threads, arrival of
// copies and the moment of products are drawn anew each time, within what CUDA promises.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { buildEmulated } from "./build.ts";
import { translate } from "./translate.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const onLinuxX64 = Deno.build.os === "linux" && Deno.build.arch === "x86_64";

async function runSuite(files: readonly string[], env: Record<string, string>): Promise<void> {
  const library = await buildEmulated();
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", ...files],
    cwd: root,
    env: {
      MINFERENCE_LIB: library,
      MINFERENCE_CUBLASLT: library,
      MINFERENCE_DEVICE: "cuda",
      NO_COLOR: "1",
      ...env,
    },
  }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.ok(success, text);
  assert.match(text, /emulated GPU, MINFERENCE_EMULATOR_SEED=\d+/); // it did run there
}

const ATTENTION = "tests/attention/attention_test.ts";
const suites: Record<string, () => Promise<void>> = {
  "attention, the Hopper kernel": () => runSuite([ATTENTION], {}),
  "attention, the portable kernel": () => runSuite([ATTENTION], { MINFERENCE_SM80: "1" }),
  "index and guard": () =>
    runSuite(["tests/attention/index_test.ts", "tests/attention/guard_test.ts"], {}),
  "estimate, the portable kernels": () =>
    runSuite(["tests/attention/index_test.ts", "--filter", "estimate"], { MINFERENCE_SM80: "1" }),
  "KV caches": () =>
    runSuite([
      "tests/model/kv_quantise_test.ts",
      "tests/model/kv_cache_test.ts",
      "tests/model/memory_test.ts",
    ], {}),
  "KV caches in host memory": () => runSuite(["tests/model/kv_offload_test.ts"], {}),
  "fp8 weights": () =>
    runSuite(["tests/model/linear_fp8_test.ts", "tests/model/weights_fp8_test.ts"], {}),
  "linear layers of a few rows": () => runSuite(["tests/model/linear_few_test.ts"], {}),
  "fp8 weights without vectors of scales": () =>
    runSuite(["tests/model/linear_fp8_test.ts"], { MINFERENCE_EMULATED_CUBLASLT: "12.8" }),
  "device and every model architecture": () =>
    runSuite(["tests/device", "tests/model/architectures_test.ts"], {}),
  "generation": () => runSuite(["tests/model/generation_test.ts"], {}),
};

for (const [name, fn] of Object.entries(suites)) {
  Deno.test({ name: `on an emulated GPU: ${name}`, ignore: !onLinuxX64, fn });
}

Deno.test("launches and shared arrays become C++", () => {
  assert.equal(
    translate("extern __shared__ __align__(128) char shared[];"),
    "char* const shared = reinterpret_cast<char*>(emu::dynamic_shared());",
  );
  assert.equal(
    translate("step<T, 8><<<dim3(a, b), kThreads, bytes, launch.stream>>>(x, f(y));"),
    "emu::launch_on(dim3(a, b), kThreads, bytes, launch.stream, [=] { step<T, 8>(x, f(y)); });",
  );
});
