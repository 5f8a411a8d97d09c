"""`TaskOutput`: the output area of one task, live.

The protocol with `js/src/` is a snapshot and updates. Updates are coalesced: jupyter_server drops
messages above 1,000 a second, and each costs some 750 bytes, so `pace.py` says when one is sent.
Each has an epoch (which text) and a seq (which update of it). A front end that sees a hole asks for
the snapshot, which always is whole; a second view and a reloaded page get it by themselves.
"""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import anywidget
import traitlets

from longtask_kit.errors import ConfigError, LongTaskError, StreamExpiredError
from longtask_kit.log.events import START, TERMINAL_STATUSES, Cursor
from longtask_kit.log.transcript import Transcript
from longtask_kit.widgets.facts import GONE, describe_task, name_unit, read_facts
from longtask_kit.widgets.keeper import Keeper, may_pages_write
from longtask_kit.widgets.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from longtask_kit.client.feed import FeedState
    from longtask_kit.client.prices import Price
    from longtask_kit.client.task import Task
    from longtask_kit.submit.spec import TaskSpec

_STATIC = Path(__file__).parent / "static"
_ASK_AFTER_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # the queue notes a failure after we do
_LIBRARIES = ("markdown", "math")  # what the page asks for when it first needs it


class TaskOutput(anywidget.AnyWidget):
    """The live output area of a task: status, figures, text, cancel, retry.

    Args:
        task: What to show; None shows an empty area until `watch()`.
        label: Small print below the text, e.g. that the model is a scripted demo.

    Attributes:
        status: `idle`, or the task's status; observable: `output.observe(f, "status")`.
        task: What it shows.
        keeper: Sees to it that it stays in the notebook.
    """

    _esm = _STATIC / "output.js"
    _css = _STATIC / "output.css"
    snapshot = traitlets.Dict().tag(sync=True)
    status = traitlets.Unicode("idle")

    def __init__(self, task: Task | None = None, *, label: str = "") -> None:
        self.task: Task | None = None
        self._lock = threading.RLock()
        self._epoch, self._seq, self._origin = 0, 0, START
        self._text, self._reasoning = "", ""
        self._meta: dict[str, Any] = {"status": "idle", "isWatching": False, "label": label}
        self._stop_listening: Callable[[], None] = lambda: None
        self._is_draw_due = self._is_listening = False
        self._pace = Pace()
        self._timed_at = self._next_try_at = 0.0
        self.keeper = Keeper(self)
        # What a page needs to find itself in its notebook.
        self._place = {"modelId": uuid4().hex, "mayWrite": may_pages_write()}
        super().__init__(model_id=self._place["modelId"])
        self.on_msg(self._receive)
        hear_in_busy_cells(self)
        if task is not None:
            self.watch(task)

    def __repr__(self) -> str:
        count = self._meta.get("tokens")
        tokens = f", {count} {name_unit(self._meta)}" if count else ""
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
            self._epoch, self._seq, self._origin = self._epoch + 1, -1, START
            self._text, self._reasoning = "", ""
            # As a task is whose events have not come: the first that does is no news by itself.
            self._meta = read_facts(Transcript(), spec=task._brief)
            self._meta |= describe_task(task.id, task._brief)
            self._meta |= {"label": label, "notice": None}
            is_replay = task._feed.state.is_over
            self.show(isWatching=True, canRetry=True, isReplay=is_replay)
        self.status = "pending"  # not the end of what was shown before
        self._stop_listening, self._is_listening = task._feed.listen(self._schedule_draw), True
        task._feed.follow()
        if task._feed.state.is_over:
            self.draw()
        else:
            self._schedule_draw(task._feed.state)

    def unwatch(self) -> None:
        """Stop watching; the task runs on."""
        self._stop_listening()
        self._is_listening = False
        if self.task is not None:
            self.task._door.listen_to_submits(self._hear_of_retry, is_on=False)
        self.show(isWatching=False)

    def show(self, **meta: object) -> None:
        """Change what stands around the text; the keys are those of `meta` in `js/src/`."""
        with self._lock:
            changed = {name: value for name, value in meta.items() if self._meta.get(name) != value}
            self._send_update("", changed)

    def cancel(self) -> None:
        """Ask the task to end; returns at once."""
        if (task := self.task) is not None and self.status not in TERMINAL_STATUSES:
            task._door.start(self._report(lambda: task._door.backend.cancel(task.id)))

    def retry(self) -> None:
        """Run a failed or cancelled task again as a new attempt; returns at once."""
        if (task := self.task) is not None and self.status in ("failed", "cancelled"):
            task._door.start(self._report(task._retry_on_loop))

    def try_now(self) -> None:
        """Have a task that waits for its next try run at once, which costs no attempt."""
        if (task := self.task) is not None and self.status == "retrying":
            self.show(canTryNow=False)
            task._door.start(self._report(lambda: task._door.backend.try_now(task.id)))

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
            task._door.hand_over(self.draw)
            return
        if self._is_draw_due or task is None:
            return
        self._is_draw_due = True
        task._door.call_later(self._pace.find_wait_s(), self.draw)

    def draw(self) -> None:
        """Send what is news; called when that is due, and by who needs it to be up to date."""
        self._is_draw_due = False
        task = self.task
        if task is None:
            return
        spec, price = task._brief, task._price
        with self._lock:  # over the look, too: what is seen later is sent later
            if task is not self.task:
                return  # another one is shown by now
            text, reasoning, origin, figures = task._feed.read(
                lambda state: _take_view(state, spec, price)
            )
            if (error := task._feed.error) is not None:
                cure = "Attach again later."
                if isinstance(error, StreamExpiredError):  # it says what to do
                    cure, figures["word"], figures["kind"] = "", GONE, "quiet"
                figures |= {"error": str(error), "cure": cure, "code": "stream"}
            if origin != self._origin:
                self._begin_text(origin)
            changed = {name: v for name, v in figures.items() if self._meta.get(name) != v}
            is_watching = self._is_listening and figures["status"] not in TERMINAL_STATUSES
            if is_watching != self._meta["isWatching"]:
                changed["isWatching"] = is_watching
            if "elapsedMs" in changed:
                self._timed_at = time.monotonic()
            if "status" in changed:
                changed |= self._meta_of_wait(task, changed["status"])
            delta, thought = text[len(self._text) :], reasoning[len(self._reasoning) :]
            self._pace.note(len(delta.encode()) + len(thought.encode()))
            self._send_update(delta, changed, thought=thought)
        if self.status != figures["status"]:
            may_come_back = figures["status"] in ("failed", "cancelled")
            task._door.listen_to_submits(self._hear_of_retry, is_on=may_come_back)
            self.status = figures["status"]

    def _hear_of_retry(self, task_ids: list[str]) -> None:
        """Follow on where another `Task` had this one tried again: to its feed it had ended."""
        task = self.task
        if task is not None and task.id in task_ids and self._is_listening:
            task._door.hand_over(lambda: _follow_on(task))

    def _meta_of_wait(self, task: Task, status: str) -> dict[str, Any]:
        """Forget what was said of the state before; where a next try waits, begin to ask."""
        if status == "retrying":
            task._door.start(self._find_next_try(task))
        names = ("nextTryMs", "canTryNow", "maxAttempts", "problem")
        return {name: None for name in names if self._meta.get(name) is not None}

    async def _find_next_try(self, task: Task) -> None:
        """Show when the next try is due, once the queue has noted that the last one failed."""
        for wait_s in _ASK_AFTER_S:
            await asyncio.sleep(wait_s)
            try:
                found = await task._door.backend.find_next_try(task.id)
            except LongTaskError:
                continue  # what is not known is not shown
            if task is not self.task or self.status != "retrying":
                return
            left_s = (found.at - datetime.now(UTC)).total_seconds() if found.at else 0.0
            if left_s <= 0:  # the queue does not say yet, or of the try before
                self.show(maxAttempts=found.max_attempts)
                continue
            self._next_try_at = time.monotonic() + left_s
            left_ms = round(left_s * 1000)
            self.show(maxAttempts=found.max_attempts, nextTryMs=left_ms, canTryNow=True)
            return

    def _begin_text(self, origin: Cursor) -> None:
        """Begin a new text: what the front end holds is void."""
        if self._origin != START:
            self._epoch, self._seq = self._epoch + 1, -1
            self._text, self._reasoning = "", ""
            self._meta["notice"] = f"Attempt {origin.attempt}: the text starts over"
        self._origin = origin

    def _send_update(self, delta: str, changed: dict[str, Any], *, thought: str = "") -> None:
        with self._lock:
            is_new_text = self._seq < 0
            if not (delta or thought or changed or is_new_text):
                return
            self._seq += 1
            self._text += delta
            self._reasoning += thought
            self._meta |= changed
            # The first update of a text carries all that is known, since it may follow a hole.
            known = {name: value for name, value in self._meta.items() if value is not None}
            update = {"t": "u", "e": self._epoch, "s": self._seq}
            update |= {"d": delta} if delta else {}
            update |= {"r": thought} if thought else {}
            update |= {"m": known if is_new_text else changed}
            self.send(update)

    def _make_snapshot(self) -> dict[str, Any]:
        with self._lock:
            return {
                "epoch": self._epoch,
                "seq": max(self._seq, 0),
                "text": self._text,
                "reasoning": self._reasoning,
                "meta": self._meta | self._tell_time(),
                "place": self._place,
            }

    def _tell_time(self) -> dict[str, Any]:
        """Return the task's time as of now: a reloaded page did not see when it was sent."""
        elapsed_ms, now = self._meta.get("elapsedMs"), time.monotonic()
        told: dict[str, Any] = {}
        if elapsed_ms is not None and self._meta["status"] not in TERMINAL_STATUSES:
            told["elapsedMs"] = elapsed_ms + round((now - self._timed_at) * 1000)
        if self._meta.get("nextTryMs") is not None:
            told["nextTryMs"] = max(0, round((self._next_try_at - now) * 1000))
        return told

    def _receive(self, _: object, message: dict[str, Any], __: object) -> None:
        """Act on a message of the front end; nothing here may block the kernel's shell."""
        if self.keeper.receive(message):
            return
        try:
            self._act(message)
        except ConfigError as exc:  # the kit is closed
            self.show(problem=str(exc))

    def _act(self, message: dict[str, Any]) -> None:
        match message.get("t"):
            case "sync" if (message.get("e"), message.get("s")) == (self._epoch, self._seq):
                # A page that lost its kernel for a while missed nothing; it takes any answer for
                # the sign that the kernel is there again.
                self.send({"t": "pong"})
            case "sync":
                self.send_state("snapshot")
            case "lib" if (name := message.get("name")) in _LIBRARIES:
                source = (_STATIC / f"{name}.js").read_text(encoding="utf-8")
                self.send({"t": "lib", "name": name, "src": source})
            case "cancel":
                self.cancel()
            case "unwatch":
                self.unwatch()
            case "now":
                self.try_now()
            case "watch" if self.task is not None:
                self.watch(self.task)
            case "retry":
                self.retry()

    async def _report(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Do what a button asked for; its failure is shown, since nobody else would."""
        self.show(problem=None)
        try:
            await ask()
        except LongTaskError as exc:
            self.show(problem=str(exc))


def _follow_on(task: Task) -> None:
    """Follow on if a task's record is ahead of the end that is known here."""
    known = task._feed.transcript
    try:
        record = task._read_record()
    except LongTaskError:
        return  # what is known already still stands
    is_ahead = record.status != known.status or record.attempt > known.cursor.attempt
    if task._feed.state.is_over and is_ahead:
        task._feed.reopen()


def hear_in_busy_cells(widget: anywidget.AnyWidget) -> None:
    """Have a widget's clicks arrive while a sync cell is busy.

    ipykernel 7 sends a comm's messages to the shell that last published on it, which is the
    busy one; on the default subshell they are handled at once. Private there, hence guarded.
    """
    comm = widget.comm
    if comm is not None and hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _, default: default


def _take_view(
    state: Transcript, spec: TaskSpec, price: Price | None
) -> tuple[str, str, Cursor, dict[str, Any]]:
    """Return a task's text, reasoning and where it began, and what stands around the text."""
    facts = read_facts(state, spec=spec, price=price)
    return state.text, state.reasoning, state.origin, facts
