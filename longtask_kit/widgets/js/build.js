// Bundle the sources into the folder given: the widget, its style, that of a saved card, the
// libraries for markdown and formulas, and the licences of what is bundled.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const outdir = process.argv[2] ?? "../static";
const { metafile } = await build({
  entryPoints: ["src/output.js", "src/output.css", "src/card.css", "src/group.js", "src/group.css", "src/compare.js", "src/compare.css", "src/dashboard.js", "src/dashboard.css", "src/xray.js", "src/xray.css", "src/panel.js", "src/panel.css", "src/picker.js", "src/turn.js", "src/markdown.js", "src/math.js"],
  outdir,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "eof", // the licences stay with their code
  logLevel: "warning",
  metafile: true,
});
writeFileSync(join(outdir, "LICENSES.txt"), describeLicences(Object.keys(metafile.inputs)));

/** The licences of the packages that the bundled files come from, whole. */
function describeLicences(inputs) {
  const names = inputs.map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  const packages = [...new Set(names.filter(Boolean))].sort();
  const head = `markdown.js and math.js contain the following packages: ${packages.join(", ")}.\n`;
  return [head, ...packages.map(describeLicence)].join("\n");
}

function describeLicence(name) {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no licence file: it can't be bundled`);
  const text = readFileSync(join(folder, file), "utf8").replaceAll("\r\n", "\n").trim();
  return `${"=".repeat(80)}\n${name} ${version} (${license})\n\n${text}\n`;
}
