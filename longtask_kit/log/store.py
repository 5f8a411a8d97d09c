"""A task's record and log in Redis.

Every change of a task is one Lua script (`lua/`), so it is atomic and costs one round trip.
All scripts can be sent again after a lost reply without doing anything twice, except `begin`,
whose loss costs one lease.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Literal, Self

from longtask_kit.errors import StoreError
from longtask_kit.log.changes import Change, ChangeLog
from longtask_kit.log.events import (
    LAST,
    TERMINAL_STATUSES,
    Cursor,
    EventType,
    Status,
    TaskEvent,
    encode_entry,
    expand_entry,
)
from longtask_kit.log.index import TaskIndex, make_listing, make_unlisting
from longtask_kit.log.keys import (
    channel_name,
    input_key,
    log_key,
    reuse_key,
    script_keys,
    task_key,
)
from longtask_kit.log.limits import leave_lines
from longtask_kit.log.notes import MessageNotes
from longtask_kit.log.record import (
    Append,
    Asked,
    Begun,
    Busy,
    CancelPending,
    Created,
    Done,
    Gone,
    Late,
    Settled,
    TaskRecord,
    cut_input,
    find_timeout_ms,
    make_brief,
    read_record,
)
from longtask_kit.log.redis import RedisClient
from longtask_kit.log.text import make_valid_text
from longtask_kit.stages import tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.settings import Settings

# Takes a content its task away, unless it has another by now.
_UNCLAIM = """
local claim = redis.call('GET', KEYS[1])
if claim and string.find(claim, ARGV[1] .. ' ', 1, true) == 1 then redis.call('DEL', KEYS[1]) end
return 1
"""
_PAGE = 1000  # log entries read in one command; the hosted service caps an answer's size


class Store:
    """Redis, seen as tasks. Open it with `Store.open(settings)`, close it with `aclose()`."""

    def __init__(self, redis: RedisClient, *, ttl_s: int, lease_s: float) -> None:
        self._redis = redis
        self.index = TaskIndex(redis)
        self.changes = ChangeLog(redis)
        self.notes = MessageNotes(self.set_message_ids)
        self._ttl_s = ttl_s
        self._lease_ms = round(lease_s * 1000)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Make a store from settings; nothing is sent yet."""
        return cls(RedisClient(settings), ttl_s=settings.ttl_s, lease_s=settings.lease_s)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.notes.aclose()
        await self.changes.aclose()
        await self._redis.aclose()

    async def create(self, task_id: str, wire: dict[str, Any]) -> Created:
        """Record a task as pending, and list it; recording it twice is recording it once.

        Raises:
            StoreError: Redis did not answer; the task may or may not be recorded.
        """
        first, parts = await self._write_input(task_id, wire, ttl_s=self._ttl_s)
        args = [first, parts, _dump(make_brief(wire)), "", find_timeout_ms(wire)]
        listing = make_listing(task_id)
        created, *_ = await self._run_scripts("create", [(task_id, args)], also=listing)
        outcome, former_attempts = created
        if outcome == "created":
            self.changes.tell(Change(task_id=task_id, status="pending"))
        return Created(is_new=outcome == "created", former_attempts=int(former_attempts))

    async def _write_input(
        self, task_id: str, wire: dict[str, Any], *, ttl_s: int
    ) -> tuple[str, int]:
        """Write all parts of an input but the first; return that one, and how many there are."""
        first, *others = cut_input(wire)
        key = input_key(task_id)
        for number, part in enumerate(others, start=1):  # a request each: what parts are for
            await self._redis.run([["HSET", key, number, part], ["EXPIRE", key, ttl_s]])
        return first, 1 + len(others)

    async def read_input(self, task_id: str) -> dict[str, Any] | None:
        """Return all of what a task asks, or None when it is unknown or expired."""
        [(whole, parts)] = await self._redis.run([["HMGET", task_key(task_id), "spec", "parts"]])
        if whole is not None:  # by a version before
            return dict(json.loads(whole))
        return None if parts is None else await self._join_input(task_id, "", int(parts))

    async def _join_input(self, task_id: str, first: str, parts: int) -> dict[str, Any] | None:
        texts = [first] if first else []
        for number in range(len(texts), parts):
            [part] = await self._redis.run([["HGET", input_key(task_id), number]])
            if part is None:
                return None
            texts.append(part)
        return dict(json.loads("".join(texts)))

    async def set_message_id(self, task_id: str, message_id: str, *, handed: str = "") -> None:
        """Note the queue's id of the task's message, so that it can be cancelled there.

        Args:
            task_id: The task.
            message_id: The id; empty when it has no message any more.
            handed: The message that this one goes on for, should it be delivered once more.
        """
        await self._run_script("queued", task_id, [message_id, handed])

    async def set_message_ids(self, message_ids: Mapping[str, str]) -> None:
        """Note those of several tasks, in one round trip."""
        calls: list[tuple[str, list[Any]]] = [(i, [m, ""]) for i, m in message_ids.items()]
        await self._run_scripts("queued", calls)

    async def retry(self, task_id: str, *, retry_id: str = "") -> Cursor | Done | Gone:
        """Have a failed task wait for another delivery; the same one if asked again by that id.

        Returns:
            Where the log says so; `Done` with its status when it has not failed.
        """
        # Listed with it, as by `create`: from now on its message may be lost.
        listing = make_listing(task_id)
        reply, *_ = await self._run_scripts("retry", [(task_id, [retry_id])], also=listing)
        match reply:
            case ["waiting", cursor, *fresh]:
                for attempt in fresh:
                    self.changes.tell(Change(task_id=task_id, status="pending", attempt=attempt))
                return Cursor.parse(cursor)
            case ["refused", status]:
                return Done(status)
            case ["gone"]:
                return Gone()
            case _:
                raise _odd_reply("retry", reply)

    async def begin(
        self, task_id: str, *, delivery_id: str, waited_s: float | None = None
    ) -> Begun | Busy | Done | CancelPending | Late | Gone:
        """Lease the next attempt to a delivery, which arrived `waited_s` seconds ago."""
        waited_ms = "" if waited_s is None else round(waited_s * 1000)
        match await self._run_script("begin", task_id, [self._lease_ms, delivery_id, waited_ms]):
            case ["begun", attempt, first, parts, again, left_ms, first_seq, brief, *going_on]:
                keeps, place, since = going_on
                if again:  # a dead letter sent again by hand, which no sweep would look for
                    await self._redis.run(make_listing(task_id))
                self.changes.tell(Change(task_id=task_id, status="running", attempt=int(attempt)))
                # What was evicted alone is missing, as the spec will say.
                wire = await self._join_input(task_id, first, int(parts)) or {}
                return Begun(
                    int(attempt),
                    wire,
                    left_s=int(left_ms) / 1000 if left_ms else None,
                    first_seq=int(first_seq),
                    brief=json.loads(brief),
                    keeps=keeps,
                    place=json.loads(place or "{}"),
                    since=since,
                )
            case ["busy", left_ms]:
                return Busy(int(left_ms) / 1000)
            case ["done", status]:
                return Done(status)
            case ["late"]:
                return Late()
            case ["cancel", place]:
                return CancelPending(place=json.loads(place or "{}"))
            case ["gone"]:
                return Gone()
            case reply:
                raise _odd_reply("begin", reply)

    async def append(self, batch: Sequence[Append]) -> list[str]:
        """Store and announce parts of several attempts in one round trip, one answer for each.

        Returns:
            In the order of `batch`: `ok`; `cancel` (stored, and a cancel was asked for);
            `fenced` (a newer attempt took over), `gone`, or `torn` (what was stored before is
            lost): nothing was stored.

        Raises:
            StoreError: Redis did not answer; sending the same batch again is safe.
        """
        calls: list[tuple[str, list[Any]]] = []
        for part in batch:
            lease_ms = 0 if part.release else self._lease_ms
            args = [part.attempt, lease_ms, _dump(part.entries), _dump(part.fields)]
            calls.append((part.task_id, args))
        replies = await self._run_scripts("append", calls, is_urgent=True)
        for part, reply in zip(batch, replies, strict=True):
            if "status" in part.fields[::2] and reply[0] in ("ok", "cancel"):
                self.changes.tell(Change.of_fields(part.task_id, part.attempt, part.fields))
        return [str(reply[0]) for reply in replies]

    async def settle(
        self,
        task_id: str,
        status: Status,
        *,
        reason: str,
        code: str = "",
        ask_to_stop: bool = False,
        delivery_id: str = "",
        silent_s: float = 0.0,
        only: Literal["", "late", "ask", "kept"] = "",
    ) -> Settled | Done | Busy | Asked | Gone:
        """End a task that no attempt is running, as `cancelled` or `failed`.

        Args:
            task_id: The task.
            status: How it ends.
            reason: Data of its last event.
            code: Short reason of a failure.
            delivery_id: Only if this message runs it or is to, or no attempt has begun.
            ask_to_stop: When an attempt is running, ask it to stop (the answer is `Busy`).
            silent_s: Only if nothing has happened to it for so many seconds (else `Busy`).
            only: `late`: only if its time is over; `ask`: of a silent one whose message is known,
                say first which it is; `kept`: the queue has it, so its silence counts from now on.
        """
        fields, ending = describe_end(status, reason, code)
        args = [*ending, int(ask_to_stop), delivery_id, round(silent_s * 1000), only]
        match await self._run_script("settle", task_id, args):
            case ["settled", attempt, message_id, line]:
                self.changes.tell(Change.of_fields(task_id, int(attempt), fields))
                tell("end", task_id, message_id=message_id, status=status, code=code)
                with contextlib.suppress(StoreError):  # a larger log is no reason to fail
                    await self.compact(task_id)
                await self._leave_lines({task_id: line})
                return Settled(message_id)
            case ["done", ended]:
                return Done(ended)
            case ["busy", left_ms]:
                return Busy(int(left_ms) / 1000)
            case ["ask", message_id]:
                return Asked(message_id)
            case ["gone"]:
                return Gone()
            case reply:
                raise _odd_reply("settle", reply)

    async def compact(self, task_id: str) -> None:
        """Store an ended task's text in fewer entries; `read_log` gives the same events."""
        while await self._run_script("compact", task_id, []) == [1]:
            pass

    async def delete(self, task_id: str) -> Settled | Gone:
        """Remove a task's record and log; an attempt under way stops at its next flush."""
        also = [*make_unlisting(task_id), self.changes.make_forgetting(task_id)]
        reply, *_ = await self._run_scripts("delete", [(task_id, [])], also=also)
        match reply:
            case ["deleted", status, message_id, content, line]:
                if content:  # whoever asks the same again gets another task
                    await self._redis.run([["EVAL", _UNCLAIM, 1, reuse_key(content), task_id]])
                await self._leave_lines({task_id: line})
                return Settled(None if status in TERMINAL_STATUSES else message_id)
            case ["gone"]:
                return Gone()
            case reply:
                raise _odd_reply("delete", reply)

    async def _leave_lines(self, lines: Mapping[str, str | None]) -> None:
        with contextlib.suppress(StoreError):  # it stands: the place is given up in time
            await leave_lines(self._redis, {i: line for i, line in lines.items() if line})

    async def read_task(self, task_id: str) -> TaskRecord | None:
        """Return a task's record, or None when it is unknown or expired."""
        [reply] = await self._redis.run([["HGETALL", task_key(task_id)]])
        return read_record(task_id, reply)

    async def list_tasks(self, *, limit: int, status: Status | None = None) -> list[TaskRecord]:
        """Return tasks, newest first, at most `limit`, only those with `status` if given.

        Their specs are brief: a hundred prompts may be longer than an answer of Redis.
        """
        return await self.index.list_tasks(limit=limit, status=status)

    async def read_log(self, task_id: str, *, after: Cursor) -> list[TaskEvent]:
        """Return a task's events after a cursor, in order.

        A terminal event that a later attempt superseded (its dead letter was retried by hand) is
        left out, so that a terminal event is always the last.
        """
        events: list[TaskEvent] = []
        if after == LAST:
            return events
        while True:
            at = events[-1].cursor if events else after
            [page] = await self._redis.run(
                [["XRANGE", log_key(task_id), f"({at}", "+", "COUNT", _PAGE]]
            )
            events += expand_page(task_id, page, after=at)
            if len(page) < _PAGE:
                return [e for e in events[:-1] if not e.is_terminal] + events[-1:]

    async def read_last_cursor(self, task_id: str) -> Cursor | None:
        """Return where a task's log ends; None if it is gone: expired, or evicted alone."""
        [page] = await self._redis.run([["XREVRANGE", log_key(task_id), "+", "-", "COUNT", 1]])
        return Cursor.parse(page[0][0]) if page else None

    async def ping(self) -> None:
        """Check that Redis answers.

        Raises:
            StoreError: It does not, with the cause.
        """
        await self._redis.run([["PING"]])

    async def _run_script(self, name: str, task_id: str, args: list[Any]) -> list[Any]:
        [reply] = await self._run_scripts(name, [(task_id, args)])
        return reply

    async def _run_scripts(
        self,
        name: str,
        calls: Sequence[tuple[str, list[Any]]],
        *,
        also: Sequence[list[Any]] = (),
        is_urgent: bool = False,
        ttl_s: int | None = None,
    ) -> list[list[Any]]:
        """Run one script for several tasks, and other commands after it, in one round trip."""
        ttl_s = ttl_s or self._ttl_s
        tails = [
            [len(keys := script_keys(name, i)), *keys, channel_name(i), ttl_s, *args]
            for i, args in calls
        ]
        return await self._redis.run_script(name, tails, also=also, is_urgent=is_urgent)


_dump = json.JSONEncoder(ensure_ascii=False).encode


def describe_end(status: Status, reason: str, code: str = "") -> tuple[list[str], list[str]]:
    """Return the record's fields of a task that ends, and the first arguments of `settle`."""
    reason = make_valid_text(reason)
    type_: EventType = "cancelled" if status == "cancelled" else "error"
    entry = encode_entry(type_, reason, code=code or None)
    fields = [] if status == "cancelled" else ["error", reason, "code", code]
    fields = ["status", status, *fields]
    return fields, [status, _dump(entry), _dump(fields)]


def expand_page(task_id: str, page: Sequence[Any], *, after: Cursor) -> list[TaskEvent]:
    """Return the events of a page of a task's log, `(id, fields)` each.

    Raises:
        StoreError: It holds an entry that is not of ours.
    """
    try:
        return [e for i, fields in page for e in expand_entry([i, *fields], after=after)]
    except ValueError as exc:
        raise StoreError(f"The log of {task_id} holds a foreign entry: {exc}") from exc


def _odd_reply(script: str, reply: list[Any]) -> StoreError:
    return StoreError(f"The {script} script answered {reply!r}, which this version does not know.")
