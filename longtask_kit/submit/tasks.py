"""Submit, cancel, retry, delete, read, list: one class over store and queue.

The kit and the HTTP API both use it, so that they can't disagree.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from longtask_kit.errors import LongTaskError, StoreError, SubmitError
from longtask_kit.log.events import Cursor, Status, from_ms, to_ms
from longtask_kit.log.keys import is_task_id, new_task_id
from longtask_kit.log.record import CANCELLED, Busy, Done, Gone, Settled
from longtask_kit.log.subscribe import expired
from longtask_kit.log.waiting import give_up_late
from longtask_kit.stages import tell
from longtask_kit.submit.queue import find_flow
from longtask_kit.traces import trace_submit

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from datetime import datetime

    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.store import Store
    from longtask_kit.submit.queue import Flow, Queue
    from longtask_kit.submit.spec import TaskSpec

logger = logging.getLogger(__name__)
_LEAVING_S = 3.0  # a kit that is closed waits a little longer than that


CancelAnswer = Status | Literal["cancelling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTry:
    """The next try of a task whose attempt failed: when, if the queue says, and of how many."""

    at: datetime | None
    max_attempts: int

    def to_wire(self) -> dict[str, Any]:
        """Return the answer of `GET /api/tasks/{id}/next-try`."""
        return {"at": to_ms(self.at) if self.at else None, "maxAttempts": self.max_attempts}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read what `to_wire` wrote."""
        at = wire["at"]
        return cls(at=None if at is None else from_ms(at), max_attempts=wire["maxAttempts"])


