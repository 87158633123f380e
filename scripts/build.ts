// Builds build/libminference.so of this checkout. `--quiet` prints nothing where all is up to date.
import { build } from "../src/cli/build.ts";
import { runCommand } from "../src/cli/command.ts";

Deno.exit(await runCommand(build, Deno.args));
