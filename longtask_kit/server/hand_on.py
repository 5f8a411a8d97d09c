"""Hand a task on: another delivery, later, goes on with what this one can't finish."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from longtask_kit.submit.queue import find_flow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.log.events import Cursor
    from longtask_kit.log.store import Store
    from longtask_kit.submit.queue import Queue


async def hand_on(
    task_id: str,
    *,
    cursor: Cursor,
    delivery_id: str,
    delay_s: float,
    brief: Mapping[str, Any],
    store: Store,
    queue: Queue,
) -> None:
    """Publish a task's next message and note it; only then may this one be answered.

    The record says by then that it waits, and its lease is free. Should this process die before
    the message is out, this delivery comes again; once it is noted, this delivery does nothing.

    Args:
        task_id: The task.
        cursor: Where its log ends: published twice from there, it is one message.
        delivery_id: The message that is handed on.
        delay_s: When the next one is delivered.
        brief: What a list shows of it: its group, and how often its deliveries may fail.
        store: Where its record is.
        queue: Where its messages are.

    Raises:
        SubmitError: The queue did not take it.
        StoreError: It could not be noted.
    """
    message_id = await queue.publish(
        task_id,
        deduplication_id=f"{task_id}-{cursor}",
        retries=brief.get("retries"),
        flow=find_flow(brief),
        delay_s=math.ceil(delay_s),
    )
    await store.set_message_id(task_id, message_id, handed=delivery_id)
