"""A task as static text and HTML: what a saved notebook keeps, readable without a kernel.

It is the live card's twin: the same parts in the same style, which travels with it. Where a front
end takes the style away, since nobody trusts the notebook, the frame's own styles stay, and the
notebook's for the text. A model's text is data: Jupyter renders raw `text/markdown` of a just-run
cell unsanitised, so the markdown is turned into HTML here.
"""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtask_kit.log.text import make_printable
from longtask_kit.widgets import facts as wording
from longtask_kit.widgets.fold import find_fold
from longtask_kit.widgets.markdown import render_blocks
from longtask_kit.widgets.saved_style import HUES, LINE

if TYPE_CHECKING:
    from longtask_kit.client.prices import Price
    from longtask_kit.log.transcript import Transcript
    from longtask_kit.submit.spec import TaskSpec

_STATIC = Path(__file__).parent / "static"
# What stays where the style does not.
_INLINE = {
    "card": f"border:{LINE};border-radius:8px;max-width:60rem;margin:6px 0",
    "figures": "display:flex;flex-wrap:wrap;gap:2px 12px",
    "head": "display:flex;gap:2px 12px;align-items:center;padding:5px 14px;"
    f"border-bottom:{LINE};font-size:12.5px",
    "note": f"padding:7px 14px 7px 16px;border-bottom:{LINE};font-size:13px",
    "body": "padding:12px 16px 14px",
    "foot": "padding:0 14px 9px 16px;font-size:12px",
    "lone_foot": "padding:7px 14px 9px 16px;font-size:12px",
}


def make_bundle(
    state: Transcript,
    *,
    task_id: str = "",
    spec: TaskSpec | None = None,
    price: Price | None = None,
    is_disconnected: bool = False,
    is_gone: bool = False,
) -> dict[str, str]:
    """Return the MIME bundle of a task: `text/plain` and safe `text/html`.

    Args:
        state: What happened so far; a task that goes on is shown as it stands.
        task_id: Named in the HTML, and in the text where that is not whole.
        spec: What was asked, of which model.
        price: Of its model's tokens, if it is known.
        is_disconnected: Whether the kernel that followed it is gone.
        is_gone: Whether it was deleted, or outlived its time: nothing goes on.
    """
    facts = wording.read_facts(state, spec=spec, price=price)
    if task_id:
        facts |= wording.describe_task(task_id, spec)
    if is_disconnected:
        facts |= {"word": "disconnected", "kind": "quiet", "error": None}
    if is_gone:
        facts |= {"status": "gone", "word": wording.GONE, "kind": "quiet", "error": None}
    text, reasoning = make_printable(state.text), make_printable(state.reasoning)
    html = describe_html(text, facts, reasoning=reasoning)
    return {"text/plain": describe_text(text, facts), "text/html": html}


def describe_text(text: str, facts: dict[str, Any]) -> str:
    """Return the text; of an unhappy end cause and cure; before the end what was asked.

    Of an answer without one that it is such, and what came beside.
    """
    status, word = facts["status"], facts["word"]
    parts = [text]
    if status == "failed":
        parts.append(f"[failed: {facts['error'] or ''} {facts['cure']}]")
    elif status in wording.ACTIVE and (attach := _attach(facts)):
        asked = f"{prompt} " if (prompt := facts.get("prompt")) else ""
        parts.append(f"[{asked}{word}: {attach} goes on from here]")
    elif facts["kind"] != "good" or not text.strip():
        parts += [*wording.describe_blocks(facts), facts["refusal"] or "", f"[{word}]"]
    if facts.get("replayed"):
        parts.append(f"[{facts['replayed']}]")
    return "\n\n".join(filter(None, map(make_printable, parts)))


def _attach(facts: dict[str, Any]) -> str:
    """Return the code that goes on with a task under way; "" for any other."""
    task_id = facts.get("taskId")
    return f'kit.attach("{task_id}")' if task_id and facts["status"] in wording.ACTIVE else ""


