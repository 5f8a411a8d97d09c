// Code in six colours: keyword, string, function, comment, number, type. `widgets/codes.py` gives a saved
// answer the same six.
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import julia from "highlight.js/lib/languages/julia";
import kotlin from "highlight.js/lib/languages/kotlin";
import lua from "highlight.js/lib/languages/lua";
import python from "highlight.js/lib/languages/python";
import r from "highlight.js/lib/languages/r";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

const LANGUAGES = { bash, c, cpp, csharp, css, diff, go, ini, java, javascript, json, julia, kotlin, lua, python, r, ruby, rust, sql, typescript, xml, yaml };
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);

const LONGEST = 20_000; // characters; longer code is not coloured, here and in a saved answer

const CLASSES = {
  k: ["keyword", "selector-tag", "operator", "doctag", "template-tag", "deletion"],
  s: ["string", "regexp", "char", "subst", "addition", "link", "symbol"],
  f: ["title", "section", "name", "attr", "attribute", "selector-class", "selector-id", "property"],
  c: ["comment", "quote", "meta"],
  n: ["number", "literal"],
  t: ["type", "built_in", "class", "variable.language_"],
};
const CLASS_OF = Object.fromEntries(Object.entries(CLASSES).flatMap(([short, names]) => names.map((name) => [name, short])));

/** Code as HTML, its text escaped, its tokens in one of six classes; null for a language not known. */
export function highlight(code, language) {
  if (code.length > LONGEST || !hljs.getLanguage(language)) return null;
  const { value } = hljs.highlight(code, { language, ignoreIllegals: true });
  return value.replace(/<span class="hljs-([\w-]+)[^"]*">/g, (_, name) => (name in CLASS_OF ? `<span class="lt-${CLASS_OF[name]}">` : "<span>"));
}
