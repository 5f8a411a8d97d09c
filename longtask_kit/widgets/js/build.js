// Bundle the sources into the folder given: the widget, its style, and the markdown library.
import { build } from "esbuild";

const outdir = process.argv[2] ?? "../static";
await build({
  entryPoints: ["src/output.js", "src/output.css", "src/markdown.js"],
  outdir,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "eof", // markdown-it's and its parts' licences stay with their code
  logLevel: "warning",
});
