// The page as a file: whole, and safe from what names it carries.
import assert from "node:assert/strict";
import { bundlePage, makePage } from "../../src/inspect/html.ts";
import type { PageData } from "../../src/inspect/page_data.ts";

const HOSTILE = "</script><script>alert(1)</script><!-- & \u2028";

const DATA: PageData = {
  modelName: HOSTILE,
  file: HOSTILE,
  layers: [[{ pattern: { kind: "dense" } }]],
  sample: {
    name: HOSTILE,
    tokens: 4096,
    layers: [[{ density: 1, recall: 1 }]],
    curves: [],
    thumbnails: [],
  },
};

Deno.test("the page is one file, and names in it end no script", async () => {
  const html = makePage(DATA, await bundlePage());
  assert.equal(html.match(/<script/g)?.length, 2);
  assert.equal(html.match(/<\/script/g)?.length, 2);
  const [, json] = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(html)!;
  assert.deepEqual(JSON.parse(json), DATA);
  assert.match(html, /Content-Security-Policy" content="default-src 'none'/);
  assert.doesNotMatch(html, /<link|<img|<iframe|\bsrc=|@import|\bimport\(/);
});
