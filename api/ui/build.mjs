/** Bundle the page into `bundle`. The same sources and packages give the same bytes.
 *
 * A view that is imported by `import()` becomes a file of its own, which is loaded when it is shown first. The name
 * of such a file ends with a hash of its content, so that a page never loads the file of another version.
 * `python -m noetl.infra.fonts` makes the fonts.
 */

import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { brotliCompressSync } from "node:zlib";
import { build } from "esbuild";

const out = process.argv[2] ?? "bundle";
const FONTS = ["inter.woff2", "jetbrains-mono.woff2"];
const PACKAGES = [
  "preact",
  "@codemirror/autocomplete",
  "@codemirror/commands",
  "@codemirror/lang-yaml",
  "@codemirror/language",
  "@codemirror/search",
  "@codemirror/state",
  "@codemirror/view",
  "@lezer/common",
  "@lezer/highlight",
  "@lezer/lr",
  "@lezer/yaml",
  "@marijn/find-cluster-break",
  "crelt",
  "diff",
  "style-mod",
  "w3c-keyname",
  "@fontsource-variable/inter",
  "@fontsource/jetbrains-mono",
];

mkdirSync(out, { recursive: true });
await build({
  entryPoints: { app: "source/main.tsx", page: "source/page.css" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  splitting: true,
  // The folder of the packages is a link. Its place must not be part of the hashes.
  preserveSymlinks: true,
  chunkNames: "[name]-[hash]",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  external: FONTS.map((name) => `*${name}`),
});
for (const name of FONTS) copyFileSync(`fonts/${name}`, `${out}/${name}`);
const licences = PACKAGES.map((name) => {
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8"));
  return `${name} ${version}\n\n${readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim()}\n`;
});
writeFileSync(`${out}/LICENSES.txt`, licences.join("\n----\n\n"));
// Each text is compressed here, so that the service needs no Brotli. The quality is the highest one by default.
for (const name of readdirSync(out).filter((name) => /\.(js|css|txt)$/.test(name))) {
  writeFileSync(`${out}/${name}.br`, brotliCompressSync(readFileSync(`${out}/${name}`)));
}
