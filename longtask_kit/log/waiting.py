"""Tasks that wait for what will not come: late ones, and those whose message is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from longtask_kit.log.record import Asked, Settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.store import Store

    HasMessage = Callable[[str], Awaitable[bool]]

TOO_LATE = "It took longer than its timeout_s allows."


async def give_up(
    store: Store, record: TaskRecord, *, deadline_s: float, has_message: HasMessage | None = None
) -> bool:
    """End a task as failed that can't be waited for any more: its time is over, or it is lost.

    Args:
        store: Where it is.
        record: As it was read.
        deadline_s: Longer than the queue ever waits; a task that was silent for so long is lost.
        has_message: Whether the queue will still deliver a message: then nothing is lost.

    Returns:
        Whether it was ended by this call.
    """
    return await give_up_late(store, record) or await give_up_silent(
        store, record, deadline_s=deadline_s, has_message=has_message
    )


async def give_up_late(store: Store, record: TaskRecord) -> bool:
    """End a task that waits although the time it may take is over; whether that was this call.

    An attempt under way ends by itself. Redis' clock has the last word.
    """
    if not record.is_late(datetime.now(UTC)):
        return False
    outcome = await store.settle(
        record.task_id, "failed", reason=TOO_LATE, code="timeout", only="late"
    )
    return isinstance(outcome, Settled)


async def give_up_silent(
    store: Store, record: TaskRecord, *, deadline_s: float, has_message: HasMessage | None = None
) -> bool:
    """End a task that nothing has happened to for longer than the queue ever waits.

    Its message is lost, or will never be delivered; should it come after all, the task runs.
    """
    if record.is_over or record.is_parked:
        return False
    silent_s = (datetime.now(UTC) - record.updated).total_seconds()
    # Redis' clock has the last word, but need not be asked each time; where ours is far behind it,
    # it is asked.
    if abs(silent_s) < deadline_s / 2:
        return False
    reason = (
        f"Nothing has happened to it for more than {deadline_s:g} s (LONGTASK_DEADLINE_S): the "
        "queue lost its message, or can't reach the webhook."
    )
    for only in ("ask", "") if has_message else ("",):
        outcome = await store.settle(
            record.task_id,
            "failed",
            reason=reason,
            code="lost",
            silent_s=deadline_s,
            only=only,
        )
        if not isinstance(outcome, Asked) or has_message is None:
            return isinstance(outcome, Settled)
        if await has_message(outcome.message_id):
            await store.settle(
                record.task_id, "failed", reason=reason, silent_s=deadline_s, only="kept"
            )
            return False
    return False


async def sweep(store: Store, *, deadline_s: float, has_message: HasMessage | None = None) -> int:
    """Look at all tasks that nobody has looked at for half a deadline; end those that are lost.

    Returns:
        How many tasks are still open.
    """
    index, now_ms = store.index, await store.index.read_clock_ms()
    async for task_ids in index.find_due(now_ms, wait_s=deadline_s / 2):
        still_open = [
            record.task_id
            for record in await index.read_records(task_ids)
            if not record.is_over
            and not await give_up(store, record, deadline_s=deadline_s, has_message=has_message)
        ]
        await index.note_looked_at(still_open, now_ms)
        await index.note_ended([i for i in task_ids if i not in still_open])
    await index.forget_expired()
    return await index.count_open()
