"""`TaskOutput`: the output area of one task, live.

The protocol with `js/src/` is a snapshot and updates. Updates are coalesced: jupyter_server drops
messages above 1,000 a second, and each costs some 750 bytes, so `pace.py` says when one is sent.
Each has an epoch (which text) and a seq (which update of it). A front end that sees a hole asks for
the snapshot, which always is whole; a second view and a reloaded page get it by themselves.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anywidget
import traitlets

from longtask_kit.errors import LongTaskError, find_cure
from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.widgets.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from longtask_kit.client.feed import FeedState
    from longtask_kit.client.task import Task
    from longtask_kit.log.transcript import Transcript

_STATIC = Path(__file__).parent / "static"


class TaskOutput(anywidget.AnyWidget):
    """The live output area of a task: status, figures, text, cancel, retry.

    Args:
        task: What to show; None shows an empty area until `watch()`.
        label: Small print below the text, e.g. that the model is a scripted demo.
        in_panel: Whether keys of the panel around it are its own.

    Attributes:
        status: `idle`, or the task's status; observable: `output.observe(f, "status")`.
        task: What it shows.
    """

    _esm = _STATIC / "output.js"
    _css = _STATIC / "output.css"
    snapshot = traitlets.Dict().tag(sync=True)
    in_panel = traitlets.Bool(False).tag(sync=True)
    status = traitlets.Unicode("idle")

    def __init__(
        self, task: Task | None = None, *, label: str = "", in_panel: bool = False
    ) -> None:
        self.task: Task | None = None
        self.handle_action: Callable[[dict[str, Any]], None] = lambda _: None
        self._lock = threading.RLock()
        self._epoch, self._seq, self._attempt, self._text = 0, 0, 0, ""
        self._meta: dict[str, Any] = {"status": "idle", "isWatching": False, "label": label}
        self._stop_listening: Callable[[], None] = lambda: None
        self._is_draw_due = False
        self._pace = Pace()
        self._timed_at = 0.0
        super().__init__(in_panel=in_panel)
        self.on_msg(self._receive)
        self._keep_messages_off_busy_shells()
        if task is not None:
            self.watch(task)

    def __repr__(self) -> str:
        tokens = f", {self._meta['tokens']} tokens" if self._meta.get("tokens") else ""
        return f"TaskOutput({self.status}{tokens})"

    @property
    def is_watching(self) -> bool:
        """Whether it follows its task: not before one, after its end, or when told to stop."""
        return bool(self._meta["isWatching"])

    def watch(self, task: Task) -> None:
        """Show a task from its first token on, whatever was shown before."""
        self._stop_listening()
        with self._lock:
            self.task = task
            label = self._meta["label"]
            self._epoch, self._seq, self._attempt, self._text = self._epoch + 1, -1, 0, ""
            self._meta = dict.fromkeys(_FIGURES) | {"label": label, "offer": None, "notice": None}
            self.show(
                taskId=task.id,
                status="pending",
                model=task.spec.model,
                maxTokens=task.spec.max_tokens,
                isWatching=True,
                canRetry=True,
                isReplay=task._feed.state.is_over,
            )
        self.status = "pending"  # not the end of what was shown before
        self._stop_listening = task._feed.listen(self._schedule_draw)
        task._feed.follow()
        self._schedule_draw(task._feed.state)

    def unwatch(self) -> None:
        """Stop watching; the task runs on."""
        self._stop_listening()
        self.show(isWatching=False)

    def show(self, **meta: object) -> None:
        """Change what stands around the text; the keys are those of `meta` in `js/src/`."""
        with self._lock:
            changed = {name: value for name, value in meta.items() if self._meta.get(name) != value}
            self._send_update("", changed)

    def cancel(self) -> None:
        """Ask the task to end; returns at once."""
        if (task := self.task) is not None and self.status not in TERMINAL_STATUSES:
            task._door.start(self._report(task._door.backend.cancel(task.id)))

    def retry(self) -> None:
        """Run a failed task again as a new attempt; returns at once."""
        if (task := self.task) is not None and self.status == "failed":
            task._door.start(self._report(task._retry_on_loop()))

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:  # noqa: ANN401
        """Return the widget's state, always with the whole text as it is now."""
        state = cast("dict[str, Any]", super().get_state(key=key, drop_defaults=drop_defaults))
        if "snapshot" in state:
            state["snapshot"] = self._make_snapshot()
        return state

    def _schedule_draw(self, state: FeedState) -> None:
        """Draw soon, as often as is worth it; called whenever the task changes.

        The end is drawn at once: whoever awaited the task finds `status` up to date.
        """
        task = self.task
        if task is not None and state.is_over:
            self._draw()
            return
        if self._is_draw_due or task is None:
            return
        self._is_draw_due = True
        task._door.call_later(self._pace.find_wait_s(), self._draw)

    def _draw(self) -> None:
        self._is_draw_due = False
        task = self.task
        if task is None:
            return
        text, attempt, figures = task._feed.read(_take_view)
        if task._feed.error is not None:
            figures |= {
                "error": str(task._feed.error),
                "cure": "Attach again later.",
                "code": "stream",
            }
        with self._lock:
            if attempt != self._attempt:
                self._begin_attempt(attempt)
            changed = {name: v for name, v in figures.items() if self._meta.get(name) != v}
            if figures["status"] in TERMINAL_STATUSES:
                changed["isWatching"] = False
            if "elapsedMs" in changed:
                self._timed_at = time.monotonic()
            delta = text[len(self._text) :]
            self._pace.note(len(delta.encode()))
            self._send_update(delta, changed)
        if self.status != figures["status"]:
            self.status = figures["status"]

    def _begin_attempt(self, attempt: int) -> None:
        """Begin a new text: what the front end holds is void."""
        if self._attempt:
            self._epoch, self._seq = self._epoch + 1, -1
            self._text = ""
            self._meta["notice"] = f"Attempt {attempt}: the text starts over"
        self._attempt = attempt

    def _send_update(self, delta: str, changed: dict[str, Any]) -> None:
        with self._lock:
            is_new_text = self._seq < 0
            if not (delta or changed or is_new_text):
                return
            self._seq += 1
            self._text += delta
            self._meta |= changed
            # The first update of a text carries everything, since it may follow a hole.
            update = {"t": "u", "e": self._epoch, "s": self._seq}
            update |= {"d": delta} if delta else {}
            update |= {"m": dict(self._meta) if is_new_text else changed}
            self.send(update)

    def _make_snapshot(self) -> dict[str, Any]:
        with self._lock:
            return {
                "epoch": self._epoch,
                "seq": max(self._seq, 0),
                "text": self._text,
                "meta": self._meta | self._tell_time(),
            }

    def _tell_time(self) -> dict[str, Any]:
        """Return the task's time as of now: a reloaded page did not see when it was sent."""
        elapsed_ms = self._meta.get("elapsedMs")
        if elapsed_ms is None or self._meta["status"] in TERMINAL_STATUSES:
            return {}
        return {"elapsedMs": elapsed_ms + round((time.monotonic() - self._timed_at) * 1000)}

    def _receive(self, _: object, message: dict[str, Any], __: object) -> None:
        """Act on a message of the front end; nothing here may block the kernel's shell."""
        match message.get("t"):
            case "sync":
                if (message.get("e"), message.get("s")) != (self._epoch, self._seq):
                    self.send_state("snapshot")
            case "lib":
                source = (_STATIC / "markdown.js").read_text(encoding="utf-8")
                self.send({"t": "lib", "src": source})
            case "cancel":
                self.cancel()
            case "unwatch":
                self.unwatch()
            case "retry":
                self.retry()
            case _:
                self.handle_action(message)

    async def _report(self, work: Coroutine[Any, Any, object]) -> None:
        """Await what a button asked for; its failure is shown, since nobody else would."""
        try:
            await work
        except LongTaskError as exc:
            self.show(notice=str(exc))

    def _keep_messages_off_busy_shells(self) -> None:
        """Have clicks arrive while a sync cell is busy.

        ipykernel 7 sends a comm's messages to the shell that last published on it, which is the
        busy one; on the default subshell they are handled at once. Private there, hence guarded.
        """
        comm = self.comm
        if comm is not None and hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = lambda _, default: default


_FIGURES = (
    *("status", "attempt", "tokens", "elapsedMs", "attemptBeganMs", "firstTokenMs"),
    *("error", "code", "cure"),
)


def _take_view(state: Transcript) -> tuple[str, int, dict[str, Any]]:
    """Return a task's text, attempt, and what stands around the text."""
    figures = {
        "status": state.status,
        "attempt": state.attempt,
        "tokens": state.tokens,
        "elapsedMs": _count_ms(state.began, state.updated),
        "attemptBeganMs": _count_ms(state.began, state.started),
        "firstTokenMs": _count_ms(state.started, state.first_token),
        "error": state.error,
        "code": state.code,
        "cure": find_cure(state.code) if state.status == "failed" else None,
    }
    return state.text, state.attempt, figures


def _count_ms(begin: datetime | None, end: datetime | None) -> int | None:
    return round((end - begin).total_seconds() * 1000) if begin and end else None
