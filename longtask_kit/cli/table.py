"""A table in a terminal from which ids can be copied: no cell but the last is ever shortened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

_GAP = 2
_INDENT = 4
_LAST = 20  # cells that the last column has at least, where it has so much to say


def print_table(
    console: Console,
    names: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    caps: Sequence[int | None] = (),
) -> None:
    """Print rows below their columns' names; where nobody's terminal is, each is one line."""
    is_wide = not console.is_terminal and "COLUMNS" not in os.environ
    head = [Text(name, style="bold") for name in names]
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    for line in lay_out([head, *cells], width=None if is_wide else console.width, caps=caps):
        console.print(line, soft_wrap=True)


def lay_out(
    rows: Sequence[Sequence[Text]], *, width: int | None, caps: Sequence[int | None] = ()
) -> list[Text]:
    """Return the lines of a table.

    Columns that don't fit beside the others stand below them, indented. Where room is short, a
    cell that is longer than its column's cap has a line to itself, and its row goes on below it.

    Args:
        rows: The first one is the head.
        width: Of the terminal, None for no limit.
        caps: How wide a column may make itself where room is short, None for as wide as it is.
    """
    widths = [max(cell_len(row[at].plain) for row in rows) for at in range(len(rows[0]))]
    if width is not None and sum(widths[:-1]) + _GAP * (len(widths) - 1) + _LAST > width:
        limits = [*caps, *([None] * (len(widths) - len(caps)))]
        widths = [
            own if cap is None else min(own, cap) for own, cap in zip(widths, limits, strict=True)
        ]
    places = _place(widths, width)
    return [line for row in rows for line in _lay_out_row(row, places, width)]


def _place(widths: Sequence[int], width: int | None) -> list[tuple[int, int]]:
    """Return for each column on which of a row's lines it stands, and where."""
    places, line, start = [], 0, 0
    for at, own in enumerate(widths):
        need = min(own, _LAST) if at == len(widths) - 1 else own
        if width is not None and start and start + need > width:
            line, start = line + 1, _INDENT
        places.append((line, start))
        start += own + _GAP
    return places


def _lay_out_row(
    row: Sequence[Text], places: Sequence[tuple[int, int]], width: int | None
) -> list[Text]:
    lines, line_at = [Text()], 0
    for cell, (line, start) in zip(row, places, strict=True):
        if not cell.plain:
            continue
        used = cell_len(lines[-1].plain)
        if line != line_at or (start and used > start - _GAP):
            lines.append(Text())
            line_at, used = line, 0
        lines[-1].append(" " * (start - used)).append_text(cell)
    if width is not None and row[-1].plain:  # it stands last
        lines[-1].truncate(max(width, _INDENT + _LAST), overflow="ellipsis")
    return lines
