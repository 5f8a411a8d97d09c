"""`GroupOutput`: a group, live: progress, the table of its rows, a row's card beside it.

What it has in common with other live outputs of many rows stands in `live.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from longtask_kit.client.frame import make_columns, write_csv
from longtask_kit.submit.spec import TaskSpec
from longtask_kit.widgets.group_display import GroupRows, read_facts
from longtask_kit.widgets.group_facts import Query
from longtask_kit.widgets.group_saved import make_bundle
from longtask_kit.widgets.live import LiveOutput

if TYPE_CHECKING:
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.client.task import Task

_STATIC = Path(__file__).parent / "static"
_SAVE_S = 3.0  # between two static forms, of some ten kilobytes each
_MAX_CSV_CHARS = 5_000_000  # a page's websocket takes ten


class View(Protocol):
    """What a view in a page is sent."""

    def update(self) -> dict[str, Any] | None:
        """Return what has changed of what it shows, or None."""
        ...

    def show(self) -> dict[str, Any]:
        """Return all that it shows."""
        ...


@dataclass(slots=True)
class _View:
    """A view in a page: what it asks, and what it was last sent."""

    rows: GroupRows
    query: Query
    sent: dict[str, Any] = field(default_factory=dict)

    def update(self) -> dict[str, Any] | None:
        """Return its window, unless that is what it was last sent."""
        window = self.show()
        if window == self.sent:
            return None
        self.sent = window
        return window

    def show(self) -> dict[str, Any]:
        """Return its window into the rows."""
        chosen = self.query.choose(self.rows.read())
        # Where there are fewer than there were, the last ones.
        begin = max(0, min(self.query.begin, len(chosen) - self.query.size))
        window = chosen[begin : begin + self.query.size]
        return {
            "begin": begin,
            "total": len(chosen),
            "rows": [row.to_wire() for row in window],
        }


class GroupOutput(LiveOutput):
    """The live output area of a group: progress, table, retry failed, cancel, copy as CSV.

    Args:
        group: What to show.

    Attributes:
        group: What it shows.
    """

    _esm = _STATIC / "group.js"
    _css = _STATIC / "group.css"

    def __init__(self, group: TaskGroup) -> None:
        self.group = group
        self._rows = GroupRows(group)
        super().__init__(group._door, group._watch)

    def __repr__(self) -> str:
        return f"GroupOutput({self.group!r})"

    def make_bundle(self) -> dict[str, str]:
        """Return the static form of what is known."""
        with self._lock:
            return make_bundle(read_facts(self.group), self._rows.read())

    def open_row(self, task_id: str) -> None:
        """Show a task of the group beside the table."""
        if task_id not in self.group._ids:
            return
        self._open_id = task_id
        self._schedule_draw()
        task = self.group._find_task(task_id)
        if task._spec is not None or task._record is not None:
            self._show(task)
        else:
            self.card = None  # that of the row before, whose buttons would be taken for this one's
            self._start(lambda: self._read_and_show(task))

    async def _read_and_show(self, task: Task) -> None:
        """Show a task of which nothing is known here yet."""
        record = await self.group._door.backend.read(task.id)
        task._record, task._brief = record, TaskSpec.recall(record.wire)
        self.group._door.hand_over(lambda: self._show(task))

    def _show(self, task: Task) -> None:
        if self._open_id != task.id:
            return  # another one is by now
        self._show_card(task)

    def close_row(self) -> None:
        """Show no row's card."""
        self._close_card()

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:  # noqa: ANN401
        """Return the widget's state, always with the group as it is known now."""
        state = cast("dict[str, Any]", super().get_state(key=key, drop_defaults=drop_defaults))
        if "snapshot" in state:
            with self._lock:
                window = self._make_view({}).show()
                state["snapshot"] = {"facts": self._describe(), "place": self._place} | window
        return state

    def _make_view(self, asked: dict[str, Any]) -> View:
        return _View(self._rows, Query.from_wire(asked))

    def _describe(self) -> dict[str, Any]:
        return read_facts(self.group, notice=self._notice).to_wire() | {"open": self._open_id}

    def _draw(self) -> None:
        with self._lock:
            self._is_draw_due, self._drew_at = False, time.monotonic()
            facts = self._describe()
            windows = {
                name: window
                for name, view in self._views.items()
                if (window := view.update()) is not None
            }
            self._send_update(facts, windows)
            self._send_bundle(is_over=facts["isOver"])

    def _send_bundle(self, *, is_over: bool) -> None:
        """Send what a page saves: at the end, and now and then before."""
        if not is_over and time.monotonic() - self._saved_at < _SAVE_S:
            return
        bundle = self.make_bundle()
        if bundle != self._sent_bundle:
            self._sent_bundle, self._saved_at = bundle, time.monotonic()
            self.send({"t": "saved", "data": bundle})

    def _act(self, name: str, message: dict[str, Any]) -> None:
        match message.get("t"):
            case "open":
                self.open_row(str(message.get("id")))
            case "close":
                self.close_row()
            case "retry":
                self._start(self._retry_failed)
            case "cancel":
                self._start(self._cancel)
            case "csv":
                self._start(lambda: self._send_csv(name))

    async def _retry_failed(self) -> None:
        failed = self.group._find_failed()
        await self.group._door.retry_all(failed)
        self.group._watch.forget(failed)

    async def _cancel(self) -> None:
        await self.group._door.backend.groups.cancel(self.group._find_open())

    async def _send_csv(self, name: str) -> None:
        group = self.group
        if unread := group._find_unread():
            group._texts |= await group._door.backend.groups.read_texts(unread)
        rows = group.rows if group._rows is not None else group._list_prompts()
        text = write_csv(make_columns(rows, group._list_answers(), samples=group._samples))
        if len(text) > _MAX_CSV_CHARS:
            self._tell(
                f"{len(text):,} characters are too many for the clipboard: "
                'group.to_frame().to_csv("rows.csv") writes them into a file.'
            )
            return
        self.send({"t": "csv", "v": name, "text": text})
