"""Which tasks there are, and which may not have ended: two sorted sets beside the records.

They belong to everybody who uses this Redis: no client's own settings or clock take out what
another listed, and a task stays for as long as its record does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StoreRefusedError
from longtask_kit.log.events import to_ms
from longtask_kit.log.keys import OPEN_INDEX, TASK_INDEX, task_key
from longtask_kit.log.record import LISTED_FIELDS, TaskRecord, read_listed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from longtask_kit.log.events import Status
    from longtask_kit.log.redis import RedisClient

_READ_AT_ONCE = 100  # records
_LISTED_AT_MOST = 10_000
_TRIED_AT_ONCE = 20
_INDEX_TTL_S = 10 * 365 * 86_400  # the longest LONGTASK_TTL_S, whatever a client's own is


def make_listing(task_id: str) -> list[list[Any]]:
    """Return commands that have a task listed, and looked at by the next sweep."""
    return make_listing_of_many([task_id])


def make_listing_of_many(task_ids: Sequence[str]) -> list[list[Any]]:
    """Return the commands that have many tasks listed, as many as for one."""
    now_ms = to_ms(datetime.now(UTC))
    return [
        ["ZADD", TASK_INDEX, "NX", *(part for i in task_ids for part in (now_ms, i))],
        ["EXPIRE", TASK_INDEX, _INDEX_TTL_S],
        ["ZADD", OPEN_INDEX, *(part for i in task_ids for part in (0, i))],
        ["EXPIRE", OPEN_INDEX, _INDEX_TTL_S],
    ]


def make_listing_of_ended(placed: Sequence[Any]) -> list[list[Any]]:
    """Return the commands that have ended tasks listed: `[unix ms of its creation, id, …]`."""
    return [["ZADD", TASK_INDEX, "NX", *placed], ["EXPIRE", TASK_INDEX, _INDEX_TTL_S]]


def make_unlisting(task_id: str) -> list[list[Any]]:
    """Return commands after which a task is in no index."""
    return [["ZREM", TASK_INDEX, task_id], ["ZREM", OPEN_INDEX, task_id]]


class TaskIndex:
    """Finds tasks, and the records of those it found, in a store's Redis."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._is_cluster = False

    async def read_records(self, task_ids: Collection[str]) -> list[TaskRecord]:
        """Return the records of those that are there, in this order, their specs brief."""
        if not task_ids:
            return []
        replies = await self._read_fields([task_key(task_id) for task_id in task_ids])
        return [record for record in map(read_listed, task_ids, replies) if record]

    async def _read_fields(self, keys: Sequence[str]) -> list[list[str | None]]:
        """Read them by one command, however many they are; a cluster takes one for each."""
        if not self._is_cluster:
            try:
                call = [len(keys), *keys, *LISTED_FIELDS]
                [found] = await self._redis.run_script("records", [call])
                return list(found)
            except StoreRefusedError as exc:
                if "CROSSSLOT" not in str(exc):
                    raise
                self._is_cluster = True
        return await self._redis.run([["HMGET", key, *LISTED_FIELDS] for key in keys])

    async def list_tasks(self, *, limit: int, status: Status | None) -> list[TaskRecord]:
        """See `Store.list_tasks`."""
        found: list[TaskRecord] = []
        seen: dict[str, float] = {}  # ids, with their places in the index
        at: float | str = "+inf"
        at_once = _READ_AT_ONCE if status else max(limit, _READ_AT_ONCE)
        while len(found) < limit and len(seen) < _LISTED_AT_MOST:
            # On from the last place, not from the last rank: tasks come and go meanwhile.
            count = at_once + list(seen.values()).count(at)  # type: ignore[arg-type]
            page = ["ZRANGE", TASK_INDEX, at, "-inf", "BYSCORE", "REV", "LIMIT", 0, count]
            [placed] = await self._redis.run([[*page, "WITHSCORES"]])
            places = dict(placed)
            records = await self.read_records([i for i in places if i not in seen])
            found += [record for record in records if status in (None, record.status)]
            if len(places) < count:
                break
            seen |= places
            at = placed[-1][1]
        return found[:limit]

    async def read_clock_ms(self) -> int:
        """Return Redis' own time: whoever sweeps may have another."""
        [(now_s, now_us)] = await self._redis.run([["TIME"]])
        return int(now_s) * 1000 + int(now_us) // 1000

    async def find_due(self, now_ms: int, *, wait_s: float) -> AsyncIterator[Sequence[str]]:
        """Yield open tasks that no sweep has looked at for so long, until none is left.

        Each must be noted as looked at, or as ended, before the next are asked for.
        """
        for bounds in (
            ("-inf", f"({now_ms - round(wait_s * 1000)}"),
            (f"({now_ms}", "+inf"),  # looked at before the clock went back
        ):
            due = ["ZRANGE", OPEN_INDEX, *bounds, "BYSCORE", "LIMIT", 0, _READ_AT_ONCE]
            while task_ids := (await self._redis.run([due]))[0]:
                yield task_ids

    async def note_looked_at(self, task_ids: Sequence[str], now_ms: int) -> None:
        """Have tasks that are open wait for the next sweep."""
        if task_ids:
            places = [part for task_id in task_ids for part in (now_ms, task_id)]
            await self._redis.run([["ZADD", OPEN_INDEX, *places]])

    async def note_ended(self, task_ids: Sequence[str]) -> None:
        """Have no sweep look at these any more, unless they wait again."""
        if task_ids:
            await self._redis.run([["ZREM", OPEN_INDEX, *task_ids]])
        # Looked at once more, now that they are out: a retry may have come just before.
        for record in await self.read_records(task_ids):
            if not record.is_over:
                await self._redis.run(make_listing(record.task_id))

    async def forget_expired(self) -> None:
        """Remove ids whose records have expired, each in its own time, from the list of tasks.

        As Redis does with keys: a few at random, and again while many of them are gone.
        """
        is_stale = True
        while is_stale:
            [task_ids] = await self._redis.run([["ZRANDMEMBER", TASK_INDEX, _TRIED_AT_ONCE]])
            if not task_ids:
                return
            found = await self._redis.run([["EXISTS", task_key(task_id)] for task_id in task_ids])
            gone = [task_id for task_id, count in zip(task_ids, found, strict=True) if not count]
            if gone:
                await self._redis.run([["ZREM", TASK_INDEX, *gone]])
            is_stale = len(gone) > _TRIED_AT_ONCE / 4

    async def count_open(self) -> int:
        """Return how many tasks may not have ended."""
        [count] = await self._redis.run([["ZCARD", OPEN_INDEX]])
        return int(count)
