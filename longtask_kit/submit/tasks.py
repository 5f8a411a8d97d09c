"""Submit, cancel, retry, delete, read, list: one class over store and queue.

The kit and the HTTP API both use it, so that they can't disagree.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from longtask_kit.errors import StoreError, SubmitError
from longtask_kit.log.keys import is_task_id, new_task_id
from longtask_kit.log.record import Busy, Done, Gone, Settled
from longtask_kit.log.subscribe import expired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.log.events import Status
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.store import Store
    from longtask_kit.submit.queue import Queue
    from longtask_kit.submit.spec import TaskSpec

logger = logging.getLogger(__name__)


class Tasks:
    """The tasks of one Redis and one queue; both stay their opener's to close."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._queue = queue

    async def submit(self, spec: TaskSpec, *, task_id: str | None = None) -> tuple[str, str]:
        """Record a task as pending and publish it.

        Args:
            spec: What to run.
            task_id: Id to use; a fresh one if None. Submitting the same id again is harmless.

        Returns:
            Task id and the queue's message id; the latter is empty when the queue took the message
            and nobody heard its id. Once this returns, the task survives whoever submitted it.

        Raises:
            SubmitError: It was not queued; its record, if any, says failed.
        """
        task_id = task_id or new_task_id()
        try:
            # Record before publish: a delivery may arrive before the publish call returns.
            await self._store.create(task_id, spec.to_wire())
        except StoreError as exc:
            await self._give_up(task_id, "It could not be recorded.")  # perhaps it was
            raise SubmitError(f"The task was not queued. {exc}", task_id=task_id) from exc
        return task_id, await self._publish(task_id)

    async def cancel(self, task_id: str) -> Status:
        """Cancel a task: at once when nothing runs it, else at the attempt's next flush.

        Returns:
            `cancelled`; `running` when the attempt under way was asked to stop; the status the task
            had already ended with.

        Raises:
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        _check_id(task_id)
        match await self._store.settle(
            task_id, "cancelled", reason="cancelled on request", ask_to_stop=True
        ):
            case Gone():
                raise expired(task_id)
            case Done(status):
                return status
            case Settled(message_id):
                # Truth before the queue: should the message come all the same, it finds the end.
                if message_id is not None:
                    await self._queue.cancel(message_id)
                return "cancelled"
            case Busy():
                return "running"

    async def retry(self, task_id: str) -> str:
        """Run a failed task again as a new attempt.

        Returns:
            The queue's id of the new message, as `submit` does.

        Raises:
            SubmitError: It has not failed, or the queue refused.
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        _check_id(task_id)
        match await self._store.retry(task_id):
            case Gone():
                raise expired(task_id)
            case Done(status):
                raise SubmitError(f"Only a failed task can be retried; {task_id} is {status}.")
            case cursor:
                # The cursor makes it another message than the last, and the same if sent again.
                return await self._publish(task_id, deduplication_id=f"{task_id}-{cursor}")

    async def delete(self, task_id: str) -> None:
        """Forget a task, and its message in the queue; an attempt under way stops.

        Raises:
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        _check_id(task_id)
        match await self._store.delete(task_id):
            case Gone():
                raise expired(task_id)
            case Settled(message_id):
                if message_id is not None:
                    await self._queue.cancel(message_id)

    async def read(self, task_id: str) -> TaskRecord:
        """Return a task's record, with all of what runs.

        Raises:
            StreamExpiredError: It is unknown.
            StoreError: Redis did not answer; try again.
        """
        _check_id(task_id)
        record = await self._store.read_task(task_id)
        if record is None:
            raise expired(task_id)
        return record

    async def list(self, *, limit: int, status: Status | None = None) -> Sequence[TaskRecord]:
        """Return tasks, newest first, at most `limit`, only those with `status` if given.

        Raises:
            StoreError: Redis did not answer; try again.
        """
        return await self._store.list_tasks(limit=limit, status=status)

    async def _publish(self, task_id: str, *, deduplication_id: str | None = None) -> str:
        """Publish a task that is on record; when the queue does not take it, it ends as failed."""
        try:
            message_id = await self._queue.publish(task_id, deduplication_id=deduplication_id)
        except SubmitError as exc:
            if not await self._give_up(task_id, str(exc)):
                raise
            logger.warning("task %s runs, though its publish was not answered: %s", task_id, exc)
            return ""  # the queue took it, and nobody heard its id
        try:
            await self._store.set_message_id(task_id, message_id)
        except StoreError as exc:
            # The task is queued and will run; only a cancel in the queue is no longer possible.
            logger.warning("task %s: message id not recorded: %s", task_id, exc)
        return message_id

    async def _give_up(self, task_id: str, reason: str) -> bool:
        """End a task as failed; whether that came too late, as a delivery runs or ran it."""
        try:
            outcome = await self._store.settle(task_id, "failed", reason=reason, code="not_queued")
        except StoreError as exc:
            logger.warning("task %s could not be marked failed: %s", task_id, exc)
            return False
        return isinstance(outcome, Busy | Done)


def _check_id(task_id: str) -> None:
    """Raise for what can't be a task's id, and must not become part of a key."""
    if not is_task_id(task_id):
        raise expired(task_id)
