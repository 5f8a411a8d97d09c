"""`TaskHistory`: the tasks there are, to be found, opened, continued and deleted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from longtask_kit.client.listed import describe_listed
from longtask_kit.widgets.facts import describe_state
from longtask_kit.widgets.output import hear_in_busy_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from longtask_kit.client.listed import Folded

_STATIC = Path(__file__).parent / "static"
_FIRST = ("running", "retrying", "pending", "failed")  # which of its rows' states a group's is


class TaskHistory(anywidget.AnyWidget):
    """Earlier tasks, and the panel's keys.

    Attributes:
        rows: A dict for each task or group, newest first, with its `id`, `prompt`, `model`, `word`.
        shown: Id of the task that the panel shows, or "".
        problem: Why something could not be done, or "".
        is_page: Whether the panel is a page of its own, whose address names the task.
    """

    _esm = _STATIC / "panel.js"
    _css = _STATIC / "panel.css"
    rows: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    shown = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)
    is_page = traitlets.Bool(False).tag(sync=True)

    def __init__(self, act: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.on_msg(lambda _, message, __: act(message))
        hear_in_busy_cells(self)

    def __repr__(self) -> str:
        return f"TaskHistory({len(self.rows)} tasks and groups)"


def make_rows(lines: Iterable[Folded], *, default_model: str) -> list[dict[str, Any]]:
    """Return what the page lists; a group is one line, which opens its newest task."""
    return [_make_row(line, default_model) for line in lines]


def _make_row(line: Folded, default_model: str) -> dict[str, Any]:
    listed = describe_listed(line.record, default_model=default_model)
    status, word, finish, tokens = listed.status, listed.word, None, listed.tokens
    if line.group_id:
        status = next((state for state in _FIRST if line.states[state]), status)
        word, tokens = line.word, None
    elif word != status:
        finish = word
    return {
        "id": listed.task,
        "prompt": line.prompt,
        "model": listed.model,
        "status": status,
        "word": word,
        "kind": describe_state(status, finish=finish, has_text=True).kind,
        "tokens": tokens,
        "createdMs": round(listed.created.timestamp() * 1000),
    }
