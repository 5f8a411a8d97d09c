"""A task as static text and HTML: what a saved notebook keeps, readable without a kernel.

A model's text is data. Jupyter renders raw `text/markdown` of a just-run cell unsanitised, so the
markdown is turned into HTML here, with raw HTML escaped and images off.
"""

from __future__ import annotations

from functools import cache
from html import escape
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from longtask_kit.errors import find_cure
from longtask_kit.log.text import make_printable

if TYPE_CHECKING:
    from longtask_kit.log.transcript import Transcript

_BOX = (
    "border-left:3px solid {color};padding:.1em 0 .1em 1em;margin:.3em 0;line-height:1.55;"
    "max-width:60em"
)
_HEAD = "font-size:85%;opacity:.75;margin-bottom:.4em"
_COLORS = {"completed": "#2f9e6e", "failed": "#d64545", "cancelled": "#8a94a3"}


def make_bundle(state: Transcript) -> dict[str, str]:
    """Return the MIME bundle of a task: `text/plain` and safe `text/html`."""
    return {"text/plain": describe_text(state), "text/html": describe_html(state)}


def describe_text(state: Transcript) -> str:
    """Return the text, and for an unhappy end its cause and cure."""
    parts = [make_printable(state.text)] if state.text else []
    if state.status == "failed":
        parts.append(f"[failed: {make_printable(state.error or '')} {find_cure(state.code)}]")
    elif state.status != "completed":
        parts.append(f"[{state.status}]")
    return "\n\n".join(parts)


def describe_html(state: Transcript) -> str:
    """Return the same as HTML, the markdown rendered."""
    color = _COLORS.get(state.status, "#d08726")
    parts = [
        f'<div style="{_BOX.format(color=color)}"><div style="{_HEAD}">{_headline(state)}</div>'
    ]
    if state.status == "failed":
        cause = escape(make_printable(state.error or ""))
        parts.append(f"<p><b>{cause}</b><br>{escape(find_cure(state.code))}</p>")
    if state.text:
        parts.append(_markdown().render(make_printable(state.text)))
    return "".join([*parts, "</div>"])


def _headline(state: Transcript) -> str:
    facts: list[str] = [state.status]
    if state.attempt > 1:
        facts.append(f"attempt {state.attempt}")
    if state.tokens:
        facts.append(f"{state.tokens} tokens")
    return escape(" · ".join(facts))


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
