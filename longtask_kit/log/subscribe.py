"""Follow a task: listen first, then read the log, merge by cursor, reconnect.

Pub/sub is only the news that something was written; the log is the truth. News that is out of
order, lost or too much at once therefore costs one reading of the log, never a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from longtask_kit.errors import (
    StoreError,
    StreamError,
    StreamExpiredError,
    StreamSilentError,
)
from longtask_kit.log.events import START, Cursor, TaskEvent
from longtask_kit.log.news import News, NewsHub
from longtask_kit.log.waiting import give_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from longtask_kit.log.store import Store
    from longtask_kit.log.waiting import HasMessage
    from longtask_kit.settings import Settings


_MAX_IDLE_S = 16.0  # of silence before the next look into a log that nothing was heard of


class EventSource(Protocol):
    """Where a task's events come from: Redis, or the HTTP API."""

    def open(self, task_id: str, *, after: Cursor) -> AsyncIterator[TaskEvent]:
        """Yield `connected`, then every event after the cursor, replayed and live.

        Ends with the task's last event, or without one when the cursor is at it or after it.

        Raises:
            StreamError: The connection was lost; open again after the last cursor seen. It is a
                StreamSilentError when not even heartbeats came.
            StreamExpiredError: No such task.
        """
        ...


async def follow(
    source: EventSource,
    task_id: str,
    *,
    after: Cursor = START,
    silence_limit_s: float = 60.0,
) -> AsyncIterator[TaskEvent]:
    """Yield a task's events in order, each exactly once, replayed or live.

    What a newer version wrote, of a type that this one does not know, is left out.

    Args:
        source: Where they come from.
        task_id: The task to follow.
        after: Last cursor already seen; START replays everything.
        silence_limit_s: Longest time without a connection that stands, in seconds, > 0; what is
            new in the log begins it anew, a greeting does not.

    Yields:
        Events with strictly increasing cursors; the last one is terminal. None, if `after` is the
        last one of an ended task.

    Raises:
        StreamExpiredError: Unknown task, or its log is gone; submit again.
        StreamSilentError: No connection for `silence_limit_s`; attach again later.
    """
    cursor, loss = after, Loss(time.monotonic())
    while True:
        try:
            async with contextlib.aclosing(source.open(task_id, after=cursor)) as events:  # type: ignore[type-var]
                async for event in events:
                    is_new = event.cursor > cursor
                    loss.hear(time.monotonic(), is_new=is_new)
                    if not is_new:  # `connected`, or a replay from before the drop
                        continue
                    cursor = event.cursor
                    if event.is_known:
                        yield event
                    if event.is_terminal:
                        return
                return  # nothing follows: the cursor was at the end of an ended task
        except StreamExpiredError:
            raise
        except (StreamError, StoreError) as exc:
            was_silent = isinstance(exc, StreamSilentError)
            if loss.count(time.monotonic(), was_silent=was_silent) > silence_limit_s:
                raise StreamSilentError(
                    f"Nothing heard of {task_id} for {silence_limit_s:g} s: {exc} "
                    "The task may still run: attach again later.",
                    task_id=task_id,
                    cursor=str(cursor),
                ) from exc
        await asyncio.sleep(loss.delay_s)


_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.05, 5.0


class Loss:
    """For how long a follower could not read, and how long to wait before it tries again.

    Only what is new in the log ends a loss: a service that greets and breaks, again and again, is
    lost. But while a connection stands nothing is lost: a task may be silent for an hour behind a
    proxy that cuts every minute.

    Args:
        now: When the first try begins, on a clock in seconds, as in all methods.

    Attributes:
        delay_s: How long to wait before the next try.
    """

    def __init__(self, now: float) -> None:
        self.delay_s = 0.0
        self._lost_s = 0.0
        self._counted = now  # what came before
        self._stands_since: float | None = None
        self._has_news = False

    def hear(self, now: float, *, is_new: bool) -> None:
        """Note that the connection stands, and whether it brought something new."""
        self._stands_since = self._stands_since or now
        self._has_news = self._has_news or is_new

    def count(self, now: float, *, was_silent: bool) -> float:
        """Count a try that has failed, with the wait before it.

        Args:
            now: When it failed.
            was_silent: Nothing at all came until it was given up, so it did not stand.

        Returns:
            The whole loss, in seconds.
        """
        stood_s = 0.0 if was_silent or self._stands_since is None else now - self._stands_since
        self._lost_s += now - self._counted - stood_s
        if self._has_news:
            self._lost_s = 0.0
        if self._has_news or stood_s >= _LONGEST_DELAY_S:
            self.delay_s = 0.0
        self.delay_s = min(max(2 * self.delay_s, _FIRST_DELAY_S), _LONGEST_DELAY_S)
        self._counted, self._stands_since, self._has_news = now, None, False
        return self._lost_s


