/// <reference lib="dom" />
// The page of needle-27m's patterns, looked at in a real browser.
import assert from "node:assert/strict";
import { type Browser, launch, type Page } from "puppeteer-core";
import { minference, MODEL, ROOT } from "../cli/support.ts";
import { temporaryDirectory } from "../model/support.ts";
import { findChromium } from "./browser.ts";

const chromium = findChromium();
const name = chromium === undefined
  ? "page: skipped, no Chromium on the PATH and no CHROMIUM"
  : "page: maps, pictures and curve are there, and nothing is loaded or logged";

/** Opens a page; what it logs or asks for beside itself lands in `complaints`. */
async function open(browser: Browser, url: string, complaints: string[]): Promise<Page> {
  const page = await browser.newPage();
  await page.setViewport({ width: 1160, height: 900 });
  page.on("console", (message) => complaints.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (request.url() !== url && !request.url().startsWith("data:")) {
      complaints.push(`request: ${request.url()}`);
    }
  });
  await page.goto(url);
  return page;
}

/** Sizes on the screen of all elements that a selector names. */
async function sizes(page: Page, selector: string): Promise<[width: number, height: number][]> {
  return await page.$$eval(selector, (all) =>
    all.map((element) => {
      const { width, height } = element.getBoundingClientRect();
      return [width, height] as [number, number];
    }));
}

/** Colours of a picture, decoded by the browser: how many, and the share of the most frequent. */
async function colors(browser: Browser, png: string): Promise<{ count: number; most: number }> {
  const page = await browser.newPage();
  const found = await page.evaluate(async (png) => {
    const image = new Image();
    image.src = `data:image/png;base64,${png}`;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d")!;
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    const counts = new Map<number, number>();
    for (const color of new Uint32Array(data.buffer)) {
      counts.set(color, (counts.get(color) ?? 0) + 1);
    }
    return { count: counts.size, most: Math.max(...counts.values()) / (data.length / 4) };
  }, png);
  await page.close();
  return found;
}

Deno.test({ name, ignore: chromium === undefined }, async () => {
  using folder = temporaryDirectory();
  const path = `${folder.path}/page.html`;
  const args = ["inspect", MODEL, "--patterns", "--html", path, "--tokens", "2k", "--json"];
  const made = await minference([...args, "-f", `${MODEL}/haystack.txt`]);
  assert.equal(made.code, 0, made.stderr);
  const { sample } = JSON.parse(made.stdout);
  assert.deepEqual([sample.name, sample.tokens], ["the beginning of haystack.txt", 2048]);

  // Its pages are ours alone, and containers seldom allow the browser a sandbox.
  const browser = await launch({ executablePath: chromium, args: ["--no-sandbox"] });
  try {
    const complaints: string[] = [];
    const page = await open(browser, `file://${path}`, complaints);
    assert.equal(await page.title(), "Sparse patterns of needle-27m");
    assert.match(
      await page.$eval("header", ({ textContent }) => textContent ?? ""),
      /8 layers of 8 heads · minference-patterns\.json.*2,048 tokens, the beginning of haystack/,
    );

    const maps = await sizes(page, ".maps svg");
    assert.equal(maps.length, 4);
    for (const [width, height] of maps) assert.ok(width > 350 && height > 200, `${maps}`);
    const cells = await page.$$eval(
      ".maps svg",
      (all) => all.map((svg) => svg.querySelectorAll("[aria-label=cell] rect").length),
    );
    assert.deepEqual(cells, [64, 64, 64, 64]);

    const pictures = await sizes(page, ".pairs canvas");
    assert.ok(pictures.length >= 2 * 3, "most and least dense, and the densest of each method");
    for (const [width, height] of pictures) {
      assert.ok(width > 150 && Math.abs(width - height) < 4, `${width} x ${height}`);
    }

    const curve = "section:last-of-type svg[role=img]";
    assert.equal((await sizes(page, curve)).length, 1);
    const [[width, height]] = await sizes(page, curve);
    assert.ok(width > 800 && height > 300, `${width} x ${height}`);
    const paths = `${curve} [aria-label=line] path`;
    assert.equal((await page.$$(paths)).length, 6, "five methods and the oracle");

    const png = await page.screenshot({ fullPage: true, encoding: "base64" });
    const { count, most } = await colors(browser, png);
    assert.ok(count > 200 && most < 0.8, `${count} colours, ${most} of one`);
    // To be looked at: the build folder is nobody's source.
    await Deno.writeFile(`${ROOT}build/patterns-page.png`, Uint8Array.fromBase64(png));

    const line = await page.$eval(paths, (path) => path.getAttribute("d"));
    const target = (await page.$$(".maps svg"))[2];
    const { x, y, width: w } = (await target.boundingBox())!;
    await page.mouse.move(x + w - 20, y + 12);
    await page.mouse.click(x + w - 20, y + 12);
    assert.equal(await page.$eval("select", (choice) => choice.value), "7", "layer 0, head 7");
    assert.notEqual(await page.$eval(paths, (path) => path.getAttribute("d")), line);

    const densities = (): Promise<string | null> =>
      page.$$eval(".maps svg", (all) => all[2].textContent);
    const searched = await densities();
    await page.click(".choice label:last-child input");
    assert.notEqual(await densities(), searched);
    assert.deepEqual(complaints, []);
  } finally {
    await browser.close();
  }
});
