"""A comparison as static text and HTML: its answers side by side, below each other where narrow.

No rate and no time stands in it: it is read later, and the same cell gives the same again.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from longtask_kit.log.groups import TIE
from longtask_kit.log.text import make_printable
from longtask_kit.widgets.compare_facts import count_prompts, read_prompt
from longtask_kit.widgets.group_saved import draw_bar, draw_head
from longtask_kit.widgets.saved import read_style
from longtask_kit.widgets.saved_style import HUES, LINE, draw_dot

if TYPE_CHECKING:
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.widgets.compare_facts import Answer, Prompt
    from longtask_kit.widgets.group_facts import GroupFacts

SHOWN_PROMPTS = 25
_TEXT_PROMPTS = 10
_MOST_CHARS = 1200  # of an answer
_CARD = f"border:{LINE};border-radius:8px;max-width:90rem;margin:6px 0;overflow:hidden"
_PROMPT = (
    "padding:8px 14px 2px;font-size:13px;font-weight:600;white-space:pre-wrap;"
    "overflow-wrap:anywhere"
)
_CELLS = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,13rem),1fr))"
_CELL = "padding:4px 14px 10px;min-width:0"
_FACTS = "font-size:12.5px;display:flex;flex-wrap:wrap;gap:2px 10px;align-items:center"
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px;line-height:1.55;margin:2px 0 0"
_FOOT = "display:flex;flex-wrap:wrap;gap:2px 12px;padding:7px 14px 9px;font-size:12px;opacity:.8"


def make_compared(group: TaskGroup, facts: GroupFacts) -> dict[str, str]:
    """Return the MIME bundle of a comparison: `text/plain` and `text/html`, without script."""
    count = count_prompts(group)
    is_blind, asked = bool(group._record.options.get("blind")), group._list_prompts()
    prompts = [
        read_prompt(group, n, asked, is_blind=is_blind, is_saved=True)
        for n in range(min(count, SHOWN_PROMPTS))
    ]
    return {
        "text/plain": describe_text(facts, prompts, count),
        "text/html": describe_html(facts, prompts, count),
    }


def describe_text(facts: GroupFacts, prompts: list[Prompt], count: int) -> str:
    """Return a line of figures, each prompt with what its answers begin with, and the way back."""
    figures = ", ".join(f"{value}{after}" for _, value, after in facts.list_figures(is_live=False))
    lines = [f"{facts.name or 'comparison'}: {figures}"]
    width = max(len(answer.name) for prompt in prompts for answer in prompt.answers)
    for prompt in prompts[:_TEXT_PROMPTS]:
        lines += ["", f"{prompt.number}  {_clip(prompt.prompt, 90)}"]
        for at, answer in enumerate(prompt.answers):
            figure = "".join(answer.figures[0]) if answer.figures else answer.word or "done"
            best = "*" if prompt.vote == at or prompt.vote == TIE else " "
            end = f"[{answer.word}] " if answer.figures and answer.word else ""
            said = _clip(end + (answer.note or answer.text), 60)
            lines.append(f" {best} {answer.name:<{width}}  {figure:>10}  {said}".rstrip())
    rest = _describe_rest(count - len(prompts[:_TEXT_PROMPTS]))
    return "\n".join([*lines, "", f'{rest}kit.attach_group("{facts.group_id}")'])


def describe_html(facts: GroupFacts, prompts: list[Prompt], count: int) -> str:
    """Return the same as HTML, with longer texts."""
    classes = f"longtask-card longtask-saved-group is-{facts.kind} tex2jax_ignore mathjax_ignore"
    rest = _describe_rest(count - len(prompts)).removesuffix(": ")
    parts = [
        f'<style>{read_style()}</style><section class="{classes}" style="{_CARD}">',
        draw_head(facts, "comparison"),
        draw_bar(facts),
        *(_draw_prompt(prompt) for prompt in prompts),
        f'<div style="{_FOOT}"><code>kit.attach_group("{escape(facts.group_id)}")</code>',
        f" <span>{rest}</span>",
        f" <span>{escape(facts.stop)}</span>" if facts.stop else "",
        "</div></section>",
    ]
    return "".join(parts)


def _draw_prompt(prompt: Prompt) -> str:
    cells = "".join(
        _draw_answer(answer, is_best=prompt.vote == at, is_tie=prompt.vote == TIE)
        for at, answer in enumerate(prompt.answers)
    )
    return (
        f'<div style="border-bottom:{LINE}"><div style="{_PROMPT}">{escape(prompt.prompt)}</div>'
        f'<div style="{_CELLS}">{cells}</div></div>'
    )


def _draw_answer(answer: Answer, *, is_best: bool, is_tie: bool) -> str:
    best = "best" if is_best else "tie" if is_tie else ""
    figures = [f"<span>{escape(''.join(figure))}</span>" for figure in answer.figures]
    figures += [f"<span>{escape(word)}</span>" for word in (answer.word, best) if word]
    text = answer.text if len(answer.text) <= _MOST_CHARS else f"{answer.text[:_MOST_CHARS]} …"
    told = (make_printable(answer.note), make_printable(text))
    said = "".join(f'<div style="{_TEXT}">{escape(part)}</div>' for part in told if part)
    return (
        f'<div style="{_CELL}"><div style="{_FACTS}"><b>{draw_dot(HUES[answer.kind])} '
        f"{escape(answer.name)}</b> {' '.join(figures)}</div>{said}</div>"
    )


def _describe_rest(more: int) -> str:
    return "" if more <= 0 else f"{more:,} more prompts: " if more > 1 else "1 more prompt: "


def _clip(text: str, most: int) -> str:
    text = " ".join(make_printable(text).split())
    return text if len(text) <= most else text[: most - 1] + "…"
