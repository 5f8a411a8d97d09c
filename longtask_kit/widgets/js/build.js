// Bundle the sources into the folder given: the widget, its style, the markdown library, and the
// licences of what is bundled.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const outdir = process.argv[2] ?? "../static";
const { metafile } = await build({
  entryPoints: ["src/output.js", "src/output.css", "src/markdown.js"],
  outdir,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "eof", // markdown-it's and its parts' licences stay with their code
  logLevel: "warning",
  metafile: true,
});
writeFileSync(join(outdir, "LICENSES.txt"), describeLicences(Object.keys(metafile.inputs)));

/** The licences of the packages that the bundled files come from, whole. */
function describeLicences(inputs) {
  const names = inputs.map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  const packages = [...new Set(names.filter(Boolean))].sort();
  const head = `markdown.js contains the following packages: ${packages.join(", ")}.\n`;
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
