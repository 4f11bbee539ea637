/** Bundle the page into `bundle`. The same sources and packages give the same bytes.
 *
 * A view that is imported by `import()` becomes a file of its own, which is loaded when it is shown first. The name
 * of such a file ends with a hash of its content, so that a page never loads the file of another version.
 */

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";
import subsetFont from "subset-font";

const out = process.argv[2] ?? "bundle";
/** Inter has the weights of the page, and its tabular figures. The other font needs no ligatures. */
const FONTS = {
  "inter.woff2": ["@fontsource-variable/inter/files/inter-latin-wght-normal.woff2", { variationAxes: { wght: { min: 400, max: 650 } } }],
  "jetbrains-mono.woff2": ["@fontsource/jetbrains-mono/files/jetbrains-mono-latin-400-normal.woff2", { noLayoutClosure: true }],
};
/** The characters of the packages for Latin letters, as ranges. */
const CHARACTERS = [
  [0x20, 0x7e], [0xa0, 0xff], [0x131, 0x131], [0x152, 0x153], [0x2bb, 0x2bc], [0x2c6, 0x2c6], [0x2da, 0x2da], [0x2dc, 0x2dc],
  [0x304, 0x304], [0x308, 0x308], [0x329, 0x329], [0x2000, 0x206f], [0x20ac, 0x20ac], [0x2122, 0x2122], [0x2191, 0x2191],
  [0x2193, 0x2193], [0x2212, 0x2212], [0x2215, 0x2215], [0xfeff, 0xfeff], [0xfffd, 0xfffd],
];
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
  external: Object.keys(FONTS).map((name) => `*${name}`),
});
const text = CHARACTERS.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, index) => String.fromCodePoint(first + index))).join("");
for (const [name, [path, options]] of Object.entries(FONTS)) {
  writeFileSync(`${out}/${name}`, await subsetFont(readFileSync(`node_modules/${path}`), text, { targetFormat: "woff2", ...options }));
}
const licences = PACKAGES.map((name) => {
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8"));
  return `${name} ${version}\n\n${readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim()}\n`;
});
writeFileSync(`${out}/LICENSES.txt`, licences.join("\n----\n\n"));
