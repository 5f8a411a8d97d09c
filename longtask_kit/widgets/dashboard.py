"""`Dashboard`: all tasks and groups of a kit, and what stands beside them, live.

What it has in common with other live outputs of many rows stands in `live.py`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from longtask_kit.client.overview import fold_lines
from longtask_kit.client.overview_side import find_queue, retry_dead_letter
from longtask_kit.client.overview_watch import OverviewWatch
from longtask_kit.client.task import Task
from longtask_kit.widgets.dashboard_facts import DashboardFacts, DashboardQuery
from longtask_kit.widgets.dashboard_saved import make_bundle
from longtask_kit.widgets.display import find_kernel_shell, keep_up, make_view
from longtask_kit.widgets.live import LiveOutput

if TYPE_CHECKING:
    from IPython.core.display_functions import DisplayHandle

    from longtask_kit.client.kit import Kit
    from longtask_kit.client.overview import Line

_STATIC = Path(__file__).parent / "static"
_LOOK_S = 10.0
_SAVE_S = 3.0  # between two static forms


class Dashboard:
    """What happens, as the last line of a cell; made by `kit.dashboard()`.

    `print()` it, or look at it without widgets, and it is the table as of now.
    """

    def __init__(self, kit: Kit) -> None:
        self._door = kit._door
        self._watch = OverviewWatch(self._door, default_model=kit._find_place(None).model)
        self._output: DashboardOutput | None = None

    def __repr__(self) -> str:
        return f"<Dashboard {len(self._watch.records):,} tasks>"

    def __str__(self) -> str:
        self._watch.catch_up(timeout_s=_LOOK_S)
        return self._make_bundle()["text/plain"]

    def _make_bundle(self) -> dict[str, str]:
        """Return the static form of what is known."""
        lines = self._watch.read_lines()
        facts = DashboardFacts.of(lines, self._watch.side, notice=self._watch.error)
        return make_bundle(facts, fold_lines(lines, self._watch.groups))

    def _ipython_display_(self) -> None:
        """Show it live, or print it where there are no widgets."""
        shell = find_kernel_shell()
        if shell is None:
            from longtask_kit.client.terminal import take_any_text

            take_any_text(sys.stdout)
            sys.stdout.write(f"{self}\n")
            return
        self._watch.catch_up(timeout_s=_LOOK_S)
        if self._output is None:
            # Several cells that show one are views of one output.
            self._output = DashboardOutput(self)
        keep_up(shell, _ShownDashboard(self, self._output))


@dataclass(slots=True)
class _View:
    """A view in a page: what it asks, and what it was last sent."""

    query: DashboardQuery
    sent: dict[str, Any] = field(default_factory=dict)


class DashboardOutput(LiveOutput):
    """The live output area of a dashboard.

    Args:
        dashboard: What to show.
    """

    _esm = _STATIC / "dashboard.js"
    _css = _STATIC / "dashboard.css"

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard, self._watch = dashboard, dashboard._watch
        super().__init__(dashboard._door, dashboard._watch)

    def __repr__(self) -> str:
        return f"DashboardOutput({len(self._watch.records)} tasks)"

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:  # noqa: ANN401
        """Return the widget's state, always as it is known now."""
        state = cast("dict[str, Any]", super().get_state(key=key, drop_defaults=drop_defaults))
        if "snapshot" in state:
            with self._lock:
                lines = self._watch.read_lines()
                window = DashboardQuery().show(lines, self._watch.groups)
                state["snapshot"] = {"facts": self._describe(lines), "place": self._place} | window
        return state

    def open_task(self, task_id: str) -> None:
        """Show a task's card beside the table."""
        record = self._watch.records.get(task_id)
        if record is None:
            return
        self._open_id = task_id
        self._show_card(Task(task_id, door=self._door, record=record))
        self._schedule_draw()

    def close_task(self) -> None:
        """Show no task's card."""
        self._close_card()

    def _make_view(self, asked: dict[str, Any]) -> _View:
        return _View(DashboardQuery.from_wire(asked))

    def _describe(self, lines: list[Line]) -> dict[str, Any]:
        notice = self._notice or self._watch.error
        facts = DashboardFacts.of(lines, self._watch.side, notice=notice).to_wire()
        return facts | {"open": self._open_id}

    def _draw(self) -> None:
        with self._lock:
            self._is_draw_due, self._drew_at = False, time.monotonic()
            lines = self._watch.read_lines()
            facts = self._describe(lines)
            windows: dict[str, Any] = {}
            for name, view in self._views.items():
                window = view.query.show(lines, self._watch.groups)
                if window != view.sent:
                    windows[name] = view.sent = window
            self._send_update(facts, windows)
            self._send_bundle()

    def _send_bundle(self) -> None:
        """Send what a page saves, now and then."""
        if time.monotonic() - self._saved_at < _SAVE_S:
            return
        self._saved_at = time.monotonic()
        bundle = self._dashboard._make_bundle()
        if bundle != self._sent_bundle:
            self._sent_bundle = bundle
            self.send({"t": "saved", "data": bundle})

    def _act(self, name: str, message: dict[str, Any]) -> None:
        own_id = str(message.get("id"))
        match message.get("t"):
            case "open":
                self.open_task(own_id)
            case "close":
                self.close_task()
            case "retry":
                self._start(lambda: self._retry(self._find_tasks(own_id, {"failed"})))
            case "cancel":
                self._start(lambda: self._cancel(self._find_tasks(own_id, {"running", "waiting"})))
            case "delete":
                self._start(lambda: self._delete(own_id))
            case "letter-retry":
                task_id = str(message.get("task") or "")
                self._start(lambda: self._retry_letter(own_id, task_id))
            case "letter-delete":
                self._start(lambda: find_queue(self._door.backend).delete_dead_letter(own_id))

    def _take_view(self, name: str, message: dict[str, Any]) -> None:
        if name not in self._views:
            self._saved_at = 0.0
        super()._take_view(name, message)

    def _find_tasks(self, line_id: str, stages: set[str]) -> list[str]:
        """Return the tasks in these stages that a row stands for: itself, or its group's."""
        return [
            line.line_id
            for line in self._watch.read_lines()
            if line_id and line_id in (line.line_id, line.group_id) and line.stage in stages
        ]

    async def _retry(self, task_ids: list[str]) -> None:
        await self._door.retry_all(task_ids)
        self._watch.look_again(task_ids)

    async def _cancel(self, task_ids: list[str]) -> None:
        await self._door.backend.groups.cancel(task_ids)
        self._watch.look_again(task_ids)

    async def _delete(self, task_id: str) -> None:
        if self._open_id == task_id:
            self._door.hand_over(self.close_task)
        await self._door.backend.delete(task_id)
        self._watch.look_again([task_id])

    async def _retry_letter(self, dead_letter_id: str, task_id: str) -> None:
        await retry_dead_letter(self._door.backend, dead_letter_id, task_id)
        self._door.tell_of_submit([task_id] if task_id else [])
        self._watch.look_again([task_id] if task_id else [])


class _ShownDashboard:
    """A dashboard in one cell's output."""

    def __init__(self, dashboard: Dashboard, output: DashboardOutput) -> None:
        from IPython.display import display

        self._dashboard, self._output = dashboard, output
        self._note = {"longtask": {"dashboard": True}}
        self._handle: DisplayHandle = display(  # type: ignore[no-untyped-call]
            self._describe(has_view=True), raw=True, metadata=self._note, display_id=True
        )
        self._is_new = True  # its page, if there is one, has had no time to speak

    def refresh(self) -> bool:
        """Leave the static form where no page spoke; whether it goes on."""
        if self._output.has_page:
            return False
        if self._is_new:
            self._is_new = False
            return True
        data = self._describe(has_view=False)
        self._handle.update(data, raw=True, metadata=self._note)  # type: ignore[no-untyped-call]
        return False

    def _describe(self, *, has_view: bool) -> dict[str, Any]:
        data: dict[str, Any] = dict(self._dashboard._make_bundle())
        if has_view:
            data |= make_view(self._output)
        return data
