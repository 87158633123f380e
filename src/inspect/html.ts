/**
 * The page as one file that needs nothing else.
 *
 * @module
 */
import { bundle } from "./bundle.ts";
import type { PageData } from "./page_data.ts";

function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

/** What every page has in it. */
export interface PageAssets {
  /** CSS. */
  readonly style: string;
  /** JavaScript. */
  readonly script: string;
}

/**
 * Bundles what every page has in it.
 *
 * @throws {MInferenceError} As {@linkcode bundle}.
 */
export async function bundlePage(): Promise<PageAssets> {
  return { style: await bundle("./page/page.css"), script: await bundle("./page/main.ts") };
}

/**
 * Makes the page.
 *
 * @param data What it shows.
 * @param assets What every page has in it.
 * @returns HTML with style, script and data inline; its policy forbids the browser to load anything.
 */
export function makePage(data: PageData, { style, script }: PageAssets): string {
  const json = JSON.stringify(data).replaceAll("<", "\\u003c");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>Sparse patterns of ${escapeHtml(data.modelName)}</title>
<style>${style}</style>
</head>
<body>
<main></main>
<script type="application/json" id="data">${json}</script>
<script>${script.replaceAll("</script", "<\\/script")}</script>
</body>
</html>
`;
}
