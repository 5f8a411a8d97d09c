// Markdown to safe HTML; loaded once a page, when the first answer begins. `widgets/markdown.py` makes the
// same of a saved answer; test/markdown_cases.json holds both to it.
import MarkdownIt from "markdown-it";
import { flankRule } from "./flankrule.js";
import { highlight } from "./highlight.js";
import { mathRule } from "./mathrule.js";
import { mendInline, mendText } from "./mend.js";
import { taskRule } from "./taskrule.js";

const SAFE_LINK = /^(https?:|mailto:)/i;
const md = new MarkdownIt({ html: false, linkify: true }).disable("image").use(flankRule).use(mathRule).use(taskRule);
md.validateLink = (url) => SAFE_LINK.test(url.trim());
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false }).add("ftp:", null).add("//", null).add("mailto:", null);
const { escapeHtml } = md.utils;
const { rules } = md.renderer;
const plainToken = (tokens, index, options, env, self) => self.renderToken(tokens, index, options);

rules.link_open = (tokens, index, options, env, self) => {
  tokens[index].attrSet("target", "_blank");
  tokens[index].attrSet("rel", "noopener noreferrer nofollow");
  return plainToken(tokens, index, options, env, self);
};
rules.table_open = () => '<div class="longtask-wide" tabindex="0"><table>\n';
rules.table_close = () => "</table></div>\n";
rules.fence = (tokens, index) => renderCode(tokens[index].content, tokens[index].info.trim().split(/\s/)[0]);
rules.code_block = (tokens, index) => renderCode(tokens[index].content, "");
rules.math = (tokens, index, options, env) => renderMath("span", tokens[index], env);
rules.math_block = (tokens, index, options, env) => `${renderMath("div", tokens[index], env)}\n`;
rules.math_open = (tokens, index) => `<div class="longtask-math longtask-tex">${escapeHtml(tokens[index].content)}</div>\n`;

function renderCode(code, language) {
  const name = escapeHtml(language.slice(0, 24));
  const html = highlight(code, language.toLowerCase()) ?? escapeHtml(code);
  return (
    `<div class="longtask-code"><span class="longtask-corner"><button type="button" class="longtask-copy">Copy</button>` +
    `<span class="longtask-lang">${name}</span></span><pre tabindex="0"><code>${html}</code></pre></div>\n`
  );
}

/** A formula drawn by `env.renderMath`; as its source until that is there, and where it draws nothing. */
function renderMath(tag, token, env) {
  const isDisplay = token.markup === "$$";
  env.hasMath = true;
  const drawn = env.renderMath?.(token.content, isDisplay);
  const classes = `longtask-math${isDisplay ? " longtask-display" : ""}${drawn ? "" : " longtask-tex"}`;
  return `<${tag} class="${classes}"${isDisplay ? ' tabindex="0"' : ""}>${drawn ?? escapeHtml(token.content)}</${tag}>`;
}

/**
 * The top-level blocks of a text, each with the place where the next one begins, and `render`, which makes
 * HTML of it without any of the text's own markup. `env` keeps what the text defines, from call to call;
 * of a text that is open (it still grows) the last block is drawn as what it is about to be.
 */
export function parseBlocks(text, env = {}) {
  const source = env.isOpen ? mendText(text) : text;
  const tokens = md.parse(source, env);
  if (env.isOpen) mendLast(tokens, env);
  const lines = [0, ...Array.from(source.matchAll(/\r\n?|\n/g), (end) => end.index + end[0].length)];
  const blocks = [];
  let from = 0;
  for (let at = 0; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (token.level === 0 && token.nesting !== 1) {
      const following = tokens[at + 1];
      const next = following ? lines[following.map[0]] : text.length;
      const own = tokens.slice(from, at + 1);
      blocks.push({ next, render: () => md.renderer.render(own, md.options, env) });
      from = at + 1;
    }
  }
  return blocks;
}

/** Close what is open in the last line of text: emphasis, code, links. */
function mendLast(tokens, env) {
  const last = tokens.findLast((token) => token.type === "inline" || token.type === "fence" || token.type === "code_block");
  if (last?.type !== "inline") return;
  const mended = mendInline(last.content);
  if (mended === last.content) return;
  const [inline] = md.parseInline(mended, env);
  last.children = inline.children;
}
