"""A task in a terminal: its text as it grows, a live status line, no escape sequence of a model."""

from __future__ import annotations

import io
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from longtask_kit.cassettes import describe_replay
from longtask_kit.log.events import to_wire
from longtask_kit.log.finish import note_finish
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
NOTE_STYLE = "yellow"  # of an end that is none
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def take_any_text(stream: TextIO) -> None:
    """Have a stream take text that its encoding lacks, which may be ASCII or cp1252.

    On a terminal, where the width of a line counts, each such character is a question mark;
    elsewhere it is escaped, so that nothing is lost.
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace" if stream.isatty() else "backslashreplace")


def print_json_line(wire: dict[str, Any]) -> None:
    """Print a line of JSON, which says the same in any encoding."""
    sys.stdout.write(to_json_line(wire, encoding=sys.stdout.encoding))


def print_json_events(task: Task) -> None:
    """Print one wire event a line, with its cursor as `id`."""
    for event in task.events():
        wire = to_wire(task.id, event) | {"id": str(event.cursor)}
        if event.type == "end":
            wire["data"] = task.snapshot().text
        print_json_line(wire)
        sys.stdout.flush()


def print_stream(task: Task) -> Transcript:
    """Print a task's text as it comes; returns its state at the end.

    On a terminal a live status line stands below the text. Elsewhere the text goes to standard
    output as it is, and notes to standard error.
    """
    take_any_text(sys.stdout)
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        _print_live(task, task.events(), console)
    else:
        _print_plain(task.events())
    state = task.snapshot()
    finish = note_finish(state, max_tokens=task._brief.max_tokens)
    for note in filter(None, (finish, describe_replay(state.data.get("replayed")))):
        Console(stderr=True, highlight=False).print(Text(make_printable(note), style=NOTE_STYLE))
    return state


def _describe_calls(event: TaskEvent) -> str:
    """Return a line for each call: what is to be called, with what."""
    calls = [call.get("function", call) for call in json.loads(event.data)]
    return "".join(
        make_printable(f"{call.get('name')}({call.get('arguments', '')})") + "\n" for call in calls
    )


def _print_plain(events: Iterable[TaskEvent]) -> None:
    last = refusal = ""
    has_text = False
    for event in events:
        if event.type == "content":
            has_text = True
            last = make_printable(event.data) or last
            sys.stdout.write(make_printable(event.data))
            sys.stdout.flush()
        elif event.type == "status" and event.data == "retrying":
            cause = make_printable(event.error or "").rstrip(".")
            sys.stderr.write(f"attempt {event.cursor.attempt} failed: {cause}; retrying\n")
        elif event.type == "start":
            if has_text:  # not before: an attempt that continues goes on in mid-line
                _end_line(last)
                sys.stderr.write(f"attempt {event.data}: the text starts over\n")
            has_text, last = False, ""
        elif event.type == "continue":
            sys.stderr.write(f"attempt {event.cursor.attempt}: goes on where the text ended\n")
        elif event.type == "tool_calls":
            _end_line(last)
            last = _describe_calls(event)
            sys.stdout.write(last)
        elif event.type == "refusal":
            refusal = make_printable(event.data) or refusal
            sys.stderr.write(make_printable(event.data))
    if refusal and not refusal.endswith("\n"):
        sys.stderr.write("\n")
    _end_line(last)


def _end_line(last: str) -> None:
    """End the line that was written last, if it is open."""
    if last and not last.endswith("\n"):
        sys.stdout.write("\n")


def _print_live(task: Task, events: Iterable[TaskEvent], console: Console) -> None:
    """Print whole lines above, and keep the unfinished one with the status in the live part."""
    view = _LiveView(task)
    with Live(view, console=console, refresh_per_second=20, transient=True) as live:
        for event in events:
            if event.type in ("content", "refusal"):
                _show_text(view, live, event)
            elif event.type == "status" and event.data == "retrying":
                view.held = f"attempt {event.cursor.attempt} failed: {event.error}"
            elif event.type == "start":
                _close_line(view, live)
                if view.has_text:
                    _note(live, f"attempt {event.data}: the text starts over")
                view.has_text = False
            elif event.type == "continue":
                _tell_held(view, live)
            elif event.type == "tool_calls":
                _close_line(view, live)
                live.console.print(Text(_describe_calls(event).rstrip()))
        _close_line(view, live)
    console.print(Text(view.describe(), style="dim"))


def _show_text(view: _LiveView, live: Live, event: TaskEvent) -> None:
    view.has_text = True
    style = NOTE_STYLE if event.type == "refusal" else ""
    if style != view.style:
        _close_line(view, live)
        view.style = style
    lines = (view.open_line + make_printable(event.data)).split("\n")
    view.open_line = lines.pop()
    for line in lines:
        live.console.print(Text(line, style=style))


def _note(live: Live, note: str) -> None:
    live.console.print(_make_note(note))


def _make_note(note: str) -> Text:
    return Text(f"── {make_printable(note)}", style="magenta")


def _close_line(view: _LiveView, live: Live) -> None:
    if view.open_line:
        line, view.open_line = view.open_line, ""
        live.console.print(Text(line, style=view.style))
    _tell_held(view, live)


def _tell_held(view: _LiveView, live: Live) -> None:
    """Print why the attempt before failed: above a line that goes on, below one that does not."""
    if view.held:
        note, view.held = view.held, ""
        _note(live, note)


class _LiveView:
    """The last, unfinished line, and the status below it."""

    def __init__(self, task: Task) -> None:
        self.open_line, self.style = "", ""
        self.held = ""  # why the last attempt failed, until it is known whether its line goes on
        self.has_text = False  # of this attempt, or of those that it continues
        self._task = task
        self._began = time.monotonic()

    def __rich__(self) -> Group:
        spinner = _SPINNER[int(time.monotonic() * 10) % len(_SPINNER)]
        status = Text(
            f"{spinner} {self.describe()}", style="dim", no_wrap=True, overflow="ellipsis"
        )
        above = [Text(self.open_line, style=self.style)] if self.open_line else []
        return Group(*above, *([_make_note(self.held)] if self.held else []), status)

    def describe(self) -> str:
        """Return status, time, tokens and the id to come back with."""
        state = self._task._feed.transcript
        seconds = time.monotonic() - self._began
        parts: list[str] = [state.status]
        if state.attempt > 1:
            parts.append(f"attempt {state.attempt}")
        parts.append(f"{seconds:.1f} s")
        if state.reasoning and not state.answered and not state.is_terminal:
            thought_s = (datetime.now(UTC) - (state.first_token or datetime.now(UTC))).seconds
            parts[0] = f"thinking · {thought_s} s"
        if progress := state.data.get("progress"):
            parts.append(_describe_progress(progress))
        if state.tokens:
            unit = self._task._brief.unit
            parts.append(f"{state.tokens} {unit}{'' if state.tokens == 1 else 's'}")
        if state.first_token and state.started:
            first_ms = (state.first_token - state.started).total_seconds() * 1000
            parts.append(f"first after {first_ms:.0f} ms")
        return " · ".join([*parts, self._task.id])


def _describe_progress(progress: object) -> str:
    """Return `indexing 3 of 8`, of what a handler told of itself."""
    if not isinstance(progress, dict):
        return ""
    total = f" of {progress['total']:g}" if isinstance(progress.get("total"), int | float) else ""
    done = progress.get("done")
    counted = f"{done:g}{total}" if isinstance(done, int | float) else ""
    return make_printable(f"{progress.get('message') or ''} {counted}".strip())