class RedisSource:
    """Events from Redis itself: the log, and news over the REST API's SSE subscription.

    Args:
        store: Where the log is.
        settings: Name the service.
        has_message: Whether the queue will still deliver a message, so that nothing is lost.
    """

    def __init__(
        self, store: Store, settings: Settings, *, has_message: HasMessage | None = None
    ) -> None:
        self._store = store
        self._has_message = has_message
        self._hub = NewsHub(settings)
        # After this long without news the log is read: a lost message delays, it never hangs.
        self._deadline_s = settings.deadline_s
        self._idle_timeout_s = 2.0 if settings.has_loopback_redis else _MAX_IDLE_S
        self._readings: dict[tuple[str, Cursor], asyncio.Task[list[TaskEvent] | None]] = {}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._hub.aclose()

    async def open(self, task_id: str, *, after: Cursor) -> AsyncIterator[TaskEvent]:
        """See `EventSource.open`."""
        async with self._hub.listen(task_id) as news:
            # Listen before read: what is written between the two is then in the news, the log,
            # or both; the other way round it could be in neither.
            cursor = after
            events = await self._read(task_id, after=cursor)
            yield _connected()
            idle_s = self._idle_timeout_s
            while events is not None:
                for event in events:
                    cursor = event.cursor
                    yield event
                    if event.is_terminal:
                        return
                # Where the log held nothing either, the next look may wait longer.
                idle_s = self._idle_timeout_s if events else min(2 * idle_s, _MAX_IDLE_S)
                events = await self._next(task_id, news, cursor, idle_s)

    async def _next(
        self, task_id: str, news: News, cursor: Cursor, idle_s: float
    ) -> list[TaskEvent] | None:
        """Return what comes after the cursor: the next news, or the log where news has a hole."""
        try:
            event = await self._hear(news, cursor, idle_s)
        except TimeoutError:
            return await self._read(task_id, after=cursor)
        if is_next(cursor, event.cursor):
            return [event]
        return await self._read(task_id, after=cursor)

    async def _hear(self, news: News, cursor: Cursor, idle_s: float) -> TaskEvent:
        """Return the first news after the cursor, or raise TimeoutError."""
        while True:
            event = await news.hear(idle_s)
            if isinstance(event, StreamError):
                raise event
            if event.cursor > cursor:
                return event

    async def _read(self, task_id: str, *, after: Cursor) -> list[TaskEvent] | None:
        """Return what the log holds after a cursor; None when nothing will ever follow.

        All who ask in the same turn of the loop, as two hundred followers do at a new attempt, read
        once. Nobody joins a reading that has begun: it may have missed what came before he heard.
        """
        place = (task_id, after)
        if place not in self._readings:
            reading = asyncio.create_task(self._read_next_turn(*place))
            # Seen, should all who wanted it have left by then.
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._readings[place] = reading
        return await asyncio.shield(self._readings[place])

    async def _read_next_turn(self, task_id: str, after: Cursor) -> list[TaskEvent] | None:
        del self._readings[task_id, after]
        events = await self._store.read_log(task_id, after=after)
        if events:
            return events
        record = await self._store.read_task(task_id)
        if record is None or await self._store.read_last_cursor(task_id) is None:
            raise expired(task_id, cursor=after)
        was_given_up = await give_up(
            self._store, record, deadline_s=self._deadline_s, has_message=self._has_message
        )
        if was_given_up or record.is_over:  # its end may have come between the two readings
            return await self._store.read_log(task_id, after=after) or None
        return events


def is_next(seen: Cursor, cursor: Cursor) -> bool:
    """Tell whether nothing can be missing between two cursors.

    A hole in seq, and any change of attempt, may hide entries: then the log must be read.
    """
    return cursor.attempt == seen.attempt and cursor.seq == seen.seq + 1


def expired(task_id: str, *, cursor: Cursor = START) -> StreamExpiredError:
    """Return the error of a task that is not there."""
    return StreamExpiredError(
        f"No task {task_id[:80]!r}: expected an id that submit() returned, found nothing. It was "
        "never submitted here, was deleted, or outlived LONGTASK_TTL_S; submit it again.",
        task_id=task_id,
        cursor=str(cursor),
    )


def _connected() -> TaskEvent:
    return TaskEvent(type="connected", cursor=START, time=datetime.now(UTC))
