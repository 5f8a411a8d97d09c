"""A dashboard as static text and HTML: what a saved notebook keeps, and what a terminal prints.

No age, rate, latency or level stands in it: it is read later, and the same cell gives the same.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from longtask_kit.client.listed import align_rows
from longtask_kit.log.text import make_printable
from longtask_kit.widgets.dashboard_facts import KINDS, SHOWN_LETTERS
from longtask_kit.widgets.group_facts import format_cost
from longtask_kit.widgets.saved import read_style
from longtask_kit.widgets.saved_style import CARD, CELL, HEAD, NUMBER, STAGE_HUES, TABLE, draw_dot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.client.overview import Line, Side
    from longtask_kit.widgets.dashboard_facts import DashboardFacts

SHOWN_ROWS = 20
_TEXT_ROWS = 10
_FOOT = "padding:7px 14px 9px;font-size:12px;opacity:.85"
_COLUMNS = {
    "status": f"{CELL};width:26%",
    "prompt": CELL,
    "model": f"{CELL};width:20%",
    "attempt": f"{NUMBER};width:6.4em",
    "tokens": f"{NUMBER};width:5.4em",
    "cost": f"{NUMBER};width:7em",
}


def make_bundle(facts: DashboardFacts, lines: Sequence[Line]) -> dict[str, str]:
    """Return the MIME bundle of a dashboard: `text/plain` and `text/html`, without script."""
    return {"text/plain": describe_text(facts, lines), "text/html": describe_html(facts, lines)}


def describe_text(facts: DashboardFacts, lines: Sequence[Line]) -> str:
    """Return a line of figures, the newest rows, and how the services are."""
    figures = ", ".join(f"{value}{after}" for _, value, after in facts.list_figures())
    parts = [f"dashboard: {figures}"]
    if shown := [_list_cells(line) for line in lines[:_TEXT_ROWS]]:
        parts += ["", *align_rows([list(_COLUMNS), *shown], right={3, 4, 5})]
    if more := _count_more(lines, _TEXT_ROWS):
        parts.append(more)
    return "\n".join([*parts, "", *_describe_side(facts.side, facts.notice)])


def describe_html(facts: DashboardFacts, lines: Sequence[Line]) -> str:
    """Return the same as HTML, in a saved card's style."""
    # Jupyter's typesetter would take prices for formulas: it looks only where one is marked.
    classes = (
        f"longtask-card longtask-saved-dashboard is-{KINDS[facts.stage]} "
        "tex2jax_ignore mathjax_ignore"
    )
    figures = " ".join(
        f'<span class="longtask-figure">{before}<b>{escape(value)}</b>{escape(after)}</span>'
        for before, value, after in facts.list_figures()
    )
    head = "".join(
        f'<th scope="col" style="{style};opacity:.75;font-weight:550">{name}</th>'
        for name, style in _COLUMNS.items()
    )
    said = [
        *filter(None, [_count_more(lines, SHOWN_ROWS)]),
        *_describe_side(facts.side, facts.notice),
    ]
    foot = "".join(f"<div>{escape(sentence)}</div>" for sentence in said)
    return (
        f'<style>{read_style()}</style><section class="{classes}" style="{CARD}">'
        f'<div class="longtask-head" style="{HEAD}"><span class="longtask-state">'
        f"{draw_dot(STAGE_HUES[facts.stage])} dashboard · {escape(facts.word)}</span> "
        f"{figures}</div>"
        f'<table style="{TABLE}"><thead><tr style="background:none">{head}</tr></thead><tbody>'
        f"{''.join(map(_row, lines[:SHOWN_ROWS]))}</tbody></table>"
        f'<div style="{_FOOT}">{foot}</div></section>'
    )


def _list_cells(line: Line) -> list[str]:
    return [
        _clip(line.word, 40),
        _clip(line.prompt, 44),
        _clip(line.model, 24),
        str(line.attempt),
        "" if line.tokens is None else f"{line.tokens:,}",
        "" if line.cost is None else format_cost(line.cost),
    ]


def _row(line: Line) -> str:
    cells = [escape(cell) for cell in _list_cells(line)]
    cells[0] = f"{draw_dot(STAGE_HUES[line.stage])} {cells[0]}"
    tds = "".join(
        f'<td style="{style}">{cell}</td>'
        for cell, style in zip(cells, _COLUMNS.values(), strict=True)
    )
    return f'<tr style="background:none">{tds}</tr>'


def _describe_side(side: Side, notice: str) -> list[str]:
    """Return sentences: who answers, who does not and why, what the queue gave up."""
    well = [one.service for one in side.health if one.is_well]
    told = [notice] if notice else []
    if well:
        told.append(f"answers: {', '.join(well)}")
    told += [f"{one.service}: {one.detail}" for one in side.health if one.is_well is False]
    told += [side.error] if side.error else []
    dead = side.queue.dead if side.queue else ()
    if dead:
        count = "1 dead letter" if len(dead) == 1 else f"{len(dead)} dead letters"
        told.append(f"{count} in the queue:")
        told += [f"  {letter.reason}" for letter in dead[:SHOWN_LETTERS]]
    return [make_printable(sentence) for sentence in (*told, *side.notes)]


def _count_more(lines: Sequence[Line], shown: int) -> str:
    more = len(lines) - shown
    return "" if more < 1 else "1 more row" if more == 1 else f"{more:,} more rows"


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
