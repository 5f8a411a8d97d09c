"""A task in a terminal: its text as it grows, a live status line, no escape sequence of a model."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from longtask_kit.log.events import to_wire
from longtask_kit.log.text import make_printable, to_json_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longtask_kit.client.task import Task
    from longtask_kit.log.events import TaskEvent
    from longtask_kit.log.transcript import Transcript

STATUS_STYLES = {
    "pending": "yellow",
    "running": "cyan",
    "retrying": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def print_json_events(task: Task) -> None:
    """Print one wire event a line, with its cursor as `id`."""
    for event in task.events():
        wire = to_wire(task.id, event) | {"id": str(event.cursor)}
        if event.type == "end":
            wire["data"] = task.snapshot().text
        sys.stdout.write(to_json_line(wire))
        sys.stdout.flush()


def print_stream(task: Task) -> Transcript:
    """Print a task's text as it comes; returns its state at the end.

    On a terminal a live status line stands below the text. Elsewhere the text goes to standard
    output as it is, and notes to standard error.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        _print_live(task, task.events(), console)
    else:
        _print_plain(task.events())
    return task.snapshot()


def _print_plain(events: Iterable[TaskEvent]) -> None:
    last = ""
    for event in events:
        if event.type == "content":
            last = make_printable(event.data) or last
            sys.stdout.write(make_printable(event.data))
            sys.stdout.flush()
        elif event.type == "status" and event.data == "retrying":
            cause = make_printable(event.error or "")
            sys.stdout.write("\n")
            sys.stderr.write(f"attempt {event.cursor.attempt} failed: {cause}; retrying\n")
        elif event.type == "start" and event.data != "1":
            sys.stderr.write(f"attempt {event.data}: the text starts over\n")
    if last and not last.endswith("\n"):
        sys.stdout.write("\n")


def _print_live(task: Task, events: Iterable[TaskEvent], console: Console) -> None:
    """Print whole lines above, and keep the unfinished one with the status in the live part."""
    view = _LiveView(task)
    with Live(view, console=console, refresh_per_second=20, transient=True) as live:
        for event in events:
            if event.type == "content":
                lines = (view.open_line + make_printable(event.data)).split("\n")
                view.open_line = lines.pop()
                for line in lines:
                    live.console.print(Text(line))
            elif event.type == "status" and event.data == "retrying":
                _break(view, live, f"attempt {event.cursor.attempt} failed: {event.error}")
            elif event.type == "start" and event.data != "1":
                _break(view, live, f"attempt {event.data}: the text starts over")
        _close_line(view, live)
    console.print(Text(view.describe(), style="dim"))


def _break(view: _LiveView, live: Live, note: str) -> None:
    _close_line(view, live)
    live.console.print(Text(f"── {make_printable(note)}", style="magenta"))


def _close_line(view: _LiveView, live: Live) -> None:
    if view.open_line:
        line, view.open_line = view.open_line, ""
        live.console.print(Text(line))


class _LiveView:
    """The last, unfinished line, and the status below it."""

    def __init__(self, task: Task) -> None:
        self.open_line = ""
        self._task = task
        self._began = time.monotonic()

    def __rich__(self) -> Group:
        spinner = _SPINNER[int(time.monotonic() * 10) % len(_SPINNER)]
        status = Text(
            f"{spinner} {self.describe()}", style="dim", no_wrap=True, overflow="ellipsis"
        )
        return Group(Text(self.open_line), status) if self.open_line else Group(status)

    def describe(self) -> str:
        """Return status, time, tokens and the id to come back with."""
        state = self._task._feed.transcript
        seconds = time.monotonic() - self._began
        parts: list[str] = [state.status]
        if state.attempt > 1:
            parts.append(f"attempt {state.attempt}")
        parts.append(f"{seconds:.1f} s")
        if state.tokens:
            parts.append(f"{state.tokens} tokens")
        if state.first_token and state.started:
            first_ms = (state.first_token - state.started).total_seconds() * 1000
            parts.append(f"first after {first_ms:.0f} ms")
        return " · ".join([*parts, self._task.id])
