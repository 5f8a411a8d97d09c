"""The delivery engine: starts what is due, settles what comes back, wakes only when needed.

The truth is in the store; the engine's own heap only says when to look there. An entry too
many does no harm, as a message that isn't pending is dropped when its turn comes.
"""

import asyncio
import functools
import heapq
import itertools
import logging
import secrets
import time
from collections.abc import Mapping

import httpx
from redis.exceptions import RedisError

from longtask_kit.local.qstash.attempt import Attempt, attempt_delivery
from longtask_kit.local.qstash.destination import printable, rewrite
from longtask_kit.local.qstash.retry import next_delay_s
from longtask_kit.local.qstash.signing import SigningKeys
from longtask_kit.local.qstash.store import DeadLetter, QueueStore, Settlement
from longtask_kit.local.qstash.views import callback_messages, event_view
from longtask_kit.local.qstash.wire import Message

STORE_RETRY_MS = 1000
OWN_FAILURE_RETRY_MS = 60_000

logger = logging.getLogger(__name__)


def now_ms() -> int:
    """Return unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def settlement_of(
    message: Message, attempt: Attempt, *, retried: int, time_ms: int, time_scale: float
) -> Settlement:
    """Return what an attempt's outcome changes: delivered, tried again, or dead; pure."""
    delay_s = None
    if not attempt.is_delivered:
        delay_s = next_delay_s(
            attempt.status,
            attempt.headers,
            retried=retried,
            max_retries=message.max_retries,
            expression=message.retry_delay,
            now_s=time_ms / 1000,
            time_scale=time_scale,
        )
    due_ms = None if delay_s is None else time_ms + round(delay_s * 1000)
    is_dead = not attempt.is_delivered and due_ms is None
    dead_letter = _dead_letter(message, attempt, time_ms) if is_dead else None
    callbacks = callback_messages(
        message,
        attempt,
        retried=retried,
        dead_letter_id=dead_letter.dead_letter_id if dead_letter else None,
        now_ms=time_ms,
    )
    states = ["DELIVERED"] if attempt.is_delivered else ["ERROR", "FAILED" if is_dead else "RETRY"]
    return Settlement(
        message=message,
        events=[
            event_view(message, state, time_ms=time_ms, attempt=attempt, next_delivery_ms=due_ms)
            for state in states
        ],
        retried=retried + 1,
        due_ms=due_ms,
        dead_letter=dead_letter,
        callbacks=callbacks,
    )


