"""Markdown to safe HTML, as `js/src/markdown.js` makes it: raw HTML is text, images are off.

js/test/markdown_cases.json holds both to the same set: GFM without footnotes, and formulas.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from longtask_kit.widgets.codes import highlight
from longtask_kit.widgets.mathrule import math_rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.rules_core import StateCore

_SAFE_LINK = re.compile(r"(https?:|mailto:)", re.IGNORECASE)
_BOX = re.compile(r"\[([ xX])\]\s+(?=\S)")


class Block(NamedTuple):
    """A top-level block of a text."""

    html: str
    source: str


def render_blocks(text: str) -> list[Block]:
    """Return the blocks of a text, each as HTML without any of the text's own markup."""
    md, env = _make_parser(), dict[str, Any]()
    tokens = md.parse(text, env)
    lines = text.split("\n")
    tops = [n for n, token in enumerate(tokens) if token.level == 0 and token.nesting != 1]
    blocks, begin, line = [], 0, 0
    for top in tops:
        following = tokens[top + 1].map if top + 1 < len(tokens) else None
        next_line = following[0] if following else len(lines)
        html = md.renderer.render(tokens[begin : top + 1], md.options, env)
        blocks.append(Block(html, "\n".join(lines[line:next_line])))
        begin, line = top + 1, next_line
    return blocks


@cache
def _make_parser() -> MarkdownIt:
    md = MarkdownIt(
        "commonmark", {"html": False, "linkify": True, "xhtmlOut": False, "maxNesting": 100}
    )
    md.enable(["table", "strikethrough", "linkify"]).disable(["image", "html_block", "html_inline"])
    md.use(math_rule)
    md.core.ruler.after("inline", "task", _mark_tasks)
    md.validateLink = _is_safe_link  # type: ignore[method-assign]
    assert md.linkify is not None  # noqa: S101 - asked for above
    md.linkify.set({"fuzzy_link": False, "fuzzy_email": False, "fuzzy_ip": False})
    for scheme in ("ftp:", "//", "mailto:"):
        md.linkify.add(scheme, None)
    rules: dict[str, Any] = {
        "table_open": lambda *_: '<div class="longtask-wide" tabindex="0"><table>\n',
        "table_close": lambda *_: "</table></div>\n",
        "link_open": _open_link,
        "fence": lambda tokens, n, *_: _code(tokens[n].content, tokens[n].info),
        "code_block": lambda tokens, n, *_: _code(tokens[n].content, ""),
        "math": lambda tokens, n, *_: _math("span", tokens[n]),
        "math_block": lambda tokens, n, *_: _math("div", tokens[n]) + "\n",
        "task": lambda tokens, n, *_: _check(is_done=tokens[n].markup != " "),
    }
    md.renderer.rules |= rules  # type: ignore[attr-defined]
    return md


def _is_safe_link(url: str) -> bool:
    return _SAFE_LINK.match(url.strip()) is not None


def _open_link(tokens: Sequence[Token], n: int, options: Any, _: object) -> str:  # noqa: ANN401
    tokens[n].attrSet("target", "_blank")
    tokens[n].attrSet("rel", "noopener noreferrer nofollow")
    renderer = _make_parser().renderer
    return renderer.renderToken(tokens, n, options, {})  # type: ignore[attr-defined,no-any-return]


def _code(code: str, info: str) -> str:
    language = (info.split() or [""])[0]
    return (
        '<div class="longtask-code"><span class="longtask-corner"><span class="longtask-lang">'
        f'{escape(language[:24])}</span></span><pre tabindex="0">'
        f"<code>{highlight(code, language)}</code></pre></div>\n"
    )


def _math(tag: str, token: Token) -> str:
    """Write a formula in the marks that Jupyter's own typesetter finds, there and nowhere else."""
    is_display = token.markup == "$$"
    tex = escape(token.content)
    marked = f"\\[{tex}\\]" if is_display else f"\\({tex}\\)"
    name = "longtask-math longtask-display" if is_display else "longtask-math"
    reach = ' tabindex="0"' if is_display else ""  # it may scroll
    return f'<{tag} class="{name} tex2jax_process mathjax_process"{reach}>{marked}</{tag}>'


def _check(*, is_done: bool) -> str:
    label, box = ("done", "☑") if is_done else ("to do", "☐")
    return f'<span class="longtask-check" role="img" aria-label="{label}">{box}</span> '


def _mark_tasks(state: StateCore) -> None:
    """Make `- [x] done` a task, as `js/src/taskrule.js` does."""
    for item, _, inline in zip(state.tokens, state.tokens[1:], state.tokens[2:], strict=False):
        if inline.type != "inline" or item.type != "list_item_open" or not inline.children:
            continue
        first = inline.children[0]
        box = _BOX.match(first.content) if first.type == "text" else None
        if box:
            first.content = first.content[box.end() :]
            inline.children.insert(0, Token("task", "", 0, markup=box[1]))
            item.attrJoin("class", "longtask-task")
