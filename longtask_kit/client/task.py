"""A task as a notebook sees it: iterate it, await it, ask it, cancel it.

Everything here is safe to call from any thread; the I/O is done by the kit's background thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longtask_kit.client.feed import Feed
from longtask_kit.errors import (
    LongTaskError,
    TaskCancelledError,
    TaskFailedError,
    TaskTimeoutError,
)
from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from longtask_kit.client.door import Door
    from longtask_kit.log.events import Status, TaskEvent, Usage
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.transcript import Transcript

_CATCH_UP_S = 10.0


class TextDelta(str):
    """A piece of text, and the attempt it belongs to.

    Attributes:
        attempt: 1, 2, …
        is_restart: A new attempt begins with it: all text that came before is void.
    """

    __slots__ = ("attempt", "is_restart")

    attempt: int
    is_restart: bool


class EventStream:
    """Everything that happened to a task and will, for `for` and for `async for`.

    Ends with the task; each iteration begins at the first event.

    Raises, while iterated:
        StreamExpiredError: The task is not there (any more).
        StreamSilentError: No service answered for too long; iterate again later.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __iter__(self) -> Iterator[TaskEvent]:
        return iter(self._feed)

    def __aiter__(self) -> AsyncIterator[TaskEvent]:
        return aiter(self._feed)


