"""Build a TaskSpec, record the task, hand it to the queue."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StoreError, SubmitError
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.record import Busy, Done, Gone, Settled

if TYPE_CHECKING:
    from longtask_kit.log.events import Status
    from longtask_kit.log.store import Store
    from longtask_kit.submit.queue import Queue
    from longtask_kit.submit.spec import TaskSpec

logger = logging.getLogger(__name__)


async def submit_task(
    spec: TaskSpec, *, store: Store, queue: Queue, task_id: str | None = None
) -> tuple[str, str]:
    """Record a task as pending and publish it.

    Args:
        spec: What to run.
        store: Where the task is recorded.
        queue: Where it is published.
        task_id: Id to use; a fresh one if None. Submitting the same id again is harmless.

    Returns:
        Task id and the queue's message id, if known. Once this returns, the task survives whoever
        submitted it.

    Raises:
        SubmitError: It was not queued; its record, if any, says failed.
    """
    task_id = task_id or new_task_id()
    wire = spec.to_wire()
    try:
        # Record before publish: a delivery may arrive before the publish call returns.
        await store.create(task_id, wire)
    except StoreError as exc:
        await _give_up(task_id, "It could not be recorded.", store)  # perhaps it was
        raise SubmitError(f"The task was not queued. {exc}", task_id=task_id) from exc
    return task_id, await _publish(task_id, wire, store=store, queue=queue)


async def retry_task(task_id: str, *, store: Store, queue: Queue) -> str | None:
    """Run a failed task again as a new attempt.

    Returns:
        The queue's id of the new message; None when the task is unknown.

    Raises:
        SubmitError: It has not failed, or the queue refused.
        StoreError: Redis did not answer; try again.
    """
    record = await store.read_task(task_id)
    if record is None:
        return None
    match await store.retry(task_id):
        case Gone():
            return None
        case Done(status):
            raise SubmitError(f"Only a failed task can be retried; {task_id} is {status}.")
        case cursor:
            # The cursor makes it another message than the last one's, and the same if sent again.
            return await _publish(
                task_id,
                record.spec,
                store=store,
                queue=queue,
                deduplication_id=f"{task_id}-{cursor}",
            )


async def delete_task(task_id: str, *, store: Store, queue: Queue) -> bool:
    """Forget a task, and its message in the queue; an attempt under way stops.

    Returns:
        Whether there was such a task.

    Raises:
        StoreError: Redis did not answer; try again.
    """
    record = await store.read_task(task_id)
    if record is not None and record.message_id is not None and not record.is_over:
        await queue.cancel(record.message_id)
    return await store.delete(task_id)


async def cancel_task(task_id: str, *, store: Store, queue: Queue) -> Status | None:
    """Cancel a task: at once when nothing runs it, else at the attempt's next flush.

    Returns:
        `cancelled`; `running` when the attempt under way was asked to stop; the status the task
        had already ended with; None when it is unknown.

    Raises:
        StoreError: Redis did not answer; try again.
    """
    record = await store.read_task(task_id)
    outcome = await store.settle(
        task_id, "cancelled", reason="cancelled on request", ask_to_stop=True
    )
    match outcome:
        case Gone():
            return None
        case Done(status):
            return status
        case Settled():
            if record is not None and record.message_id is not None:
                await queue.cancel(record.message_id)
            return "cancelled"
        case _:
            return "running"


async def _publish(
    task_id: str,
    wire: dict[str, Any],
    *,
    store: Store,
    queue: Queue,
    deduplication_id: str | None = None,
) -> str:
    """Publish a task that is on record; when the queue does not take it, it ends as failed.

    Returns:
        The queue's message id; empty when it took the message and nobody heard.
    """
    try:
        message_id = await queue.publish(task_id, wire, deduplication_id=deduplication_id)
    except SubmitError as exc:
        if not await _give_up(task_id, str(exc), store):
            raise
        logger.warning("task %s runs, though its publish was not answered: %s", task_id, exc)
        return ""  # the queue took it, and nobody heard its id
    try:
        await store.set_message_id(task_id, message_id)
    except StoreError as exc:
        # The task is queued and will run; only a cancel in the queue is no longer possible.
        logger.warning("task %s: message id not recorded: %s", task_id, exc)
    return message_id


async def _give_up(task_id: str, reason: str, store: Store) -> bool:
    """End a task as failed; whether that came too late, because a delivery runs or ran it."""
    try:
        outcome = await store.settle(task_id, "failed", reason=reason, code="not_queued")
    except StoreError as exc:
        logger.warning("task %s could not be marked failed: %s", task_id, exc)
        return False
    return isinstance(outcome, Busy | Done)