def describe_html(text: str, facts: dict[str, Any], *, reasoning: str = "") -> str:
    """Return the card as HTML, the markdown rendered."""
    # Jupyter's typesetter would take prices for formulas: it looks only where one is marked.
    classes = f"longtask-card longtask-saved is-{facts['kind']} tex2jax_ignore mathjax_ignore"
    parts = [
        f"<style>{read_style()}</style>",
        f'<section class="{classes}" style="{_INLINE["card"]}">',
        _head(facts),
        _note(facts),
        body := _body(text, facts, reasoning),
        _foot(text, facts, has_body=bool(body)),
        "</section>",
    ]
    return "".join(parts)


@cache
def read_style() -> str:
    """Return the style that a saved card carries; it is a live one's, too."""
    return (_STATIC / "card.css").read_text(encoding="utf-8").strip()


def _head(facts: dict[str, Any]) -> str:
    hue = HUES[facts["kind"]]
    dot = (
        '<i class="longtask-dot" aria-hidden="true" style="display:inline-block;width:8px;'
        f'height:8px;border-radius:50%;background-color:{hue}"></i>'
    )
    figures = [
        f'<span class="longtask-figure">{before}<b>{_text(value)}</b>{after}</span>'
        for before, value, after in wording.describe_figures(facts)
    ]
    word = f'<span class="longtask-state">{dot} <span>{_text(facts["word"])}</span></span>'
    beside = (
        f'<span class="longtask-figures" style="{_INLINE["figures"]}">{" ".join(figures)}</span>'
    )
    return _part("head", f"{word} {beside}")


def _note(facts: dict[str, Any]) -> str:
    note = wording.describe_note(facts)
    if note is None:
        return ""
    cure = f" {_text(note.cure)}" if note.cure else ""
    return _part("note", f"<b>{_text(note.cause)}</b><span>{cure}</span>")


def _body(text: str, facts: dict[str, Any], reasoning: str) -> str:
    parts = [_progress(facts)] if facts["status"] in wording.ACTIVE else []
    if reasoning:
        ms = facts.get("reasoningMs")
        head = "Thinking" if ms is None else f"Thinking · {wording.format_duration(ms)}"
        parts.append(
            f'<details class="longtask-think"><summary>{head}</summary>'
            f'<div tabindex="0">{escape(reasoning)}</div></details>'
        )
    if text.strip():
        parts.append(f'<div class="longtask-rendered">{_fold(text)}</div>')
    blocks = [
        f'<div class="longtask-json" tabindex="0">{_text(block)}</div>'
        for block in wording.describe_blocks(facts)
    ]
    if blocks:
        parts.append(f'<div class="longtask-extras">{"".join(blocks)}</div>')
    return _part("body", "".join(parts)) if any(parts) else ""


def _progress(facts: dict[str, Any]) -> str:
    progress = wording.describe_progress(facts)
    if progress is None:
        return ""
    share, words = progress
    bar = "" if share is None else f'<i><i style="width:{100 * share:.3g}%"></i></i>'
    return f'<div class="longtask-progress">{bar}<span>{_text(words)}</span></div>'


def _fold(text: str) -> str:
    blocks = render_blocks(text)
    at = find_fold([block.source for block in blocks])
    shown = "".join(block.html for block in blocks[:at])
    if at == len(blocks):
        return shown
    hidden = "".join(block.html for block in blocks[at:])
    return f'{shown}<details class="longtask-fold"><summary>Show all</summary>{hidden}</details>'


def _foot(text: str, facts: dict[str, Any], *, has_body: bool) -> str:
    if not facts.get("taskId"):
        return ""
    asked = facts.get("prompt")
    parts = [f"<code>{_text(_attach(facts) or facts['taskId'])}</code>"]
    if asked:
        parts.append(f'<span class="longtask-asked">{_text(asked)}</span>')
    if text:
        raw = f"<pre>{escape(text)}</pre>"
        parts.append(f"<details><summary>Copy</summary>{raw}</details>")
    if replayed := facts.get("replayed"):
        parts.append(f'<span class="longtask-replayed">{_text(replayed)}</span>')
    return _part("foot" if has_body else "lone_foot", "".join(parts))


def _part(name: str, html: str) -> str:
    own = name.removeprefix("lone_")
    return f'<div class="longtask-{own}" style="{_INLINE[name]}">{html}</div>'


def _text(text: object) -> str:
    return escape(make_printable(str(text)))
