"""`LiveOutput`: what the live outputs of a group, a comparison and the dashboard have alike.

Each view in a page says which rows it shows, and that it is seen; it is sent those rows, four times
a second at most, and only what has changed. What no view shows is not read: Redis bills commands.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anywidget
import ipywidgets as w
import traitlets

from longtask_kit.errors import ConfigError, LongTaskError
from longtask_kit.widgets.keeper import may_pages_write
from longtask_kit.widgets.output import TaskOutput, hear_in_busy_cells

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from longtask_kit.client.door import Door
    from longtask_kit.client.task import Task
    from longtask_kit.client.watch import Watch

logger = logging.getLogger(__name__)

_DRAW_S = 0.25
_ALIVE_S = 60.0  # a view that was not heard of for so long is not read for
_MAX_VIEWS = 20


class LiveOutput(anywidget.AnyWidget):
    """A live output area, its views, and what its buttons start.

    Args:
        door: The kit's.
        watch: What it shows.

    Attributes:
        card: The chosen task's output, or None.
        has_page: Whether a page ever spoke: an executed notebook has none.
    """

    snapshot = traitlets.Dict().tag(sync=True)
    card = traitlets.Instance(TaskOutput, allow_none=True).tag(sync=True, **w.widget_serialization)

    def __init__(self, door: Door, watch: Watch) -> None:
        self.has_page = False
        self._door, self._held = door, watch
        self._lock = threading.RLock()
        self._views: dict[str, Any] = {}
        self._open_id: str | None = None
        self._output: TaskOutput | None = None
        self._notice = ""
        self._sent_facts: dict[str, Any] = {}
        self._sent_bundle: dict[str, str] = {}
        self._drew_at = self._saved_at = 0.0
        self._is_draw_due = False
        # What a page needs to find itself in its notebook.
        self._place = {"modelId": uuid4().hex, "mayWrite": may_pages_write()}
        super().__init__(model_id=self._place["modelId"])
        self.on_msg(self._receive)
        hear_in_busy_cells(self)
        watch.listen(self._schedule_draw)

    def _make_view(self, asked: dict[str, Any]) -> Any:  # noqa: ANN401 - each output's own
        """Return a view of what a page asks for."""
        raise NotImplementedError

    def _draw(self) -> None:
        """Send what has changed."""
        raise NotImplementedError

    def _act(self, name: str, message: dict[str, Any]) -> None:
        """Act on a button of a view."""
        raise NotImplementedError

    def _show_card(self, task: Task) -> None:
        if self._output is None:
            self._output = TaskOutput()
        self._output.watch(task)
        self.card = self._output

    def _close_card(self) -> None:
        self._open_id = self.card = None
        if self._output is not None:
            self._output.unwatch()
        self._schedule_draw()

    def _schedule_draw(self) -> None:
        """Draw soon, four times a second at most; nothing where nobody looks."""
        with self._lock:
            if self._is_draw_due or not self._views:
                return
            self._is_draw_due = True
            wait_s = max(0.0, self._drew_at + _DRAW_S - time.monotonic())
        self._door.call_later(wait_s, self._draw)

    def _send_update(self, facts: dict[str, Any], windows: Mapping[str, Any]) -> None:
        update: dict[str, Any] = {"t": "live"}
        update |= {"facts": facts} if facts != self._sent_facts else {}
        update |= {"windows": windows} if windows else {}
        self._sent_facts = facts
        if len(update) > 1:
            self.send(update)

    def _receive(self, _: object, message: dict[str, Any], __: object) -> None:
        """Act on a message of a page; nothing here may block the kernel's shell."""
        self.has_page = True
        name = str(message.get("v"))[:40]
        match message.get("t"):
            case "view":
                self._take_view(name, message)
            case "alive" if name in self._views:
                self._hold(name)
            case "hide":
                with self._lock:
                    self._views.pop(name, None)
                self._held.release((id(self), name))
            case _:
                self._act(name, message)

    def _take_view(self, name: str, message: dict[str, Any]) -> None:
        with self._lock:
            is_new = name not in self._views
            if is_new and len(self._views) >= _MAX_VIEWS:
                self._views.pop(next(iter(self._views)))
            if is_new:
                self._sent_facts, self._sent_bundle = {}, {}  # it may know nothing
            self._views[name] = self._make_view(message)
        self._hold(name)
        self._schedule_draw()

    def _hold(self, name: str) -> None:
        try:
            self._held.hold((id(self), name), for_s=_ALIVE_S)
        except ConfigError as exc:
            self._tell(str(exc))

    def _tell(self, notice: str) -> None:
        self._notice = notice
        self._schedule_draw()

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run what a button asked for; its failure is shown, since nobody else would."""

        async def run() -> None:
            try:
                await work()
            except LongTaskError as exc:
                self._tell(str(exc))
            except Exception as exc:  # nobody else has it: what is awaited here, nobody awaits
                logger.exception("what a button asked for failed")
                self._tell(f"{type(exc).__name__}: {exc}")

        self._tell("")
        try:
            self._door.start(run())
        except ConfigError as exc:
            self._tell(str(exc))
