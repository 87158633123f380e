// Puts the answers under docs/bench and their table into the README.
import { fileURLToPath } from "node:url";
import { type Journal, writeJournal } from "./journal.ts";
import { tables } from "./report.ts";

const README = new URL("../../README.md", import.meta.url);
const BENCH = new URL("../../docs/bench/", import.meta.url);
const MARKS = ["<!-- accuracy: made by deno task accuracy -->", "<!-- accuracy: end -->"] as const;

/** Replaces what stands between two marks. */
export function replaceBetween(
  text: string,
  [first, last]: readonly [string, string],
  content: string,
): string {
  const start = text.indexOf(first);
  const end = text.indexOf(last, start);
  if (start < 0 || end < 0) throw new Error(`no "${first}" with "${last}" after it`);
  return `${text.slice(0, start + first.length)}\n\n${content}\n\n${text.slice(end)}`;
}

/** Writes both files. */
export async function publish(journal: Journal): Promise<void> {
  const name = `accuracy-${new Date().toISOString().slice(0, 10)}.jsonl`;
  await writeJournal(fileURLToPath(new URL(name, BENCH)), journal);
  const { device } = journal.header;
  const caption = `On ${device}; a cell is right · followed ([answers](docs/bench/${name})).`;
  const readme = await Deno.readTextFile(README);
  const content = `${tables(journal.answers)}\n\n${caption}`;
  await Deno.writeTextFile(README, replaceBetween(readme, MARKS, content));
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--quiet", fileURLToPath(README)],
  }).output();
  if (!success) throw new Error("deno fmt README.md failed");
}
