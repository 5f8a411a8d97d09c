"""`XRayOutput`: a task's x-ray in a page, live while somebody sees it."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import uuid4
from weakref import WeakKeyDictionary

import anywidget
import traitlets

from longtask_kit.errors import ConfigError
from longtask_kit.widgets.display import keep_up, make_view
from longtask_kit.widgets.keeper import may_pages_write
from longtask_kit.widgets.output import hear_in_busy_cells
from longtask_kit.widgets.xray import make_bundle, make_track, read_facts

if TYPE_CHECKING:
    from IPython.core.display_functions import DisplayHandle

    from longtask_kit.client.door import Door
    from longtask_kit.client.task import Task
    from longtask_kit.widgets.xray import XRay

_STATIC = Path(__file__).parent / "static"
_DRAW_S = 0.5
_SAVE_S = 3.0  # between two static forms
_ALIVE_S = 60.0  # a view that was not heard of for so long is not drawn for
_live: WeakKeyDictionary[Task, XRayOutput] = WeakKeyDictionary()


class Picture(Protocol):
    """What a page is shown of: a task, or a group."""

    @property
    def door(self) -> Door:
        """The kit's door."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing changes any more."""
        ...

    def follow(self) -> None:
        """Have what happens from now on taken in, for some seconds at least."""
        ...

    def read_facts(self) -> dict[str, Any]:
        """Return what the page draws, as far as is known; nothing is asked."""
        ...

    def make_bundle(self) -> dict[str, str]:
        """Return the static form."""
        ...

    def make_track(self) -> list[dict[str, Any]]:
        """Return the text as it grew."""
        ...


class TaskPicture:
    """A task, as the page is shown it."""

    def __init__(self, xray: XRay) -> None:
        self._xray = xray
        self.door = xray.task._door

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self._xray.task._feed.state.is_over

    def follow(self) -> None:
        """Have its events taken in."""
        self._xray.task._feed.follow()

    def read_facts(self) -> dict[str, Any]:
        """Return what the page draws."""
        return read_facts(self._xray.task, self._xray._read())

    def make_bundle(self) -> dict[str, str]:
        """Return the static form."""
        return make_bundle(self._xray._read(), task_id=self._xray.task.id)

    def make_track(self) -> list[dict[str, Any]]:
        """Return the text as it grew."""
        return make_track(self._xray._read())


class XRayOutput(anywidget.AnyWidget):
    """The live x-ray of a task or a group: drawn twice a second while a page shows it.

    Args:
        picture: What to show.

    Attributes:
        has_page: Whether a page ever spoke: an executed notebook has none.
    """

    _esm = _STATIC / "xray.js"
    _css = _STATIC / "xray.css"
    snapshot = traitlets.Dict().tag(sync=True)

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.has_page = False
        self._lock = threading.RLock()
        self._views: dict[str, float] = {}  # until when, on the monotonic clock
        self._is_drawing = False
        self._sent: dict[str, Any] = {}
        self._saved_at = 0.0
        self._place = {"modelId": uuid4().hex, "mayWrite": may_pages_write()}
        super().__init__(model_id=self._place["modelId"])
        self.on_msg(self._receive)
        hear_in_busy_cells(self)

    def __repr__(self) -> str:
        return f"XRayOutput({self.picture.read_facts()['word']})"

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:  # noqa: ANN401
        """Return the widget's state, always as it is now."""
        state = cast("dict[str, Any]", super().get_state(key=key, drop_defaults=drop_defaults))
        if "snapshot" in state:
            state["snapshot"] = {"facts": self.picture.read_facts(), "place": self._place}
        return state

    def _receive(self, _: object, message: dict[str, Any], __: object) -> None:
        """Act on a message of a page; nothing here may block the kernel's shell."""
        self.has_page = True
        name = str(message.get("v"))[:40]
        match message.get("t"):
            case "see" | "alive":
                self._views[name] = time.monotonic() + _ALIVE_S
                self._draw_on()
            case "hide":
                self._views.pop(name, None)
            case "track":
                self.picture.door.hand_over(self._send_track)

    def _draw_on(self) -> None:
        with self._lock:
            if self._is_drawing:
                return
            self._is_drawing = True
        self._sent = {}  # whoever has come may know nothing
        self.picture.door.hand_over(self._draw)

    def _draw(self) -> None:
        """Draw, and again in a moment while it changes and somebody looks."""
        is_over = self.picture.is_over
        if not is_over:
            with contextlib.suppress(ConfigError):  # the kit is closed: what is known is drawn
                self.picture.follow()  # of many rows others than before may run
        facts = self.picture.read_facts()
        if facts != self._sent:
            self._sent = facts
            self.send({"t": "x", "facts": facts})
        if is_over or time.monotonic() - self._saved_at > _SAVE_S:
            self._saved_at = time.monotonic()
            self.send({"t": "saved", "data": self.picture.make_bundle()})
        if is_over:
            self._send_track()
        now = time.monotonic()
        with self._lock:
            self._views = {view: until for view, until in self._views.items() if until > now}
            self._is_drawing = bool(self._views) and not is_over
        if self._is_drawing:
            self.picture.door.call_later(_DRAW_S, self._draw)

    def _send_track(self) -> None:
        self.send({"t": "track", "track": self.picture.make_track()})


def display_xray(xray: XRay, shell: Any) -> None:  # noqa: ANN401 - IPython's
    """Show a task's x-ray live, and keep its static form in the notebook."""
    output = _live.get(xray.task)
    if output is None:
        output = _live[xray.task] = XRayOutput(TaskPicture(xray))
    xray.task.snapshot()
    show(output, shell)


def show(output: XRayOutput, shell: Any) -> None:  # noqa: ANN401 - IPython's
    """Show an output in this cell, the static form beside its view."""
    output.picture.follow()
    keep_up(shell, _ShownXRay(output))


class _ShownXRay:
    """An x-ray in one cell's output."""

    def __init__(self, output: XRayOutput) -> None:
        from IPython.display import display

        self._output = output
        self._note = {"longtask": output.picture.read_facts()["note"]}
        self._sent = self._describe(has_view=True)
        self._handle: DisplayHandle = display(  # type: ignore[no-untyped-call]
            self._sent, raw=True, metadata=self._note, display_id=True
        )
        self._is_new = True  # its page, if there is one, has had no time to speak

    def refresh(self) -> bool:
        """Bring the output up to date for an executor; whether it goes on."""
        if self._output.has_page:
            return False
        is_over = self._output.picture.is_over
        if not is_over:
            with contextlib.suppress(ConfigError):
                self._output.picture.follow()
        data = self._describe(has_view=self._is_new or not is_over)
        if data != self._sent:
            self._sent = data
            self._handle.update(data, raw=True, metadata=self._note)  # type: ignore[no-untyped-call]
        goes_on, self._is_new = self._is_new or not is_over, False
        return goes_on

    def _describe(self, *, has_view: bool) -> dict[str, Any]:
        data: dict[str, Any] = dict(self._output.picture.make_bundle())
        if has_view:
            data |= make_view(self._output)
        return data
