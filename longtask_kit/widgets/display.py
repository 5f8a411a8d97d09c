"""A task as the last line of a cell: live while it runs, then static text that stays.

A saved notebook keeps a widget only by its id, which nothing can draw after a restart. So the
output carries the task's text beside its view, as far as it has come, and when the task ends it is
replaced by text and HTML, readable on a web page, after a restart, and in an untrusted copy.
"""

from __future__ import annotations

import sys
import threading
import time
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from longtask_kit.client.feed import FeedState
from longtask_kit.errors import LongTaskError
from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.widgets.keeper import describe_now, make_metadata

if TYPE_CHECKING:
    from IPython.core.display_functions import DisplayHandle
    from ipywidgets import Widget

    from longtask_kit.client.task import Task
    from longtask_kit.log.transcript import Transcript
    from longtask_kit.widgets.output import TaskOutput

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_NEWS_S = 0.3  # what a cell showed only just needs no update at that cell's end
_OFFER_S = 20.0  # for a page to take an end, which it asks for twice if it must
_END_S = 5.0  # an end that is known of takes a moment to be read, and costs a cell no more
_live: WeakKeyDictionary[Task, TaskOutput] = WeakKeyDictionary()
_is_cell_running = threading.Event()
_shown: list[Shown] = []  # whose end no cell has shown for certain


def display_task(task: Task) -> None:
    """Show a task in a notebook, or print it where there are no widgets."""
    shell = find_kernel_shell()
    if shell is None:
        from longtask_kit.client.terminal import print_stream

        print_stream(task)
        return
    from IPython.display import display

    _take_end_in(task)
    has_ended = task._feed.state is FeedState.ENDED
    state = task._feed.copy()
    if has_ended and state.status == "completed":
        metadata = make_metadata(task.id, state.status)
        display(describe_now(task, state), raw=True, metadata=metadata)  # type: ignore[no-untyped-call]
        if task._record is not None and _is_asked_by_page(shell):  # of an earlier kernel, perhaps
            _offer_end(task)
        return
    from longtask_kit.widgets.output import TaskOutput

    output = _live.get(task)
    if output is None or not (output.is_watching or has_ended):
        # Several cells that show a task are views of one output: its text is sent once.
        output = _live[task] = TaskOutput(task)
    keep_up(shell, shown := _Shown(task, output))
    shown.follow()


def _take_end_in(task: Task) -> None:
    """Read what a task said that was over when it was found: it has no later moment to show it."""
    known, feed = task._record, task._feed
    try:
        if known is not None and known.is_over and task._read_record().is_over:
            feed.follow()
            feed.wait_until(lambda: feed.state.is_over, timeout_s=_END_S)
    except LongTaskError:
        pass  # it is shown with what is known; the card says what is wrong


def _is_asked_by_page(shell: Any) -> bool:  # noqa: ANN401 - IPython's
    """Tell whether a page asked for the running cell: an executor names none."""
    asked: dict[str, Any] = getattr(shell.kernel, "get_parent", dict)()
    return bool((asked.get("metadata") or {}).get("cellId"))


def _offer_end(task: Task) -> None:
    """Have what an earlier kernel left of an ended task be filled in the pages, which may show it.

    They are told of it as of any output, though this one is shown nowhere.
    """
    from longtask_kit.widgets.output import TaskOutput

    output = TaskOutput(task)

    def close() -> None:
        output.unwatch()
        output.close()

    closing = threading.Timer(_OFFER_S, close)  # also where the kit is closed by then
    closing.daemon = True
    closing.start()


def keep_up(shell: Any, shown: Shown) -> None:  # noqa: ANN401 - IPython's
    """Have what a cell shows brought up to date at the end of each cell."""
    if _end_cell not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("pre_run_cell", _begin_cell)
        shell.events.register("post_run_cell", _end_cell)
        _begin_cell()
    _shown.append(shown)


class Shown(Protocol):
    """What a cell shows, until that holds its end."""

    def refresh(self) -> bool:
        """Bring it up to date for an executor, in a running cell; whether it goes on."""
        ...


