"""Everything the queue must not lose, in Valkey under `{qstash}:`; no decision is taken here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longtask_kit.local.qstash.admission import Ticket, ticket_of
from longtask_kit.local.qstash.catalog import Catalog, QueueSettings, dump, dump_period
from longtask_kit.local.qstash.message import Message, dump_message, load_message
from longtask_kit.local.qstash.plan import day_of
from longtask_kit.local.qstash.request import Attempt, SigningKeys
from longtask_kit.local.qstash.scripts import ScriptRunner
from longtask_kit.local.qstash.views import View, event_view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence

    from longtask_kit.local.qstash.flow import FlowGate, FlowSettings
    from longtask_kit.local.qstash.schedules import Schedule

PAGE = 200
FINISHED_READABLE_MS = 60_000
QUOTA_SPENT = "quota spent"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that was given up, with the answer that ended it."""

    dead_letter_id: str
    message: Message
    attempt: Attempt

    @property
    def time_ms(self) -> int:
        """When the message was given up; it begins the id."""
        return int(self.dead_letter_id.partition("-")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What one attempt's outcome changes; stored in one step."""

    message: Message
    events: Sequence[View]
    retried: int = 0
    due_ms: int | None = None
    dead_letter: DeadLetter | None = None
    callbacks: Sequence[Message] = ()

    @property
    def is_delivered(self) -> bool:
        """Whether the message reached its destination."""
        return any(view["state"] == "DELIVERED" for view in self.events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Messages that are stored in one step, and what is set up for them.

    Attributes:
        messages: In the order in which they are delivered.
        queues: Queues that are new.
        flows: Flow control keys that are new or changed.
        started: Ids of those whose first attempt begins once they are stored.
    """

    messages: Sequence[Message]
    queues: Mapping[str, QueueSettings] = field(default_factory=dict)
    flows: Mapping[str, FlowSettings] = field(default_factory=dict)
    started: Container[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRun:
    """One turn of a schedule, and when the next one is."""

    schedule: Schedule
    due_ms: int
    next_ms: int
    time_ms: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A message that waits, as a start of the engine finds it."""

    ticket: Ticket
    due_ms: int
    was_tried: bool


class QueueStore:
    """The queue's records in one Valkey, or in one slot of a cluster.

    Attributes:
        catalog: The records of queues, URL groups, flow control keys and schedules.
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - see client.connect
        self._redis = client
        self._scripts = ScriptRunner(self._redis)
        self.catalog = Catalog(self._redis)

    async def close(self) -> None:
        """Close every connection."""
        await self._scripts.close()
        await self._redis.aclose()

    async def publish(
        self,
        publication: Publication,
        *,
        dedup_window_ms: int,
        dead_letter_id: str | None = None,
        most_a_day: int | None = None,
    ) -> list[str]:
        """Store messages unless they are duplicates; return for each the id that stands for it.

        With `dead_letter_id` that dead letter is taken out in the same step; none if it is gone.
        QUOTA_SPENT alone if `most_a_day` messages were stored this day, or would be exceeded.
        """
        plan: dict[str, Any] = _publication(publication) | {
            "dedup_window_ms": str(dedup_window_ms),
            "dead_letter_id": dead_letter_id,
        }
        if most_a_day is not None and publication.messages:
            day = day_of(publication.messages[0].created_at_ms)
            plan["quota"] = {
                "key": f"{{qstash}}:used:{day}",
                "most": most_a_day,
                "spent": QUOTA_SPENT,
            }
        ids: Any = await self._scripts.run("publish", _plan(plan))
        return list(ids)

    async def fire(self, run: ScheduleRun, publication: Publication) -> list[str]:
        """Store a schedule's turn and return its messages' ids; none if it was changed."""
        plan = _publication(publication) | {
            "id": run.schedule.schedule_id,
            "record": run.schedule.dump(),
            "due_ms": str(run.due_ms),
            "next_ms": str(run.next_ms),
            "time_ms": str(run.time_ms),
            "error": run.error,
        }
        was_stored = await self._scripts.run("fire", _plan(plan))
        return [message.message_id for message in publication.messages] if was_stored else []

    async def record(
        self, view: View, *, key: str | None = None, gate: FlowGate | None = None
    ) -> bool:
        """Append to the event log; False if the message is no longer pending.

        With a flow control key its present period is stored too.
        """
        plan: dict[str, Any] = {"event": _event(view)}
        if key is not None and gate is not None:
            plan["period"] = {"key": key, "record": dump_period(gate)}
        return bool(await self._scripts.run("record", _plan(plan)))

    async def settle(self, settlement: Settlement) -> bool:
        """Store an outcome; False, and nothing stored, if the message is no longer pending."""
        dead = settlement.dead_letter
        plan = {
            "id": settlement.message.message_id,
            "events": [_event(view) for view in settlement.events],
            "retried": str(settlement.retried),
            "due_ms": None if settlement.due_ms is None else str(settlement.due_ms),
            "dead_letter": None if dead is None else _stored_dead_letter(dead),
            "messages": [_stored(message) for message in settlement.callbacks],
            "readable_ms": str(FINISHED_READABLE_MS),
            "schedule_id": settlement.message.schedule_id,
            "schedule_state": "SUCCESS" if settlement.is_delivered else "FAIL",
        }
        return bool(await self._scripts.run("settle", _plan(plan)))

    async def count_pending(self) -> int:
        """Return how many messages wait or are in flight."""
        return int(await self._redis.zcard("{qstash}:pending"))

    async def pending(self) -> list[tuple[str, int]]:
        """Return id and due time in unix ms of every message that isn't finished."""
        found = await self._redis.zrange("{qstash}:pending", 0, -1, withscores=True)
        return [(message_id, int(due_ms)) for message_id, due_ms in found]

    async def unfinished(self) -> AsyncIterator[Unfinished]:
        """Yield every message that isn't finished, the first due first."""
        pending = await self.pending()
        for start in range(0, len(pending), PAGE):
            page = pending[start : start + PAGE]
            async with self._redis.pipeline(transaction=False) as pipe:
                for message_id, _ in page:
                    pipe.hmget(_message_key(message_id), ["ticket", "retried"])
                found = await pipe.execute()
            for (message_id, due_ms), (ticket, retried) in zip(page, found, strict=True):
                yield Unfinished(
                    ticket=Ticket(*json.loads(ticket)) if ticket else Ticket(message_id),
                    due_ms=due_ms,
                    was_tried=retried not in (None, "0"),
                )

    async def load(self, message_id: str) -> Message | None:
        """Return a message, finished or not; None if unknown or forgotten."""
        record = await self._redis.hget(_message_key(message_id), "record")
        return None if record is None else load_message(record)

    async def set_due(self, message_id: str, due_ms: int) -> bool:
        """Change when a message is due, in unix ms; False if it is finished."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zadd("{qstash}:pending", {message_id: due_ms}, xx=True)
            pipe.zscore("{qstash}:pending", message_id)
            _, score = await pipe.execute()
        return score is not None

    async def load_pending(self, message_id: str) -> tuple[Message, int] | None:
        """Return a message that isn't finished and how often it was retried."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zscore("{qstash}:pending", message_id)
            pipe.hmget(_message_key(message_id), ["record", "retried"])
            score, (record, retried) = await pipe.execute()
        if score is None or record is None:
            return None
        return load_message(record), int(retried)

    async def events(
        self, *, message_ids: Iterable[str], after: str | None, oldest_first: bool = False
    ) -> AsyncIterator[tuple[str, View]]:
        """Yield cursor and event, newest first, of some messages or of all.

        Args:
            message_ids: Only these; none means every message.
            after: Cursor of the last event already seen; None begins at the first.
            oldest_first: The other way round.
        """
        only = set(message_ids)
        while True:
            bound = None if after is None else f"({after}"
            if oldest_first:
                page = await self._redis.xrange("{qstash}:events", min=bound or "-", count=PAGE)
            else:
                page = await self._redis.xrevrange("{qstash}:events", max=bound or "+", count=PAGE)
            for cursor, fields in page:
                if not only or fields["id"] in only:
                    yield cursor, json.loads(fields["view"])
            if len(page) < PAGE:
                return
            after = page[-1][0]

    async def dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        """Return one dead letter, or None."""
        record = await self._redis.hget("{qstash}:dead", dead_letter_id)
        return None if record is None else _loaded_dead_letter(dead_letter_id, record)

    async def dead_letters(
        self, *, after: str | None, oldest_first: bool = False
    ) -> AsyncIterator[DeadLetter]:
        """Yield dead letters, newest first or oldest, from behind the one with the id `after`."""
        ids = await self._redis.zrange("{qstash}:dead_index", 0, -1)
        ids.sort(key=_dead_letter_order, reverse=not oldest_first)
        if after is not None:
            # By value, as the dead letter the cursor names may be gone by now.
            seen = _dead_letter_order(after)
            ids = [found for found in ids if (_dead_letter_order(found) > seen) == oldest_first]
            ids = [found for found in ids if found != after]
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            records = await self._redis.hmget("{qstash}:dead", page)
            for dead_letter_id, record in zip(page, records, strict=True):
                if record is not None:
                    yield _loaded_dead_letter(dead_letter_id, record)

    async def delete_dead_letter(self, dead_letter_id: str) -> bool:
        """Delete one dead letter; False if there is none."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hdel("{qstash}:dead", dead_letter_id)
            pipe.zrem("{qstash}:dead_index", dead_letter_id)
            deleted, _ = await pipe.execute()
        return bool(deleted)

    async def load_keys(self, given: SigningKeys) -> SigningKeys:
        """Return the keys a rotation left, if it began with the given ones; else the given."""
        stored = await self._redis.hgetall("{qstash}:keys")
        if stored.get("derived_from") != _fingerprint(given):
            return given
        return SigningKeys(current=stored["current"], next=stored["next"])

    async def save_keys(self, keys: SigningKeys, *, given: SigningKeys) -> None:
        """Keep rotated keys, for as long as the queue is started with the same given ones."""
        fields = {
            "derived_from": _fingerprint(given),
            "current": keys.current,
            "next": keys.next,
        }
        await self._redis.hset("{qstash}:keys", mapping=fields)


def _message_key(message_id: str) -> str:
    return f"{{qstash}}:message:{message_id}"


def _plan(plan: Mapping[str, Any]) -> str:
    # Lua's cjson reads null as a true value, so what is unset must be absent.
    return json.dumps({name: value for name, value in plan.items() if value is not None})


def _event(view: View) -> dict[str, str]:
    return {"id": view["messageId"], "state": view["state"], "view": json.dumps(view)}


def _stored(message: Message, *, is_started: bool = False) -> dict[str, Any]:
    created = event_view(message, "CREATED", time_ms=message.created_at_ms)
    ticket = ticket_of(message)
    stored = {
        "id": message.message_id,
        "record": json.dumps(dump_message(message)),
        "due_ms": str(message.not_before_ms),
        "created": _event(created),
    }
    if not ticket.is_free:
        stored["ticket"] = json.dumps(dataclasses.astuple(ticket))
    if message.dedup_key:
        stored["dedup_key"] = message.dedup_key
    if is_started:
        stored["active"] = _event(created | {"state": "ACTIVE"})
    return stored


def _publication(publication: Publication) -> dict[str, Any]:
    return {
        "messages": [
            _stored(message, is_started=message.message_id in publication.started)
            for message in publication.messages
        ],
        "queues": {name: dump(queue) for name, queue in publication.queues.items()},
        "flows": {key: dump(flow) for key, flow in publication.flows.items()},
    }


def _stored_dead_letter(dead: DeadLetter) -> dict[str, str]:
    # Latin-1 keeps every byte of a body as one character of the JSON text.
    attempt = dataclasses.asdict(dead.attempt) | {"body": dead.attempt.body.decode("latin-1")}
    record = {"message": dump_message(dead.message), "attempt": attempt}
    return {
        "id": dead.dead_letter_id,
        "time_ms": str(dead.time_ms),
        "record": json.dumps(record),
    }


def _loaded_dead_letter(dead_letter_id: str, record: str) -> DeadLetter:
    fields = json.loads(record)
    attempt = fields["attempt"] | {"body": fields["attempt"]["body"].encode("latin-1")}
    return DeadLetter(
        dead_letter_id=dead_letter_id,
        message=load_message(fields["message"]),
        attempt=Attempt(**attempt),
    )


def _dead_letter_order(dead_letter_id: str) -> tuple[int, str]:
    time_ms = dead_letter_id.partition("-")[0]
    return int(time_ms) if time_ms.isascii() and time_ms.isdigit() else 0, dead_letter_id


def _fingerprint(keys: SigningKeys) -> str:
    return hashlib.sha256(keys.current.encode()).hexdigest()
