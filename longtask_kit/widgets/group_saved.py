"""A group as static text and HTML: what a saved notebook keeps, and what a terminal shows.

No rate and no time stands in it: it is read later, and the same cell gives the same again.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from longtask_kit.client.listed import align_rows
from longtask_kit.widgets.saved import read_style
from longtask_kit.widgets.saved_style import (
    CARD,
    CELL,
    HEAD,
    HUES,
    NUMBER,
    STAGE_HUES,
    TABLE,
    draw_dot,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.widgets.group_facts import GroupFacts, RowFacts

SHOWN_ROWS = 20
_TEXT_ROWS = 10
_FIGURES = "display:flex;flex-wrap:wrap;gap:2px 12px"
_FOOT = "display:flex;flex-wrap:wrap;gap:2px 12px;padding:7px 14px 9px;font-size:12px;opacity:.8"
_COLUMNS = {
    "row": f"{NUMBER};width:4.4em",
    "status": f"{CELL};width:6.4em",
    "prompt": f"{CELL};width:38%",
    "answer": CELL,
    "tokens": f"{NUMBER};width:5em",
}


def make_bundle(facts: GroupFacts, rows: Sequence[RowFacts]) -> dict[str, str]:
    """Return the MIME bundle of a group: `text/plain` and `text/html`, without script."""
    return {"text/plain": describe_text(facts, rows), "text/html": describe_html(facts, rows)}


def describe_text(facts: GroupFacts, rows: Sequence[RowFacts]) -> str:
    """Return a line of figures, the first rows, and how to come back."""
    figures = ", ".join(f"{value}{after}" for _, value, after in facts.list_figures(is_live=False))
    head = f"{facts.name or 'group'}: {figures}"
    table = [("row", "status", "tokens", "prompt", "answer")]
    table += [
        (
            str(row.row),
            row.word,
            "" if row.tokens is None else f"{row.tokens:,}",
            _clip(row.prompt, 36),
            _clip(row.answer, 48),
        )
        for row in rows[:_TEXT_ROWS]
    ]
    lines = align_rows(table, right={0, 2})
    notes = [facts.stop] if facts.stop else []
    rest = _describe_rest(facts, len(rows[:_TEXT_ROWS]))
    return "\n".join([head, *notes, "", *lines, "", rest])


def describe_html(facts: GroupFacts, rows: Sequence[RowFacts]) -> str:
    """Return the same as HTML, with a bar, in a saved card's style."""
    # Jupyter's typesetter would take prices for formulas: it looks only where one is marked.
    classes = f"longtask-card longtask-saved-group is-{facts.kind} tex2jax_ignore mathjax_ignore"
    shown = rows[:SHOWN_ROWS]
    parts = [
        f'<style>{read_style()}</style><section class="{classes}" style="{CARD}">',
        draw_head(facts, "group"),
        draw_bar(facts),
        f'<table style="{TABLE}"><thead><tr style="background:none">',
        *(
            f'<th scope="col" style="{style};opacity:.75;font-weight:550">{name}</th>'
            for name, style in _COLUMNS.items()
        ),
        "</tr></thead><tbody>",
        *map(_row, shown),
        f'</tbody></table><div style="{_FOOT}"><code>kit.attach_group("',
        f'{escape(facts.group_id)}")</code> <span>{_count_rest(facts, len(shown))}</span>',
        f" <span>{escape(facts.stop)}</span>" if facts.stop else "",
        "</div></section>",
    ]
    return "".join(parts)


def draw_head(facts: GroupFacts, what: str) -> str:
    """Return name, state and figures as HTML; `what` it is, where it has no name."""
    figures = " ".join(
        f'<span class="longtask-figure">{before}<b>{escape(value)}</b>{after}</span>'
        for before, value, after in facts.list_figures(is_live=False)
    )
    return (
        f'<div class="longtask-head" style="{HEAD}"><span class="longtask-state">'
        f"{draw_dot(HUES[facts.kind])} {escape(facts.name or what)} · "
        f'{escape(facts.word)}</span> <span style="{_FIGURES}">{figures}</span></div>'
    )


def _row(row: RowFacts) -> str:
    cells = (
        str(row.row),
        f"{draw_dot(STAGE_HUES[row.stage if row.word == row.stage else 'odd'])} {escape(row.word)}",
        escape(row.prompt),
        escape(row.answer),
        "" if row.tokens is None else f"{row.tokens:,}",
    )
    tds = "".join(
        f'<td style="{style}">{cell}</td>'
        for cell, style in zip(cells, _COLUMNS.values(), strict=True)
    )
    return f'<tr style="background:none">{tds}</tr>'


def draw_bar(facts: GroupFacts) -> str:
    """Return a bar of how many are done, run and have failed."""
    rows = sum(facts.counts.values())
    parts = [
        f'<i style="display:block;width:{100 * facts.counts[stage] / rows:.4g}%;'
        f'background-color:{STAGE_HUES[stage]}"></i>'
        for stage in ("done", "running", "failed")
        if facts.counts[stage]
    ]
    bar = (
        "display:flex;height:6px;border-radius:3px;overflow:hidden;margin:10px 14px 4px;"
        "background-color:rgba(127,127,127,.15)"
    )
    return f'<div aria-hidden="true" style="{bar}">{"".join(parts)}</div>'


def _describe_rest(facts: GroupFacts, shown: int) -> str:
    rest = _count_rest(facts, shown)
    return f'{rest}{": " if rest else ""}kit.attach_group("{facts.group_id}")'


def _count_rest(facts: GroupFacts, shown: int) -> str:
    more = sum(facts.counts.values()) - shown
    return f"{more:,} more rows" if more > 1 else "1 more row" if more else ""


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
