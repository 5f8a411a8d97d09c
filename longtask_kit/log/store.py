"""A task's record and log in Redis.

Every change of a task is one Lua script (`lua/`), so it is atomic and costs one round trip.
All scripts can be sent again after a lost reply without doing anything twice, except `begin`,
whose loss costs one lease.
"""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from longtask_kit.errors import StoreError
from longtask_kit.log.events import (
    TERMINAL_STATUSES,
    Cursor,
    EventType,
    Status,
    TaskEvent,
    encode_entry,
    expand_entry,
    to_ms,
)
from longtask_kit.log.keys import (
    OPEN_INDEX,
    TASK_INDEX,
    channel_name,
    log_key,
    script_keys,
    task_key,
)
from longtask_kit.log.record import (
    LISTED_FIELDS,
    Append,
    Begun,
    Busy,
    CancelPending,
    Done,
    Gone,
    Settled,
    TaskRecord,
    make_brief,
    read_listed,
    read_record,
)
from longtask_kit.log.redis import RedisClient
from longtask_kit.log.text import make_valid_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.settings import Settings

_SWEPT_AT_ONCE = 100
_PAGE = 1000  # log entries read in one command; the hosted service caps an answer's size


class Store:
    """Redis, seen as tasks. Open it with `Store.open(settings)`, close it with `aclose()`."""

    def __init__(self, redis: RedisClient, *, ttl_s: int, lease_s: float) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._lease_ms = round(lease_s * 1000)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Make a store from settings; nothing is sent yet."""
        return cls(RedisClient(settings), ttl_s=settings.ttl_s, lease_s=settings.lease_s)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def create(self, task_id: str, wire: dict[str, Any]) -> None:
        """Record a task as pending, and list it; recording it twice is recording it once.

        Raises:
            StoreError: Redis did not answer; the task may or may not be recorded.
        """
        now_ms = to_ms(datetime.now(UTC))
        listing = [
            ["ZADD", TASK_INDEX, now_ms, task_id],
            ["ZREMRANGEBYSCORE", TASK_INDEX, "-inf", now_ms - self._ttl_s * 1000],
            ["EXPIRE", TASK_INDEX, self._ttl_s],
            ["ZADD", OPEN_INDEX, now_ms, task_id],
            ["EXPIRE", OPEN_INDEX, self._ttl_s],
        ]
        args = [_dump(wire), _dump(make_brief(wire))]
        await self._run_scripts("create", [(task_id, args)], also=listing)

    async def set_message_id(self, task_id: str, message_id: str) -> None:
        """Note the queue's id of the task's message, so that it can be cancelled there."""
        key = task_key(task_id)
        # With the time to live, should the record be gone by now.
        await self._redis.run(
            [["HSET", key, "message_id", message_id], ["EXPIRE", key, self._ttl_s]]
        )

    async def retry(self, task_id: str) -> Cursor | Done | Gone:
        """Have a failed task wait for another delivery.

        Returns:
            Where the log says so; `Done` with its status when it has not failed.
        """
        match await self._run_script("retry", task_id, []):
            case ["waiting", cursor]:
                return Cursor.parse(cursor)
            case ["refused", status]:
                return Done(status)
            case ["gone"]:
                return Gone()
            case reply:
                raise _odd_reply("retry", reply)

    async def begin(
        self, task_id: str, *, delivery_id: str
    ) -> Begun | Busy | Done | CancelPending | Gone:
        """Lease the next attempt to a delivery."""
        match await self._run_script("begin", task_id, [self._lease_ms, delivery_id]):
            case ["begun", attempt, wire]:
                return Begun(int(attempt), json.loads(wire))
            case ["busy", left_ms]:
                return Busy(int(left_ms) / 1000)
            case ["done", status]:
                return Done(status)
            case ["cancel"]:
                return CancelPending()
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
        return [str(reply[0]) for reply in await self._run_scripts("append", calls, is_urgent=True)]

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
    ) -> Settled | Done | Busy | Gone:
        """End a task that no attempt is running, as `cancelled` or `failed`.

        Args:
            task_id: The task.
            status: How it ends.
            reason: Data of its last event.
            code: Short reason of a failure.
            delivery_id: Only if the last attempt was this message's, or none has begun.
            ask_to_stop: When an attempt is running, ask it to stop (the answer is `Busy`).
            silent_s: Only if nothing has happened to it for so many seconds (else `Busy`).
        """
        reason = make_valid_text(reason)
        type_: EventType = "cancelled" if status == "cancelled" else "error"
        entry = encode_entry(type_, reason, code=code or None)
        fields = [] if status == "cancelled" else ["error", reason, "code", code]
        ending = [status, _dump(entry), _dump(["status", status, *fields])]
        args = [*ending, int(ask_to_stop), delivery_id, round(silent_s * 1000)]
        match await self._run_script("settle", task_id, args):
            case ["settled", message_id]:
                with contextlib.suppress(StoreError):  # a larger log is no reason to fail
                    await self.compact(task_id)
                return Settled(message_id)
            case ["done", ended]:
                return Done(ended)
            case ["busy", left_ms]:
                return Busy(int(left_ms) / 1000)
            case ["gone"]:
                return Gone()
            case reply:
                raise _odd_reply("settle", reply)

    async def compact(self, task_id: str) -> None:
        """Store an ended task's text in fewer entries; `read_log` gives the same events."""
        while await self._run_script("compact", task_id, []) == [1]:
            pass

    async def give_up_silent(self, record: TaskRecord, *, deadline_s: float) -> bool:
        """End a task as failed that nothing has happened to for longer than the queue ever waits.

        Its message is lost, or will never be delivered; should it come after all, the task runs.

        Returns:
            Whether it was ended by this call.
        """
        if record.is_over:
            return False
        if (datetime.now(UTC) - record.updated).total_seconds() < deadline_s:
            return False  # Redis' own clock has the last word, but need not be asked each time
        reason = (
            f"Nothing has happened to it for more than {deadline_s:g} s (LONGTASK_DEADLINE_S): the "
            "queue lost its message, or can't reach the webhook."
        )
        outcome = await self.settle(
            record.task_id, "failed", reason=reason, code="lost", silent_s=deadline_s
        )
        return isinstance(outcome, Settled)

    async def sweep(self, *, deadline_s: float) -> int:
        """Look at tasks that began longer than a deadline ago, and end those that are lost.

        Returns:
            How many tasks are still open, younger ones included.
        """
        due_ms = to_ms(datetime.now(UTC)) - round(deadline_s * 1000)
        [ids] = await self._redis.run(
            [["ZRANGE", OPEN_INDEX, "-inf", due_ms, "BYSCORE", "LIMIT", 0, _SWEPT_AT_ONCE]]
        )
        for task_id in ids:
            record = await self.read_task(task_id)
            is_open = record is not None and not record.is_over
            if record is not None and is_open:
                is_open = not await self.give_up_silent(record, deadline_s=deadline_s)
            looked_at = ["ZADD", OPEN_INDEX, to_ms(datetime.now(UTC)), task_id]
            await self._redis.run([looked_at if is_open else ["ZREM", OPEN_INDEX, task_id]])
        [left] = await self._redis.run([["ZCARD", OPEN_INDEX]])
        return int(left)

    async def delete(self, task_id: str) -> Settled | Gone:
        """Remove a task's record and log; an attempt under way stops at its next flush."""
        (status, message_id), deleted, *_ = await self._redis.run(
            [
                ["HMGET", task_key(task_id), "status", "message_id"],
                ["DEL", task_key(task_id), log_key(task_id)],
                ["ZREM", TASK_INDEX, task_id],
                ["ZREM", OPEN_INDEX, task_id],
            ]
        )
        if not deleted:
            return Gone()
        return Settled(None if status in TERMINAL_STATUSES else message_id)

    async def read_task(self, task_id: str) -> TaskRecord | None:
        """Return a task's record, or None when it is unknown or expired."""
        [reply] = await self._redis.run([["HGETALL", task_key(task_id)]])
        return read_record(task_id, reply)

    async def list_tasks(self, *, limit: int, status: Status | None = None) -> list[TaskRecord]:
        """Return tasks, newest first, at most `limit`, only those with `status` if given.

        Their specs are brief: a hundred prompts may be longer than an answer of Redis.
        """
        found: list[TaskRecord] = []
        for start in range(0, 10_000, 100):
            [ids] = await self._redis.run([["ZREVRANGE", TASK_INDEX, start, start + 99]])
            if ids:
                replies = await self._redis.run(
                    [["HMGET", task_key(i), *LISTED_FIELDS] for i in ids]
                )
                records = map(read_listed, ids, replies)
                found += [r for r in records if r and status in (None, r.status)]
            if len(ids) < 100 or len(found) >= limit:
                break
        return found[:limit]

    async def read_log(self, task_id: str, *, after: Cursor) -> list[TaskEvent]:
        """Return a task's events after a cursor, in order.

        A terminal event that a later attempt superseded (its dead letter was retried by hand) is
        left out, so that a terminal event is always the last.
        """
        events: list[TaskEvent] = []
        while True:
            at = events[-1].cursor if events else after
            [page] = await self._redis.run(
                [["XRANGE", log_key(task_id), f"({at}", "+", "COUNT", _PAGE]]
            )
            try:
                for entry_id, fields in page:
                    events += expand_entry([entry_id, *fields], after=at)
            except ValueError as exc:
                raise StoreError(f"The log of {task_id} holds a foreign entry: {exc}") from exc
            if len(page) < _PAGE:
                return [e for e in events[:-1] if not e.is_terminal] + events[-1:]

    async def has_log(self, task_id: str) -> bool:
        """Tell whether a task's log is there; it may have expired or been evicted alone."""
        [count] = await self._redis.run([["EXISTS", log_key(task_id)]])
        return bool(count)

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
    ) -> list[list[Any]]:
        """Run one script for several tasks, and other commands after it, in one round trip."""
        tails = [
            [len(keys := script_keys(name, i)), *keys, channel_name(i), self._ttl_s, *args]
            for i, args in calls
        ]
        return await self._redis.run_script(name, tails, also=also, is_urgent=is_urgent)


_dump = json.JSONEncoder(ensure_ascii=False).encode


def _odd_reply(script: str, reply: list[Any]) -> StoreError:
    return StoreError(f"The {script} script answered {reply!r}, which this version does not know.")
