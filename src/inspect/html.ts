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

/**
 * Makes the page.
 *
 * @param data What it shows.
 * @returns HTML with style, script and data inline; its policy forbids the browser to load anything.
 * @throws {MInferenceError} As {@linkcode bundle}.
 */
export async function makePage(data: PageData): Promise<string> {
  const style = await bundle("./page/page.css");
  const script = await bundle("./page/main.ts");
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