class DeliveryQueue:
    """Accepts messages and delivers them until each is delivered, dead or cancelled."""

    def __init__(
        self,
        store: QueueStore,
        client: httpx.AsyncClient,
        *,
        keys: SigningKeys,
        time_scale: float,
        rewrites: Mapping[str, str],
        dedup_window_ms: int,
        max_in_flight: int,
    ) -> None:
        self.keys = keys
        self._given_keys = keys
        self._store = store
        self._client = client
        self._time_scale = time_scale
        self._rewrites = dict(rewrites)
        self._dedup_window_ms = dedup_window_ms
        self._max_in_flight = max_in_flight
        self._due: list[tuple[int, int, str]] = []
        self._order = itertools.count()
        self._in_flight: dict[str, asyncio.Task[int | None]] = {}
        self._wake = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up every unfinished message; one that was in flight at a crash is due at once."""
        self.keys = await self._store.load_keys(self._given_keys)
        for message_id, due_ms in await self._store.pending():
            self._schedule(message_id, due_ms)
        self._runner = asyncio.create_task(self._run(), name="qstash-deliveries")

    async def stop(self) -> None:
        """Stop; deliveries in flight are cut off and stay pending, not counted as a retry."""
        tasks = [task for task in (self._runner, *self._in_flight.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def count_pending(self) -> int:
        """Return how many messages aren't finished: in flight, due, or waiting for their time."""
        return await self._store.count_pending()

    async def publish(self, message: Message, *, dead_letter_id: str | None = None) -> str | None:
        """Store a message and return the id that stands for it, another one's if a duplicate.

        None if `dead_letter_id` was given and that dead letter is gone.
        """
        stored_id: str | None = message.message_id
        try:
            stored_id = await self._store.publish(
                message, dedup_window_ms=self._dedup_window_ms, dead_letter_id=dead_letter_id
            )
        finally:
            # Also after an error: the message may be stored and only the reply lost.
            if stored_id == message.message_id:
                self._schedule(message.message_id, message.not_before_ms)
        return stored_id

    async def cancel(self, message: Message) -> bool:
        """Cancel a message, waiting or in flight; False if it is finished already."""
        time_ms = now_ms()
        events = [
            event_view(message, state, time_ms=time_ms)
            for state in ("CANCEL_REQUESTED", "CANCELED")
        ]
        # Truth before action: once it isn't pending, an answer that comes now changes nothing.
        cancelled = await self._store.settle(Settlement(message=message, events=events))
        task = self._in_flight.get(message.message_id)
        if cancelled and task is not None:
            task.cancel()
        return cancelled

    async def rotate_keys(self) -> SigningKeys:
        """Make the next signing key the current one, and return both."""
        keys = self.keys.rotated()
        # Stored before used: a restart must not go back to a key that receivers dropped.
        await self._store.save_keys(keys, given=self._given_keys)
        self.keys = keys
        return keys

    def _schedule(self, message_id: str, due_ms: int) -> None:
        heapq.heappush(self._due, (due_ms, next(self._order), message_id))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            # Cleared before looking: what is scheduled while we look wakes us again.
            self._wake.clear()
            self._start_due()
            try:
                async with asyncio.timeout(self._idle_s()):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _start_due(self) -> None:
        time_ms = now_ms()
        while self._due and self._due[0][0] <= time_ms and self._has_room():
            _, _, message_id = heapq.heappop(self._due)
            if message_id in self._in_flight:
                continue
            task = asyncio.create_task(self._deliver(message_id), name=f"qstash-{message_id}")
            self._in_flight[message_id] = task
            task.add_done_callback(functools.partial(self._finish, message_id))

    def _has_room(self) -> bool:
        return len(self._in_flight) < self._max_in_flight

    def _idle_s(self) -> float | None:
        """Seconds until the next due time; None sleeps until woken. At most a day at once."""
        if not self._due or not self._has_room():
            return None
        return min(max(0.0, (self._due[0][0] - now_ms()) / 1000), 86_400.0)

    def _finish(self, message_id: str, task: asyncio.Task[int | None]) -> None:
        # Out of flight before it is scheduled again: an immediate retry would be skipped.
        self._in_flight.pop(message_id, None)
        if not task.cancelled() and (due_ms := task.result()) is not None:
            self._schedule(message_id, due_ms)
        self._wake.set()

    async def _deliver(self, message_id: str) -> int | None:
        """Make one attempt and return when the next is due, if there is to be one."""
        try:
            return await self._attempt_and_settle(message_id)
        except RedisError as exc:
            logger.warning("message %s waits: storage failed: %s", message_id, exc)
            return now_ms() + STORE_RETRY_MS
        except Exception:
            # One poisoned message must neither stop the queue nor be lost.
            logger.exception("message %s waits: the queue itself failed", message_id)
            return now_ms() + OWN_FAILURE_RETRY_MS

    async def _attempt_and_settle(self, message_id: str) -> int | None:
        found = await self._store.load_pending(message_id)
        if found is None:
            return None
        message, retried = found
        if not await self._store.record(event_view(message, "ACTIVE", time_ms=now_ms())):
            return None
        url = rewrite(message.url, self._rewrites)
        attempt = await attempt_delivery(
            self._client, message, url=url, retried=retried, keys=self.keys
        )
        settlement = settlement_of(
            message, attempt, retried=retried, time_ms=now_ms(), time_scale=self._time_scale
        )
        await self._store.settle(settlement)
        _log_outcome(settlement, attempt)
        for callback in settlement.callbacks:
            self._schedule(callback.message_id, callback.not_before_ms)
        return settlement.due_ms


def _dead_letter(message: Message, attempt: Attempt, time_ms: int) -> DeadLetter:
    # The hosted service's ids are <ms>-<seq>; random digits need no counter that survives.
    dead_letter_id = f"{time_ms}-{secrets.randbelow(10**9)}"
    return DeadLetter(dead_letter_id=dead_letter_id, message=message, attempt=attempt)


def _log_outcome(settlement: Settlement, attempt: Attempt) -> None:
    message = settlement.message
    if attempt.is_delivered:
        logger.debug("message %s delivered to %s", message.message_id, printable(message.url))
        return
    outcome = "given up" if settlement.due_ms is None else f"retry {settlement.retried}"
    logger.warning(
        "message %s to %s failed, %s: %s",
        message.message_id,
        printable(message.url),
        outcome,
        attempt.error,
    )