class Task:
    """One LLM task; made by `kit.submit()` or `kit.attach()`.

    It lives in the queue and in Redis, not in this object: losing the object loses nothing.

    Attributes:
        id: Hand it to `kit.attach()` in another cell, another kernel, tomorrow.
        spec: What runs, a `TaskSpec`; of a task that was listed, or attached to over the HTTP API,
            only the prompt's first 200 characters, and no system message.
    """

    def __init__(
        self,
        task_id: str,
        *,
        door: Door,
        record: TaskRecord | None = None,
        spec: TaskSpec | None = None,
    ) -> None:
        self.id = task_id
        self.spec = spec or TaskSpec.recall(record.wire if record else {})
        self._door = door
        self._record = record
        self._feed = Feed(task_id, door)

    def __repr__(self) -> str:
        if not self._feed.is_empty:
            status: str = self._feed.transcript.status
        else:
            status = self._record.status if self._record else "pending"
        return f"<Task {self.id} {status}>"

    @property
    def status(self) -> Status:
        """`pending`, `running`, `retrying`, `completed`, `failed` or `cancelled`."""
        if self._feed.is_empty or self._feed.error is not None or self._look_again():
            return self._read_record().status
        return self._feed.transcript.status

    @property
    def text(self) -> str:
        """The text of the latest attempt so far; whole once the task has ended."""
        return self.snapshot().text

    @property
    def error(self) -> str | None:
        """What went wrong in the latest attempt, or None."""
        return self.snapshot().error

    @property
    def usage(self) -> Usage | None:
        """Token counts as the model gave them, once completed."""
        return self.snapshot().usage

    @property
    def attempt(self) -> int:
        """Which attempt the text is from; 0 before the first."""
        return self.snapshot().attempt

    def snapshot(self) -> Transcript:
        """Return the state so far in one piece: status, text, attempt, tokens, times."""
        self._catch_up()
        return self._feed.copy()

    def events(self) -> EventStream:
        """Return everything that happened and will, for `for` and for `async for`."""
        self._feed.follow()
        return EventStream(self._feed)

    def result(self, timeout_s: float | None = None) -> str:
        """Wait for the end and return the whole text.

        An Interrupt (Ctrl-C, the notebook's stop button) ends the wait; the task goes on.

        Args:
            timeout_s: Longest wait in seconds, or None for no limit.

        Raises:
            TaskFailedError: It failed; `.code` says why, `.partial_text` what it had.
            TaskCancelledError: Somebody cancelled it.
            TaskTimeoutError: It still runs; call again to wait on.
        """
        self._look_again()
        self._feed.follow()
        if not self._feed.wait_until(lambda: self._feed.state.is_over, timeout_s=timeout_s):
            raise TaskTimeoutError(
                f"{self.id} is {self._feed.transcript.status} after {timeout_s:g} s. It goes on: "
                "call result() again, or cancel().",
                task_id=self.id,
                partial_text=self._feed.copy().text,
            )
        return self._read_outcome()

    def __await__(self) -> Generator[Any, None, str]:
        return self._wait().__await__()

    async def _wait(self) -> str:
        self._look_again()
        async for _ in self.events():
            pass
        return self._read_outcome()

    def __iter__(self) -> Iterator[TextDelta]:
        """Yield text deltas until the end; raises as `result()` does."""
        attempt = 0
        for event in self.events():
            if event.type == "content":
                yield _make_delta(event, attempt)
                attempt = event.cursor.attempt
        self._read_outcome()

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        """Yield text deltas until the end; raises as `result()` does."""
        attempt = 0
        async for event in self.events():
            if event.type == "content":
                yield _make_delta(event, attempt)
                attempt = event.cursor.attempt
        self._read_outcome()

    def cancel(self) -> Status:
        """Cancel the task: at once while it waits, else at the running attempt's next flush.

        Returns:
            `cancelled`; `running` when the attempt was asked to stop; the status the task had
            already ended with.

        Raises:
            StreamExpiredError: It is not there any more.
        """
        return self._door.ask(lambda backend: backend.cancel(self.id))

    def retry(self) -> None:
        """Run a failed task again as a new attempt; its text starts over.

        Raises:
            SubmitError: It has not failed, or the queue refused.
            StreamExpiredError: It is not there any more.
        """
        self._door.ask(lambda backend: backend.retry(self.id))
        self._feed.reopen()

    async def _retry_on_loop(self) -> None:
        """As `retry`, for whoever already is on the kit's loop."""
        await self._door.backend.retry(self.id)
        self._feed.reopen()

    def delete(self) -> None:
        """Remove the task's record and log before their time; an attempt under way stops.

        Raises:
            StreamExpiredError: It is not there any more.
        """
        self._door.ask(lambda backend: backend.delete(self.id))

    def _ipython_display_(self) -> None:
        """Show a live output area, or print the text where there are no widgets."""
        from longtask_kit.widgets.display import display_task

        display_task(self)

    def _look_again(self) -> bool:
        """Follow on, and say so, if a failure was undone by a retry elsewhere; no other end can."""
        if not (self._feed.state.is_over and self._feed.transcript.status == "failed"):
            return False
        try:
            was_undone = self._read_record().status != "failed"
        except LongTaskError:
            return False  # what is known already still stands
        if was_undone:
            self._feed.reopen()
        return was_undone

    def _catch_up(self) -> None:
        """Wait until what had happened before this call has been taken in."""
        if self._feed.error is None and (not self._feed.is_empty or self._feed.state.is_over):
            return
        record = self._read_record()
        self._feed.follow()
        self._feed.wait_until(lambda: self._has_seen(record), timeout_s=_CATCH_UP_S)

    def _has_seen(self, record: TaskRecord) -> bool:
        if self._feed.state.is_over or record.status in TERMINAL_STATUSES:
            return self._feed.state.is_over
        return not self._feed.is_empty and self._feed.transcript.attempt >= record.attempt

    def _read_record(self) -> TaskRecord:
        self._record = self._door.ask(lambda backend: backend.read(self.id))
        return self._record

    def _read_outcome(self) -> str:
        """Return the text of a task that has ended, or raise why there is none."""
        if self._feed.error is not None:
            raise self._feed.error
        state = self._feed.transcript
        if state.status == "failed":
            raise TaskFailedError(
                f"{self.id} failed: {state.error}",
                task_id=self.id,
                code=state.code or "",
                attempt=state.attempt,
                partial_text=state.text,
            )
        if state.status == "cancelled":
            raise TaskCancelledError(
                f"{self.id} was cancelled.", task_id=self.id, partial_text=state.text
            )
        return state.text


def _make_delta(event: TaskEvent, attempt_before: int) -> TextDelta:
    delta = TextDelta(event.data)
    delta.attempt = event.cursor.attempt
    delta.is_restart = 0 < attempt_before < delta.attempt
    return delta
