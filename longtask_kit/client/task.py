"""A task as a notebook sees it: iterate it, await it, ask it, cancel it.

Everything here is safe to call from any thread; the I/O is done by the kit's background thread.
"""

from __future__ import annotations

import contextlib
import json
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any, Self

from longtask_kit.client.answer import Answer
from longtask_kit.client.feed import Feed
from longtask_kit.errors import (
    LongTaskError,
    StreamExpiredError,
    SubmitError,
    TaskCancelledError,
    TaskFailedError,
    TaskIncompleteError,
    TaskTimeoutError,
    add_cure,
)
from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.log.finish import note_finish, note_record
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.text import make_printable
from longtask_kit.submit.request import change_spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence

    from longtask_kit.client.backend import Backend
    from longtask_kit.client.door import Door
    from longtask_kit.log.events import Status, TaskEvent
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.transcript import Transcript
    from longtask_kit.submit.schema import Schema
    from longtask_kit.submit.spec import TaskSpec
    from longtask_kit.submit.tasks import CancelAnswer
    from longtask_kit.widgets.output import TaskOutput
    from longtask_kit.widgets.xray import XRay

_CATCH_UP_S = 10.0


class TextDelta(str):
    """A piece of text, and the attempt it belongs to.

    Attributes:
        attempt: 1, 2, …
        is_restart: The text starts over with it: all that came before is void. An attempt that
            continues the one before takes nothing back.
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


class Task(Answer):
    """One LLM task; made by `kit.submit()` or `kit.attach()`.

    It lives in the queue and in Redis, not in this object: losing the object loses nothing.
    """

    def __init__(
        self,
        task_id: str,
        *,
        door: Door,
        record: TaskRecord | None = None,
        spec: TaskSpec | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(task_id, door, record=record, spec=spec, schema=schema)
        self._feed = Feed(task_id, door)

    def __repr__(self) -> str:
        return f"<Task {self.id} {self._tell_state()}>"

    def _tell_state(self) -> str:
        """Return the status as far as it is known here, and what is to be said of an end."""
        status: str = "pending"
        note, most = None, self._brief.max_tokens
        if not self._feed.is_empty:
            status = self._feed.transcript.status
            note = note_finish(self._feed.transcript, max_tokens=most)
        elif self._record is not None:
            status, note = self._record.status, note_record(self._record, max_tokens=most)
        return f"{status}, {note}" if note else status

    @property
    def status(self) -> Status:
        """`pending`, `running`, `retrying`, `completed`, `failed` or `cancelled`."""
        if self._feed.is_empty or self._feed.error is not None or self._look_again():
            return self._read_record().status
        return self._feed.transcript.status

    def snapshot(self) -> Transcript:
        """Return the state so far in one piece: status, text, attempt, tokens, times."""
        self._catch_up()
        return self._feed.copy()

    def events(self) -> EventStream:
        """Return everything that happened and will, for `for` and for `async for`."""
        self._look_again()
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
        if not self._feed.wait_until(lambda: self._feed.is_over, timeout_s=timeout_s):
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
        async for _ in self.events():
            pass
        return self._read_outcome()

    def __iter__(self) -> Iterator[TextDelta]:
        """Yield text deltas until the end; raises as `result()` does."""
        restarts = _Restarts()
        for event in self.events():
            if restarts.note(event):
                yield restarts.make_delta(event)
        self._read_outcome()

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        """Yield text deltas until the end; raises as `result()` does."""
        restarts = _Restarts()
        async for event in self.events():
            if restarts.note(event):
                yield restarts.make_delta(event)
        self._read_outcome()

    def raise_for_finish(self) -> Self:
        """Return the task if its answer is whole.

        Raises:
            TaskIncompleteError: It was cut off at max_tokens, filtered, refused, or calls tools.
            TaskFailedError, TaskCancelledError, TaskTimeoutError: As `result()`.
        """
        text = self.result()
        state = self._feed.transcript
        note = note_finish(state, max_tokens=self._brief.max_tokens)
        if note is None:
            return self
        raise TaskIncompleteError(
            f"{self.id} completed, its answer did not: {note}.",
            task_id=self.id,
            finish_reason=state.finish_reason or "",
            partial_text=text,
        )

    def reply(
        self,
        prompt: str | Sequence[Mapping[str, Any]] | None = None,
        *,
        tool_results: Mapping[str, Any] | None = None,
        **changes: Any,  # noqa: ANN401 - submit's own
    ) -> Task:
        """Go on from this task's answer: a new task, whose messages hold the conversation so far.

        Args:
            prompt: The next user message: text, or a list of content parts.
            tool_results: Of each call of `tool_calls`, by its id: text, or JSON.
            changes: What `submit` takes, where it differs from this task's.

        Raises:
            SubmitError: The task has not completed; a call has no result; or as `submit`.
        """
        if self.status != "completed":
            raise SubmitError(f"Only a completed task has an answer; {self.id} is {self.status}.")
        answers = answer_calls(self.tool_calls, tool_results or {})
        asked = [] if prompt is None else [{"role": "user", "content": prompt}]
        if not (answers or asked):
            raise SubmitError("reply() needs a prompt, tool_results, or both.")
        messages = [*self.messages, self.message, *answers, *asked]
        fresh = {"messages": messages, "system": None}
        spec, schema = change_spec(self.spec, self._schema, fresh, changes, call="reply()")
        return submit_spec(self._door, spec, schema=schema)

    def cancel(self) -> CancelAnswer:
        """Cancel the task: at once while it waits, else at the running attempt's next flush.

        Returns:
            `cancelled`; `cancelling` when the attempt was asked to stop; the status the task had
            already ended with.

        Raises:
            StreamExpiredError: It is not there any more.
        """
        return self._door.ask(lambda backend: backend.cancel(self.id))

    def retry(self) -> None:
        """Run a failed or cancelled task again as a new attempt; its text starts over.

        Raises:
            SubmitError: It has not ended so, or the queue refused.
            StreamExpiredError: It is not there any more.
        """
        retry_id = token_urlsafe(8)
        self._door.ask(lambda backend: backend.retry(self.id, retry_id=retry_id))
        self._door.tell_of_submit([self.id])
        self._feed.reopen()

    async def _retry_on_loop(self) -> None:
        """As `retry`, for whoever already is on the kit's loop."""
        await self._door.backend.retry(self.id)
        self._door.tell_of_submit([self.id])
        self._feed.reopen()

    def delete(self) -> None:
        """Remove the task's record and log before their time; an attempt under way stops.

        Raises:
            StreamExpiredError: It is not there any more.
        """
        self._door.ask(
            lambda backend: backend.delete(self.id),
            again=lambda backend: _delete_what_is_left(backend, self.id),
        )

    def xray(self) -> XRay:
        """Return where the time went: waits, attempts, tokens, as a picture on one time axis.

        As the last line of a cell it is live, and shows the text of the moment under the cursor;
        `xray().svg` is the picture as it stands.
        """
        from longtask_kit.widgets.xray import XRay

        return XRay(self)

    def _ipython_display_(self) -> None:
        """Show a live output area, or print the text where there are no widgets."""
        from longtask_kit.widgets.display import display_task

        display_task(self)

    def _display_(self) -> TaskOutput:
        """Return what marimo shows, by its own protocol: a card for each cell, closed with it."""
        from longtask_kit.widgets.output import TaskOutput

        return TaskOutput(self)

    def _look_again(self) -> bool:
        """Follow on, and say so, if an unhappy end was undone by a retry elsewhere."""
        ended = self._feed.transcript.status
        if not self._feed.state.is_over or ended not in ("failed", "cancelled"):
            return False
        try:
            was_undone = self._read_record().status != ended
        except LongTaskError:
            return False  # what is known already still stands
        if was_undone:
            self._feed.reopen()
        return was_undone

    def _catch_up(self) -> None:
        """Wait until what had happened before this call has been taken in."""
        is_known = not self._feed.is_empty or self._feed.state.is_over
        if self._feed.error is None and is_known and not self._look_again():
            return
        record = self._read_record()
        self._feed.follow()
        self._feed.wait_until(lambda: self._has_seen(record), timeout_s=_CATCH_UP_S)
        if self._feed.is_empty and self._feed.error is not None:  # its record is there, its log not
            raise self._feed.error.with_traceback(None)

    def _has_seen(self, record: TaskRecord) -> bool:
        if self._feed.state.is_over or record.status in TERMINAL_STATUSES:
            return self._feed.state.is_over
        if self._feed.is_empty or self._feed.transcript.is_terminal:
            return False  # nothing has come yet, or an end that a retry has undone
        return self._feed.transcript.cursor.attempt >= record.attempt

    def _read_outcome(self) -> str:
        """Return the text of a task that has ended, or raise why there is none."""
        if self._feed.error is not None:
            raise self._feed.error.with_traceback(None)
        state = self._feed.transcript
        if state.status == "failed":
            raise TaskFailedError(
                f"{self.id} failed: {make_printable(add_cure(state.error, state.code))}",
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


async def _delete_what_is_left(backend: Backend, task_id: str) -> None:
    with contextlib.suppress(StreamExpiredError):  # it was there, or this were no second time
        await backend.delete(task_id)


class _Restarts:
    """Tells whether a delta goes on behind what was yielded, or makes it void."""

    def __init__(self) -> None:
        self._has_text = self._is_void = False

    def note(self, event: TaskEvent) -> bool:
        """Take an event in; return whether it is a delta."""
        self._is_void = self._is_void or (event.type == "start" and self._has_text)
        return event.type == "content"

    def make_delta(self, event: TaskEvent) -> TextDelta:
        """Return an event's delta."""
        delta = TextDelta(event.data)
        delta.attempt, delta.is_restart = event.cursor.attempt, self._is_void
        self._has_text, self._is_void = True, False
        return delta


def submit_spec(door: Door, spec: TaskSpec, *, schema: Schema | None = None) -> Task:
    """Queue what a spec says, at the model of this kit where it names none."""
    spec = door.aim.complete(spec)
    new_id = new_task_id()  # ours, so that it is the same task if it must be asked again
    task_id, _ = door.ask(lambda backend: backend.submit(spec, task_id=new_id))
    door.tell_of_submit([task_id])
    return Task(task_id, door=door, spec=spec, schema=schema)


def answer_calls(
    calls: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the messages that answer a model's tool calls, in their order.

    Raises:
        SubmitError: A call has no result, or a result no call.
    """
    ids = [str(call.get("id")) for call in calls]
    missing, unknown = [i for i in ids if i not in results], [i for i in results if i not in ids]
    if missing or unknown:
        raise SubmitError(
            f"tool_results must answer each call of the task, {ids}: "
            f"{f'missing are {missing}' if missing else f'there is no call {unknown}'}."
        )
    return [{"role": "tool", "tool_call_id": i, "content": _to_text(results[i])} for i in ids]


def _to_text(result: Any) -> str:  # noqa: ANN401
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError) as exc:
        raise SubmitError(f"A tool's result must be text or JSON: {exc}.") from exc
