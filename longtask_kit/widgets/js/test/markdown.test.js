import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { countLines, findFold } from "../src/fold.js";
import { highlight } from "../src/highlight.js";
import { parseBlocks } from "../src/markdown.js";

const CASES = JSON.parse(readFileSync(new URL("markdown_cases.json", import.meta.url)));
const COPY = '<button type="button" class="longtask-copy">Copy</button>';

const render = (text, env) => parseBlocks(text, env).map((block) => block.render()).join("");
/** As the shared cases have it: a saved card has no button. */
const normalize = (html) => html.replaceAll(COPY, "").replaceAll(" longtask-tex", "");

for (const { name, text, html } of CASES) {
  test(`markdown is what a saved card makes of it: ${name}`, () => assert.equal(normalize(render(text)), html));
}

test("code has six colours, and is escaped", () => {
  const html = highlight("def f(n: int): return '<b>' * 2  # c", "python");
  assert.deepEqual([...new Set(html.match(/lt-\w/g))].sort(), ["lt-c", "lt-f", "lt-k", "lt-n", "lt-s", "lt-t"]);
  assert.equal(html.replace(/<\/?span[^>]*>/g, ""), "def f(n: int): return &#x27;&lt;b&gt;&#x27; * 2  # c");
  assert.equal(highlight("x", "unheard-of"), null);
  assert.equal(highlight("def f(): pass\n".repeat(2000), "python"), null);
});

test("a long answer folds between two blocks", () => {
  assert.equal(findFold([]), 0);
  assert.equal(findFold(Array(5).fill("short\n")), 5);
  assert.equal(findFold(Array(60).fill("a line\n\n")), 12);
  assert.equal(findFold([`\`\`\`\n${"x\n".repeat(500)}\`\`\`\n`]), 1);
  assert.equal(findFold(["x ".repeat(3000), "the rest"]), 2);
  assert.equal(countLines("x".repeat(89)), 3);
  assert.equal(countLines("|a|\n".repeat(99)), 23);
});

const GROWING = [
  ["#", ""],
  ["# ", ""],
  ["# T", "<h1>T</h1>"],
  ["said\n-", "<p>said</p>"],
  ["said\n=", "<p>said</p>"],
  ["- a\n- ", "<ul> <li>a</li> </ul>"],
  ["- a\n  - ", "<ul> <li>a</li> </ul>"],
  ["- [", ""],
  ["1. a\n2", "<ol> <li>a</li> </ol>"],
  ["> ", ""],
  ["a **bo", "<p>a <strong>bo</strong></p>"],
  ["a **bold*", "<p>a <strong>bold</strong></p>"],
  ["a **", "<p>a</p>"],
  ["a *b **c", "<p>a <em>b <strong>c</strong></em></p>"],
  ["a ~~b", "<p>a <s>b</s></p>"],
  ["a `b", "<p>a <code>b</code></p>"],
  ["a `", "<p>a</p>"],
  ["see [the te", "<p>see the te</p>"],
  ["see [the text](https://e", "<p>see the text</p>"],
  ["[text]: https://e", ""],
  ["snake_case_wo", "<p>snake_case_wo</p>"],
  ["2 * 3 = 6", "<p>2 * 3 = 6</p>"],
  ["$$\n\\frac{a", '<div class="longtask-math longtask-tex">\\frac{a</div>'],
  ["```py\nx = '**", `<div class="longtask-code"><span class="longtask-corner"><span class="longtask-lang">py</span></span><pre tabindex="0"><code>x = <span class="lt-s">&#x27;**</span></code></pre></div>`],
];
for (const [text, html] of GROWING) {
  test(`a growing text shows no raw mark: ${JSON.stringify(text)}`, () => {
    assert.equal(normalize(render(text, { isOpen: true }).replace(" longtask-tex", " KEEP")).replace(" KEEP", " longtask-tex").replaceAll("\n", " ").replace(/\s*(<\/p>|$)/g, "$1"), html);
  });
}

test("a table is one from its first line on", () => {
  const heads = (text) => render(text, { isOpen: true }).match(/<th/g)?.length ?? 0;
  const table = "| place | range |\n|---|--:|\n| Fundy | 16.3 |\n";
  for (let length = 3; length <= table.length; length += 1) {
    const html = render(table.slice(0, length), { isOpen: true });
    assert.ok(html.includes("<table>"), table.slice(0, length));
    assert.ok(!html.includes("|"), html);
  }
  assert.equal(heads(table), 3, "<thead> and two cells");
  assert.ok(render(`Before:\n\n${table}\n| not a ta`, { isOpen: true }).includes("<p>Before:</p>"));
});

test("at every length a growing text is drawn without its marks, and the blocks before the last stay", () => {
  const text = "# Head\n\nSome **bold *and italic* text** with `code`, [a link](https://a.b/c).\n\n- one\n- **two**\n  - three\n\n1. x\n2. y\n\n> quote\n\nEnd.";
  for (let length = 1; length <= text.length; length += 1) {
    const html = render(text.slice(0, length), { isOpen: true }).replace(/<[^>]*>/g, "");
    assert.ok(!/[#*`>[\]]/.test(html.replaceAll("&gt;", ">")), JSON.stringify([text.slice(0, length), html]));
    const words = (drawn) => drawn.match(/[A-Za-z]+/g) ?? [];
    assert.deepEqual(words(html), words(text.slice(0, length).replace(/\]\([^)]*/, "")), "and no word is held back");
  }
});
