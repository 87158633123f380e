// A number hidden in the novel, and the question for it.
import { device } from "../support.ts";
import { NEEDLE } from "./support.ts";

/** The novel, without its title. */
export const novel: string = (await Deno.readTextFile(new URL("haystack.txt", NEEDLE))).slice(2000);

/** What takes long enough to read, densely, to be interrupted. */
export const longRead: string = device.kind === "cuda" ? novel : novel.slice(0, 60_000);

/** Asks for the number of `name`, as the prompts do that hide one. */
export function question(name: string): string {
  return `\nWhat is the special magic number for ${name} mentioned in the provided text? ` +
    `The special magic number for ${name} mentioned in the provided text is`;
}

/** So many characters of the novel with the number of `name` a third in, and the question. */
export function needlePrompt(characters: number, name: string, value: string): string {
  const middle = novel.indexOf(" ", characters / 3);
  const needle = ` One of the special magic numbers for ${name} is: ${value}. `;
  return novel.slice(0, middle) + needle + novel.slice(middle, characters) + question(name);
}
