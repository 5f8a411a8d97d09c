"""One delivery of a task, as the webhook runs it."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from longtask_kit.log.store import Store
from longtask_kit.server.attempt import Answer, run_delivery
from longtask_kit.server.handlers import Handler
from longtask_kit.server.writer import LogWriter


async def deliver(
    store: Store,
    task_id: str,
    handlers: Mapping[str, Handler],
    *,
    delivery_id: str = "msg_1",
    beside: Callable[[LogWriter], Coroutine[Any, Any, None]] | None = None,
    **options: Any,  # noqa: ANN401 - run_delivery's
) -> Answer:
    """Run it with a log writer of its own, `beside` meanwhile; return the answer to the queue."""
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=0.05) as log_writer:
        other = asyncio.create_task(beside(log_writer)) if beside else None
        answer = await run_delivery(
            task_id,
            delivery_id=delivery_id,
            store=store,
            log_writer=log_writer,
            handlers=handlers,
            **options,
        )
        if other is not None:
            await other
    return answer
