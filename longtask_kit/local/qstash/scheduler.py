"""The schedules' clock: sleeps until the next turn, then sends what is due."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from longtask_kit.local.qstash.controls import now_ms
from longtask_kit.local.qstash.errors import MalformedRequestError
from longtask_kit.local.qstash.fan_out import GroupMissingError, messages_for
from longtask_kit.local.qstash.schedules import Schedule, next_time_ms
from longtask_kit.local.qstash.store import QueueStore, ScheduleRun

if TYPE_CHECKING:
    from longtask_kit.local.qstash.delivery import DeliveryQueue
    from longtask_kit.local.qstash.destination import Reach
    from longtask_kit.local.qstash.message import Message

# A sleeping laptop stops the loop's clock and not the wall's; an hour is looked at in pieces.
LONGEST_SLEEP_S = 30.0
STORE_RETRY_S = 1.0

logger = logging.getLogger(__name__)


class Scheduler:
    """Makes, changes and runs schedules.

    A turn that was missed while nothing ran is made up for once, however many there were.
    """

    def __init__(self, store: QueueStore, queue: DeliveryQueue, reach: Reach) -> None:
        self._store = store
        self._reach = reach
        self._queue = queue
        self._changed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin with what is stored."""
        self._runner = asyncio.create_task(self._run(), name="qstash-schedules")

    async def stop(self) -> None:
        """Stop; a turn that is under way is either stored or comes again."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)

    async def save(self, schedule: Schedule) -> None:
        """Store a schedule, in place of one with the same id."""
        next_ms = next_time_ms(schedule.cron, after_ms=now_ms())
        await self._store.catalog.save_schedule(schedule, next_ms=next_ms)
        self._changed.set()

    async def resume(self, schedule: Schedule) -> None:
        """Let a paused schedule go on with its next turn; those missed are not made up for."""
        next_ms = next_time_ms(schedule.cron, after_ms=now_ms())
        await self._store.catalog.resume_schedule(schedule.schedule_id, next_ms=next_ms)
        self._changed.set()

    async def run_due(self, time_ms: int) -> None:
        """Send what every schedule whose turn has come sends."""
        for schedule_id, due_ms in await self._store.catalog.due_schedules(time_ms):
            schedule = await self._store.catalog.schedule(schedule_id)
            if schedule is not None:
                await self._fire(schedule, due_ms=due_ms, time_ms=time_ms)

    async def _run(self) -> None:
        while True:
            # Cleared before looking: a schedule that is made while we look wakes us again.
            self._changed.clear()
            try:
                await self.run_due(now_ms())
                next_ms = await self._store.catalog.next_schedule_ms()
            except RedisError as exc:
                logger.warning("schedules wait: storage failed: %s", exc)
                await asyncio.sleep(STORE_RETRY_S)
                continue
            wait_s = None if next_ms is None else (next_ms - now_ms()) / 1000
            try:
                async with asyncio.timeout(
                    None if wait_s is None else min(max(wait_s, 0.0), LONGEST_SLEEP_S)
                ):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _fire(self, schedule: Schedule, *, due_ms: int, time_ms: int) -> None:
        messages: list[Message] = []
        error = None
        try:
            messages = await self._messages(schedule, time_ms)
        except (MalformedRequestError, GroupMissingError) as exc:
            error = str(exc)
            logger.warning("schedule %s sends nothing: %s", schedule.schedule_id, exc)
        run = ScheduleRun(
            schedule=schedule,
            due_ms=due_ms,
            next_ms=next_time_ms(schedule.cron, after_ms=time_ms),
            time_ms=time_ms,
            error=error,
        )
        await self._queue.store_and_accept(messages, functools.partial(self._store.fire, run))

    async def _messages(self, schedule: Schedule, time_ms: int) -> list[Message]:
        messages = await messages_for(
            self._store.catalog,
            self._reach,
            schedule.destination,
            schedule.headers,
            body=schedule.body,
            now_ms=time_ms,
            caller_ip=schedule.caller_ip,
            queue_name=schedule.queue_name,
        )
        return [
            dataclasses.replace(message, schedule_id=schedule.schedule_id) for message in messages
        ]
