"""`longtask watch`: the dashboard in a terminal; plain lines, one a change, where it is none."""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from longtask_kit.cli.console import OwnConsole, connect_quietly
from longtask_kit.client.listed import describe_age
from longtask_kit.client.overview import choose_lines
from longtask_kit.client.overview_watch import OverviewWatch
from longtask_kit.widgets.dashboard_facts import DashboardFacts, write_side
from longtask_kit.widgets.dashboard_saved import describe_text
from longtask_kit.widgets.group_facts import format_cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from longtask_kit.client.overview import Line, Side

_LOOK_S = 10.0
_DRAWS_PER_S = 4
_AGE_S = 1.0
_COLUMNS = {"try": 3, "age": 6, "tok/s": 6, "cost": 10}  # cells, on the right
_GIVEN_UP = ("cost", "tok/s", "try")  # where it is narrow, the first one first
_GAP = 2
_LEFT = 40  # cells for what stands before them, with the model's name
_LEAST = 24  # without it
_HEADER_LINES = 2  # the table's, and where a terminal's cursor stands
_STYLES = {"running": "cyan", "waiting": "yellow", "failed": "red", "done": "green"}
_WELL = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}


def watch(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print what is now, and end.")] = False,
) -> None:
    """Watch tasks, groups, the queue, each service and the limits, until Ctrl-C."""
    with connect_quietly(say_where=True) as kit:
        followed = OverviewWatch(kit._door, default_model=kit._find_place(None).model)
        followed.catch_up(timeout_s=_LOOK_S)
        console = OwnConsole()
        if once:
            sys.stdout.write(f"{_describe(followed)}\n")
        elif console.is_terminal:
            _follow_live(followed, console)
        else:
            _follow_plainly(followed)


def _describe(followed: OverviewWatch) -> str:
    lines = followed.read_lines()
    facts = DashboardFacts.of(lines, followed.side, notice=followed.error)
    return describe_text(facts, choose_lines(lines, followed.groups))


def _follow_live(followed: OverviewWatch, console: OwnConsole) -> None:
    changed = threading.Event()
    followed.listen(changed.set)
    followed.hold("terminal")
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(draw(followed, console), refresh=True)
            changed.wait(_AGE_S)
            changed.clear()
            time.sleep(1 / _DRAWS_PER_S)  # what comes meanwhile is drawn together


def _follow_plainly(followed: OverviewWatch) -> None:
    """Print what there is, then each line that has become another."""
    changed = threading.Event()
    followed.listen(changed.set)
    followed.hold("terminal")
    sys.stdout.write(f"{_describe(followed)}\n\n")
    sys.stdout.flush()
    known = {line.line_id: line for line in followed.read_lines()}
    while True:
        changed.wait(_AGE_S)
        changed.clear()
        lines = followed.read_lines()
        for line in reversed(lines):
            if _differs(line, known.get(line.line_id)):
                error = f": {line.error}" if line.error else ""
                sys.stdout.write(f"{line.line_id}  {line.word}{error}  {line.prompt}\n")
        sys.stdout.flush()
        known = {line.line_id: line for line in lines}


def _differs(line: Line, known: Line | None) -> bool:
    return known is None or (line.word, line.attempt) != (known.word, known.attempt)


def draw(followed: OverviewWatch, console: Console) -> RenderableType:
    """Return the screen: figures, as many rows as find room, and how the services are."""
    lines = followed.read_lines()
    facts = DashboardFacts.of(lines, followed.side, notice=followed.error)
    figures = "  ".join(f"{value}{after}" for _, value, after in facts.list_figures())
    above = [Text.assemble((facts.word, f"bold {_STYLES[facts.stage]}"), "  ", figures)]
    above += [Text(facts.notice, style="red")] if facts.notice else []
    above.append(Text(""))
    below = [Text(""), *_draw_side(followed.side)]
    taken = len(console.render_lines(Group(*above, *below)))  # which break where they are long
    room = max(3, console.height - taken - _HEADER_LINES)
    shown = choose_lines(lines, followed.groups)
    return Group(*above, _draw_rows(shown[:room], console.width), *below)


def choose_columns(width: int) -> list[str]:
    """Return the columns for which there is room beside status and prompt."""
    columns, left = ["model", *_COLUMNS], _LEFT
    for name in ("model", *_GIVEN_UP):
        if width >= left + sum(_COLUMNS[one] + _GAP for one in columns if one in _COLUMNS):
            break
        columns.remove(name)
        left = _LEAST
    return columns


def _draw_rows(lines: Sequence[Line], width: int) -> Table:
    columns = choose_columns(width)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("status", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=6)
    for name in columns:
        if name == "model":
            table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=2)
        else:
            table.add_column(name, no_wrap=True, justify="right", min_width=_COLUMNS[name])
    now = datetime.now(UTC)
    for line in lines:
        told: dict[str, Text | str] = {
            "model": Text(line.model),
            "try": str(line.attempt) if line.attempt > 1 and not line.rows else "",
            "age": describe_age((now - line.created).total_seconds()),
            "tok/s": "" if line.rate is None else f"{line.rate:,.0f}",
            "cost": "" if line.cost is None else format_cost(line.cost),
        }
        table.add_row(
            Text(f"{line.word}: {line.error}" if line.error else line.word, _STYLES[line.stage]),
            Text(line.prompt, "bold" if line.rows else ""),
            *(told[name] for name in columns),
        )
    return table


def _draw_side(side: Side) -> list[Text]:
    services = Text()
    for one in side.health:
        mark, style = _WELL[one.is_well]
        latency = "" if one.latency_ms is None else f" {one.latency_ms:,.0f} ms"
        services.append(f"{mark} ", style).append(f"{one.service}{latency}   ")
    shown = [services] if side.health else []
    shown += [
        Text(f"{one.service}: {one.detail}", "red") for one in side.health if one.is_well is False
    ]
    if side.queue is not None:
        queue, dead = side.queue, len(side.queue.dead)
        count = f"{queue.waiting:,} waiting, {queue.in_flight:,} in flight, {dead:,} dead"
        shown.append(Text(f"queue: {count}"))
        shown += [Text(f"  {one.task_id}  {one.reason}", "red") for one in queue.dead[:3]]
    wire = write_side(side)
    for model, _, words, waits in wire["limits"]:
        shown.append(Text(f"limit: {model} {words}{f', {waits}' if waits else ''}"))
    shown += [Text(note, "dim") for note in side.notes]
    return [*shown, *([Text(side.error, "red")] if side.error else [])]