class _Shown:
    """A task in one cell's output, until that holds its end."""

    def __init__(self, task: Task, output: TaskOutput) -> None:
        from IPython.display import display

        self._task = task
        self._output = output
        self._shown_at = time.monotonic()
        self._is_over = self._is_end_sent = self._may_come_back = False
        self._is_new = True  # until the end of the cell that shows it
        self._lock = threading.Lock()
        self._sent, metadata = self._describe(task._feed.copy(), is_over=False)
        self._handle: DisplayHandle = display(  # type: ignore[no-untyped-call]
            self._sent, raw=True, metadata=metadata, display_id=True
        )

    def follow(self) -> None:
        """Replace the live output when the task has ended.

        Before whoever awaits it goes on: a cell must not end before its output is what will be
        saved.
        A feed that broke is no end; the card says so, and goes on when somebody follows on.
        """

        def look(state: FeedState) -> None:
            if state is FeedState.ENDED:
                task._door.hand_over(finish)
            elif self._is_over:
                task._door.hand_over(self._reopen)

        def finish() -> None:
            self._finish()
            if not self._may_come_back:
                stop()
                _live.pop(task, None)

        task = self._task
        stop = task._feed.listen(look)
        task._feed.follow()
        if task._feed.state is FeedState.ENDED:
            finish()

    def _finish(self) -> None:
        """Show the end: static, but where a page can have it tried again it is seen live.

        A page speaks when it has the widget; until then there may be none.
        """
        state = self._task._feed.copy()
        if state.status not in TERMINAL_STATUSES:
            return  # retried meanwhile
        keeper = self._output.keeper
        with self._lock:
            if self._is_over:
                return
            self._may_come_back = state.status != "completed"
            data, metadata = self._describe(state, is_over=True)
            self._is_over, self._is_end_sent = True, _is_cell_running.is_set()
            if self._may_come_back and keeper.has_page:
                self._show_live()
            else:
                # For the cell that runs now, whichever it is: an executor ignores what others send.
                Context().run(self._send, data, metadata)
        keeper.finish(data, metadata, is_live=self._may_come_back)
        if self._may_come_back:
            keeper.on_page(self._show_live_again)

    def _show_live(self) -> None:
        data, metadata = self._describe(self._task._feed.copy(), is_over=False)
        Context().run(self._send, data, metadata)

    def _show_live_again(self) -> None:
        """Bring the card back whose page came after the end: it has the buttons."""
        with self._lock:
            if self._is_over and self._may_come_back and _WIDGET_VIEW not in self._sent:
                self._show_live()

    def _reopen(self) -> None:
        """Go on: the end was none, since somebody retries."""
        with self._lock:
            self._is_over = self._is_end_sent = False
        self._output.keeper.reopen()

    def refresh(self) -> bool:
        """Bring the output up to date for an executor, in a running cell; whether it goes on.

        A page follows by itself, and knows what it shows when it saves.
        """
        if not self._output.keeper.has_page:
            if self._has_ended():
                self._finish()
            self._output.draw()  # before the lock: it calls who observes
        with self._lock:
            if not self._output.keeper.has_page:
                self._send_news()
            self._is_new = False
            return self._may_come_back or not self._is_over

    def _has_ended(self) -> bool:
        """Tell whether the task has ended, and all of it was read.

        The cell may know of the end before this output does: from the task's record, from another
        kit, or because an observer holds up what is drawn.
        """
        feed = self._task._feed
        try:
            if feed.state is FeedState.FOLLOWING and self._task._read_record().is_over:
                feed.wait_until(lambda: feed.state.is_over, timeout_s=_END_S)
        except LongTaskError:
            pass  # no service answers; what is known has to do
        return feed.state is FeedState.ENDED

    def _send_news(self) -> None:
        data, metadata = self._describe(self._task._feed.copy(), is_over=self._is_over)
        is_old = not self._is_new or time.monotonic() - self._shown_at > _NEWS_S
        is_due = is_old and data != self._sent
        if not self._is_end_sent if self._is_over else is_due:
            self._send(data, metadata)
            self._output.send_state("snapshot")  # which the executor may save, too

    def _send(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self._sent = data
        self._handle.update(data, raw=True, metadata=metadata)  # type: ignore[no-untyped-call]

    def _describe(
        self, state: Transcript, *, is_over: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        data: dict[str, Any] = describe_now(self._task, state)
        if not is_over:
            data |= make_view(self._output)
        return data, make_metadata(self._task.id, state.status)


def make_view(output: Widget) -> dict[str, Any]:
    """Return the part of an output's MIME bundle that a page shows live."""
    view = {"version_major": 2, "version_minor": 0, "model_id": output.model_id}
    return {_WIDGET_VIEW: view}


def _begin_cell(_: object = None) -> None:
    _is_cell_running.set()


def _end_cell(_: object) -> None:
    """Bring outputs up to date while the cell still counts as running."""
    _is_cell_running.clear()  # before the look: what ends after it is for the next cell
    _shown[:] = [shown for shown in _shown if shown.refresh()]


def find_kernel_shell() -> Any:  # noqa: ANN401 - IPython's shell, which may not be there
    """Return the shell of the Jupyter kernel we run in; None in a terminal or a script."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if hasattr(shell, "kernel") else None
