// Markdown to safe HTML; loaded once a page, when the first answer begins.
import MarkdownIt from "markdown-it";

const SAFE_LINK = /^(https?:|mailto:)/i;
const md = new MarkdownIt({ html: false, linkify: false }).disable("image");
md.validateLink = (url) => SAFE_LINK.test(url.trim());
const openLink = md.renderer.rules.link_open ?? ((t, i, o, _, self) => self.renderToken(t, i, o));
md.renderer.rules.link_open = (tokens, index, options, env, self) => {
  tokens[index].attrSet("target", "_blank");
  tokens[index].attrSet("rel", "noopener noreferrer nofollow");
  return openLink(tokens, index, options, env, self);
};

/**
 * The top-level blocks of a text as HTML without any of the text's own markup, each with the place
 * where the next one begins. `links` keeps what the text defines, from call to call.
 */
export function renderBlocks(text, links = {}) {
  const tokens = md.parse(text, links);
  const lines = [0, ...Array.from(text.matchAll(/\r\n?|\n/g), (end) => end.index + end[0].length)];
  const blocks = [];
  let from = 0;
  for (let at = 0; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (token.level === 0 && token.nesting !== 1) {
      const following = tokens[at + 1];
      const next = following ? lines[following.map[0]] : text.length;
      blocks.push({ html: md.renderer.render(tokens.slice(from, at + 1), md.options, links), next });
      from = at + 1;
    }
  }
  return blocks;
}
