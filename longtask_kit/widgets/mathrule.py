r"""TeX in markdown, taken out before markdown sees it: `js/src/mathrule.js` in Python.

Both find `$…$`, `$$…$$`, `\(…\)` and `\[…\]`: js/test/markdown_cases.json holds them to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline

# What links, styles, loads, or changes what later formulas mean: such TeX stays text.
_REFUSED = re.compile(
    r"\\(?:href|url|style|class|cssId|data|html\w*|require|unicode|bbox|action|toggle|mathtip"
    r"|texttip|tooltip|mmlToken|label|e?q?ref|tag|csname|catcode|special|input|include\w*|write"
    r"|[gex]?def|let|futurelet|global|(?:re)?newcommand|providecommand|(?:re)?newenvironment"
    r"|newextarrow|DeclareMathOperator|DeclarePairedDelimiters?\w*)(?![a-zA-Z])",
    re.ASCII,
)
_LONGEST = 4000
_CLOSER = {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}
_BEFORE_DOLLAR = re.compile(r"[\w$]", re.ASCII)
_BLANK_LINE = re.compile(r"\n\s*\n")


class Formula(NamedTuple):
    """TeX found in a text, whether it stands alone, and where it ends."""

    tex: str
    is_display: bool
    end: int


def is_formula(tex: str) -> bool:
    """Tell whether TeX is only a formula."""
    return bool(tex.strip()) and len(tex) <= _LONGEST and not _REFUSED.search(tex)


def find_math(text: str, at: int) -> Formula | None:
    """Return the formula that begins at `at` of a text, or None."""
    opener = text[at : at + 2]
    if closer := _CLOSER.get(opener):
        to = text.find(closer, at + 2)
        return None if to < 0 else _check(text[at + 2 : to], opener != "\\(", to + 2)
    return _find_dollars(text, at) if text[at] == "$" else None


def _find_dollars(text: str, at: int) -> Formula | None:
    """Find `$…$` that hugs what it encloses, and is no price."""
    following = text[at + 1 : at + 2]
    if (at and _BEFORE_DOLLAR.match(text[at - 1])) or not following.strip(" \t\n$"):
        return None
    to = text.find("$", at + 2)
    while to > 0:
        if text[to - 1] != "\\":
            is_closing = not text[to - 1].isspace() and not _BEFORE_DOLLAR.match(
                text[to + 1 : to + 2]
            )
            return _check(text[at + 1 : to], False, to + 1) if is_closing else None
        to = text.find("$", to + 1)
    return None


def _check(tex: str, is_display: bool, end: int) -> Formula | None:
    is_one = is_formula(tex) and not _BLANK_LINE.search(tex)
    return Formula(tex.strip(), is_display, end) if is_one else None


def math_rule(md: MarkdownIt) -> None:
    """Add the rules to a parser; its renderer needs rules for `math` and `math_block`."""
    md.inline.ruler.before("escape", "math", _read_inline)
    interrupts = ["paragraph", "reference", "blockquote", "list"]
    md.block.ruler.before("fence", "math_block", _read_block, {"alt": interrupts})


def _read_inline(state: StateInline, silent: bool) -> bool:
    found = find_math(state.src, state.pos)
    if found is None or found.end > state.posMax:
        return False
    if not silent:
        token = state.push("math", "", 0)
        token.content, token.markup = found.tex, "$$" if found.is_display else "$"
    state.pos = found.end
    return True


def _read_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    if state.is_code_block(start):
        return False
    first = _read_line(state, start).lstrip()
    closer = _CLOSER.get(first[:2]) if first[:2] in ("$$", "\\[") else None
    if closer is None:
        return False
    lines, line = [first[2:]], start
    while not lines[-1].rstrip().endswith(closer):
        line += 1
        if line >= end or state.sCount[line] < state.blkIndent or state.isEmpty(line):
            return False
        lines.append(_read_line(state, line))
    formula = "\n".join(lines).rstrip()[: -len(closer)]
    if not is_formula(formula) or closer in formula:
        return False
    if not silent:
        token = state.push("math_block", "", 0)
        token.content, token.markup, token.block = formula.strip(), "$$", True
        token.map = [start, line + 1]
        state.line = line + 1
    return True


def _read_line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