class Tasks:
    """The tasks of one Redis and one queue; both stay their opener's to close.

    Args:
        store: Where their records are.
        queue: Where their messages are.
        at_once: How many are submitted at the same time, others after them: so the first of a
            hundred begin while the last are yet to be submitted.
    """

    def __init__(self, store: Store, queue: Queue, *, at_once: int = 32) -> None:
        self._store = store
        self._queue = queue
        self._turns = asyncio.Semaphore(at_once)

    async def submit(self, spec: TaskSpec, *, task_id: str | None = None) -> tuple[str, str]:
        """Record a task as pending and publish it.

        Args:
            spec: What to run.
            task_id: Id to use; a fresh one if None. Submitting the same id again is harmless, and
                makes up for a time before that was not heard of, or given up.

        Returns:
            Task id and the queue's message id; the latter is empty when the queue took the message
            and nobody heard its id. Once this returns, the task survives whoever submitted it.

        Raises:
            SubmitError: It was not queued; its record, if any, says failed.
        """
        task_id = task_id or new_task_id()
        try:
            async with self._turns:
                return task_id, await self._submit(task_id, spec)
        except asyncio.CancelledError:
            # Nobody has a handle on it: it must neither wait for ever nor run.
            await try_for_a_moment(self.cancel(task_id))
            raise

    async def _submit(self, task_id: str, spec: TaskSpec) -> str:
        try:
            # Record before publish: a delivery may arrive before the publish call returns.
            created = await self._store.create(task_id, spec.to_wire())
            was_given_up = not created.is_new and (await self.read(task_id)).code == "not_queued"
        except StoreError as exc:
            await self._give_up(task_id, "It could not be recorded.")  # perhaps it was
            raise SubmitError(f"The task was not queued. {exc}", task_id=task_id) from exc
        if was_given_up:
            return await self.retry(task_id)
        # The queue has heard this id, where a task of the same was deleted: it would drop another.
        former = created.former_attempts
        deduplication_id = f"{task_id}-{Cursor(former, 1)}" if former else None
        return await self._publish(task_id, deduplication_id=deduplication_id, retries=spec.retries)

    async def cancel(self, task_id: str) -> CancelAnswer:
        """Cancel a task: at once when nothing runs it, else at the attempt's next flush.

        Returns:
            `cancelled`; `cancelling` when the attempt under way was asked to stop; the status the
            task had already ended with.

        Raises:
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        _check_id(task_id)
        await self._store.notes.settle(task_id)
        match await self._store.settle(task_id, "cancelled", reason=CANCELLED, ask_to_stop=True):
            case Gone():
                raise expired(task_id)
            case Done(status):
                return status
            case Settled(message_id):
                # Truth before the queue: should the message come all the same, it finds the end.
                if message_id is not None:
                    await self._queue.cancel(message_id)
                return "cancelled"
            case _:
                return "cancelling"

    async def retry(self, task_id: str, *, retry_id: str = "") -> str:
        """Run a failed or cancelled task again as a new attempt; complete a retry that was cut.

        Args:
            task_id: The task.
            retry_id: Of this request, if it may be made again: with the same one it is the same.

        Returns:
            The queue's id of the new message, as `submit` does.

        Raises:
            SubmitError: It has not ended so, or the queue refused.
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        answer = await self.retry_if_ended(task_id, retry_id=retry_id)
        if isinstance(answer, Done):
            raise SubmitError(
                f"Only a failed or cancelled task can be retried; {task_id} is {answer.status}."
            )
        return answer

    async def retry_if_ended(self, task_id: str, *, retry_id: str = "") -> str | Done:
        """As `retry`, but return where a task is that has not ended so."""
        record = await self.read(task_id)
        cursor: Cursor | None
        match await self._store.retry(task_id, retry_id=retry_id):
            case Gone():
                raise expired(task_id)
            case Done("pending") if record.attempt and record.message_id is None:
                # Whoever retried it died before its message; where he lives, it is the same.
                cursor = await self._store.read_last_cursor(task_id)
            case Done() as done:
                return done
            case Cursor() as cursor:
                pass
        try:
            # The cursor makes it another message than the last, and the same if sent again.
            return await self._publish(
                task_id,
                deduplication_id=f"{task_id}-{cursor}",
                retries=record.wire.get("retries"),
                flow=find_flow(record.wire),
            )
        except asyncio.CancelledError:
            await try_for_a_moment(self._give_up(task_id, "Its retry was interrupted."))
            raise

    async def find_next_try(self, task_id: str) -> NextTry:
        """Return what is known of the next try of a task whose attempt failed.

        Raises:
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        record = await self.read(task_id)
        retries = record.wire.get("retries")
        most = 1 + (self._queue.retries if retries is None else int(retries))
        if record.status != "retrying" or record.message_id is None:
            return NextTry(at=None, max_attempts=most)
        at = await self._queue.find_next_try(record.message_id)
        return NextTry(at=at, max_attempts=most)

    async def try_now(self, task_id: str) -> bool:
        """Have a task that waits for its next try run at once; whether the queue had it waiting.

        Raises:
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        record = await self.read(task_id)
        return record.message_id is not None and await self._queue.deliver_now(record.message_id)

    async def delete(self, task_id: str) -> None:
        """Forget a task, and its message in the queue; an attempt under way stops.

        Raises:
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        _check_id(task_id)
        await self._store.notes.settle(task_id)
        match await self._store.delete(task_id):
            case Gone():
                raise expired(task_id)
            case Settled(message_id):
                if message_id is not None:
                    await self._queue.cancel(message_id)

    async def read(self, task_id: str) -> TaskRecord:
        """Return a task's record.

        Raises:
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        _check_id(task_id)
        await self._store.notes.settle(task_id)
        record = await self._store.read_task(task_id)
        if record is not None and await give_up_late(self._store, record):
            record = await self._store.read_task(task_id)
        if record is None:
            raise expired(task_id)
        return record

    async def read_input(self, task_id: str) -> dict[str, Any]:
        """Return all of what a task asks, as `TaskSpec.to_wire` wrote it; raises as `read` does."""
        _check_id(task_id)
        wire = await self._store.read_input(task_id)
        if wire is None:
            raise expired(task_id)
        return wire

    async def list(self, *, limit: int, status: Status | None = None) -> Sequence[TaskRecord]:
        """Return tasks, newest first, at most `limit`, only those with `status` if given.

        Raises:
            StoreError: Redis did not answer; try again.
        """
        return await self._store.list_tasks(limit=limit, status=status)

    async def _publish(
        self,
        task_id: str,
        *,
        deduplication_id: str | None = None,
        retries: int | None,
        flow: Flow | None = None,
    ) -> str:
        """Publish a task that is on record; when the queue does not take it, it ends as failed."""
        try:
            with trace_submit(task_id):
                message_id = await self._queue.publish(
                    task_id, deduplication_id=deduplication_id, retries=retries, flow=flow
                )
        except SubmitError as exc:
            if not await self._give_up(task_id, str(exc)):
                raise
            logger.warning("task %s runs, though its publish was not answered: %s", task_id, exc)
            return ""  # the queue took it, and nobody heard its id
        tell("submit", task_id, message_id=message_id)
        self._store.notes.add(task_id, message_id)
        return message_id

    async def _give_up(self, task_id: str, reason: str) -> bool:
        """End a task as failed; whether that came too late, as a delivery runs or ran it."""
        try:
            outcome = await self._store.settle(task_id, "failed", reason=reason, code="not_queued")
        except StoreError as exc:
            logger.warning("task %s could not be marked failed: %s", task_id, exc)
            return False
        return isinstance(outcome, Busy | Done)


async def try_for_a_moment(work: Coroutine[Any, Any, object]) -> None:
    """Await what somebody who is leaving would like to have done."""
    with contextlib.suppress(LongTaskError, TimeoutError):
        async with asyncio.timeout(_LEAVING_S):
            await work


def _check_id(task_id: str) -> None:
    """Raise for what can't be a task's id, and must not become part of a key."""
    if not is_task_id(task_id):
        raise expired(task_id)
