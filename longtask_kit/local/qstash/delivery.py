"""The delivery engine: starts what is due, settles what comes back, wakes only when needed.

The truth is in the store; the engine's own heap only says when to look there. An entry too
many does no harm, as a message that isn't pending is dropped when its turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from longtask_kit.local.qstash.admission import ticket_of
from longtask_kit.local.qstash.controls import Controls, now_ms
from longtask_kit.local.qstash.destination import rewrite
from longtask_kit.local.qstash.outcome import log_outcome, settlement_of
from longtask_kit.local.qstash.request import attempt_delivery
from longtask_kit.local.qstash.store import QUOTA_SPENT, Publication, QueueStore, Settlement
from longtask_kit.local.qstash.views import event_view

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from longtask_kit.local.qstash.connections import Connections
    from longtask_kit.local.qstash.message import Message
    from longtask_kit.local.qstash.plan import Plan
    from longtask_kit.local.qstash.request import SigningKeys

STORE_RETRY_MS = 1000
OWN_FAILURE_RETRY_MS = 60_000
# What is sent at once needn't be read back from the store; bounded, as a backlog may be long.
FRESH_KEPT = 1000
FRESH_BODY_BYTES = 16_384

logger = logging.getLogger(__name__)


class DeliveryQueue:
    """Accepts messages and delivers them until each is delivered, dead or cancelled.

    Attributes:
        keys: The signing keys at present.
        controls: The queues and flow control keys, which decide who may start.
        max_in_flight: Most deliveries at one time.
        plan: What the caller may do.
    """

    def __init__(
        self,
        store: QueueStore,
        connections: Connections,
        *,
        keys: SigningKeys,
        time_scale: float,
        rewrites: Mapping[str, str],
        outbound: Mapping[str, str],
        dedup_window_ms: int,
        max_in_flight: int,
        plan: Plan,
    ) -> None:
        self.keys = keys
        self.plan = plan
        self._given_keys = keys
        self._store = store
        self._connections = connections
        self._time_scale = time_scale
        self._rewrites = dict(rewrites)
        self._outbound = dict(outbound)
        self._dedup_window_ms = dedup_window_ms
        self.max_in_flight = max_in_flight
        self._due: list[tuple[int, int, str]] = []
        self._order = itertools.count()
        self._fresh: dict[str, Message] = {}
        self._begun: dict[str, Message] = {}
        self._reserved = 0
        self._in_flight: dict[str, asyncio.Task[int | None]] = {}
        self._wake = asyncio.Event()
        self.controls = Controls(store.catalog, self._wake.set)
        self._admission = self.controls.admission
        self._flow_wake_ms: int | None = None
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up every unfinished message; one that was in flight at a crash is due at once."""
        self.keys = await self._store.load_keys(self._given_keys)
        await self.controls.load()
        async for found in self._store.unfinished():
            self._admission.expect(found.ticket, has_slot=found.was_tried)
            self._schedule(found.ticket.message_id, found.due_ms)
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

    @property
    def count_in_flight(self) -> int:
        """How many deliveries are under way."""
        return len(self._in_flight)

    async def publish(
        self, messages: Sequence[Message], *, dead_letter_id: str | None = None
    ) -> list[str]:
        """Store messages in one step; return for each the id that stands for it.

        That is another one's id for a duplicate. Nothing if `dead_letter_id` was given and that
        dead letter is gone.

        Raises:
            PlanLimitError: The plan allows no such message, or no more of them.
        """
        time_ms = now_ms()
        self.plan.check_messages(messages, time_ms=time_ms)
        if new_queues := self.controls.new_queues(messages):
            count = len(self.controls.queues) + len(new_queues)
            self.plan.check_size("too many queues", count, self.plan.queues)

        def store(publication: Publication) -> Awaitable[list[str]]:
            return self._store.publish(
                publication,
                dedup_window_ms=self._dedup_window_ms,
                dead_letter_id=dead_letter_id,
                most_a_day=self.plan.messages_per_day,
            )

        ids = await self.store_and_accept(messages, store)
        if ids == [QUOTA_SPENT]:
            raise self.plan.explain_spent_day(time_ms=time_ms)
        await self.controls.forget_idle_flows()
        return ids

    async def store_and_accept(
        self,
        messages: Sequence[Message],
        store: Callable[[Publication], Awaitable[Sequence[str]]],
    ) -> list[str]:
        """Store messages, with the queues and keys they set up, and take them up.

        Args:
            messages: What is to be stored in one step.
            store: Stores a publication, and returns the ids that now stand for its messages.
        """
        async with self.controls.setting_up(messages):
            with self._starting(messages) as started:
                ids = await self._store_and_accept(messages, started, store)
        if started:
            await asyncio.sleep(0)  # their requests are written before the publisher is answered
        return ids

    async def _store_and_accept(
        self,
        messages: Sequence[Message],
        started: set[str],
        store: Callable[[Publication], Awaitable[Sequence[str]]],
    ) -> list[str]:
        publication = Publication(
            messages=messages,
            queues=self.controls.new_queues(messages),
            flows=self.controls.new_flows(messages),
            started=started,
        )
        standing = {message.message_id for message in messages}
        try:
            ids = list(await store(publication))
            # A duplicate takes no place in a queue, and nothing of a rate.
            standing.intersection_update(ids)
        except BaseException:
            # They may be stored and only the reply lost: each is taken up as if it had waited,
            # and dropped when its turn comes and it is not pending.
            started.clear()
            raise
        finally:
            if standing:
                self.controls.take_in(publication.queues, publication.flows)
            for message in messages:
                if message.message_id in standing:
                    self._accept(message, is_started=message.message_id in started)
        return ids

    @contextlib.contextmanager
    def _starting(self, messages: Sequence[Message]) -> Iterator[set[str]]:
        """Keep room for the messages that begin as soon as they are stored; yield their ids."""
        room = self.max_in_flight - len(self._in_flight) - self._reserved
        if self._admission.ready:
            room = 0
        time_ms = now_ms()
        free = [
            message.message_id
            for message in messages
            if message.not_before_ms <= time_ms and ticket_of(message).is_free
        ]
        started = set(free[: max(0, room)])
        reserved = len(started)
        self._reserved += reserved
        try:
            yield started
        finally:
            self._reserved -= reserved

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
        elif cancelled:
            self._fresh.pop(message.message_id, None)
            self._admission.leave(message.message_id, time_ms)
            self._wake.set()
        return cancelled

    async def deliver_now(self, message: Message) -> bool:
        """Deliver a message that waits for its time at once; False if it does not wait.

        It costs no attempt: the one it waited for is made now.
        """
        message_id = message.message_id
        waiting = [entry for entry in self._due if entry[2] == message_id]
        if not waiting or message_id in self._in_flight:
            return False
        # Its old turn goes, or it would come in the midst of the wait for the next one.
        self._due = [entry for entry in self._due if entry[2] != message_id]
        heapq.heapify(self._due)
        due_ms = min(waiting)[0]
        try:
            # Stored first: if the stack dies while it is delivered, it is due at the next start.
            is_pending = await self._store.set_due(message_id, now_ms())
            due_ms = now_ms()
        finally:
            self._schedule(message_id, due_ms)
        return is_pending

    async def rotate_keys(self) -> SigningKeys:
        """Make the next signing key the current one, and return both."""
        keys = self.keys.rotated()
        # Stored before used: a restart must not go back to a key that receivers dropped.
        await self._store.save_keys(keys, given=self._given_keys)
        self.keys = keys
        return keys

    def _accept(self, message: Message, *, is_started: bool = False) -> None:
        self._admission.expect(ticket_of(message))
        if is_started:
            self._begun[message.message_id] = message
            self._start(message.message_id)
            return
        is_due = message.not_before_ms <= now_ms()
        is_small = len(message.body) <= FRESH_BODY_BYTES and len(self._fresh) < FRESH_KEPT
        if is_due and is_small:
            self._fresh[message.message_id] = message
        self._schedule(message.message_id, message.not_before_ms)

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
        while self._due and self._due[0][0] <= time_ms:
            _, _, message_id = heapq.heappop(self._due)
            if message_id not in self._in_flight:
                self._admission.enter(message_id, time_ms)
        self._flow_wake_ms = self._admission.open_waiting_flows(time_ms)
        while self._admission.ready and self._has_room():
            self._start(self._admission.ready.popleft())

    def _start(self, message_id: str) -> None:
        if message_id in self._in_flight:
            return
        task = asyncio.create_task(self._deliver(message_id), name=f"qstash-{message_id}")
        self._in_flight[message_id] = task
        task.add_done_callback(functools.partial(self._finish, message_id))

    def _has_room(self) -> bool:
        return len(self._in_flight) + self._reserved < self.max_in_flight

    def _idle_s(self) -> float | None:
        """Seconds until the next due time; None sleeps until woken. At most a day at once."""
        moments = [self._due[0][0]] if self._due else []
        if self._flow_wake_ms is not None:
            moments.append(self._flow_wake_ms)
        if not moments:
            return None
        return min(max(0.0, (min(moments) - now_ms()) / 1000), 86_400.0)

    def _finish(self, message_id: str, task: asyncio.Task[int | None]) -> None:
        # Out of flight before it is scheduled again: an immediate retry would be skipped.
        self._in_flight.pop(message_id, None)
        due_ms = None if task.cancelled() else task.result()
        if due_ms is None:
            self._admission.leave(message_id, now_ms())
        else:
            self._admission.finish_attempt(message_id, now_ms())
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
        begun = self._begun.pop(message_id, None)
        found = (begun, 0) if begun else await self._begin(message_id)
        if found is None:
            return None
        message, retried = found
        # A moved receiver verifies its new address. One that `outbound` stands in for a public
        # host believes to be that host, and verifies the public one.
        signed_url = rewrite(message.url, self._rewrites)
        attempt = await attempt_delivery(
            self._connections,
            message,
            url=rewrite(signed_url, self._outbound),
            signed_url=signed_url,
            retried=retried,
            keys=self.keys,
        )
        settlement = settlement_of(
            message, attempt, retried=retried, time_ms=now_ms(), time_scale=self._time_scale
        )
        await self._store.settle(settlement)
        log_outcome(settlement, attempt)
        for callback in settlement.callbacks:
            self._accept(callback)
        return settlement.due_ms

    async def _begin(self, message_id: str) -> tuple[Message, int] | None:
        """Record the start of an attempt; return its message and count, None if it is finished."""
        fresh = self._fresh.pop(message_id, None)
        # Whether a fresh one is still pending, the record of its start tells.
        found = (fresh, 0) if fresh else await self._store.load_pending(message_id)
        if found is None:
            return None
        key = found[0].flow_key
        gate = self._admission.flows.get(key) if key is not None else None
        active = event_view(found[0], "ACTIVE", time_ms=now_ms())
        return found if await self._store.record(active, key=key, gate=gate) else None
