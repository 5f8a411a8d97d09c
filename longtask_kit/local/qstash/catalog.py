"""What is set up and not sent: queues, URL groups, flow control keys, schedules; in Valkey."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from longtask_kit.local.qstash.flow import FlowGate, FlowSettings
from longtask_kit.local.qstash.groups import UrlGroup
from longtask_kit.local.qstash.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """A queue as it is stored."""

    parallelism: int = 1
    is_paused: bool = False
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """What happened to a schedule so far."""

    is_paused: bool
    next_ms: int | None
    last_ms: int | None
    error: str | None
    last_states: dict[str, str]


class Catalog:
    """The records of everything that has a name, in one Valkey."""

    def __init__(self, redis: Any) -> None:  # noqa: ANN401 - see QueueStore
        self._redis = redis
        # A group is read, changed and written: two changes at once would lose one.
        self.group_lock = asyncio.Lock()

    async def queues(self) -> dict[str, QueueSettings]:
        """Return every queue by its name."""
        found = await self._redis.hgetall("{qstash}:queues")
        return {name: QueueSettings(**json.loads(record)) for name, record in found.items()}

    async def save_queue(self, name: str, settings: QueueSettings) -> None:
        """Store a queue."""
        await self._redis.hset("{qstash}:queues", name, dump(settings))

    async def delete_queue(self, name: str) -> None:
        """Delete a queue; its messages are the caller's to cancel."""
        await self._redis.hdel("{qstash}:queues", name)

    async def flows(self) -> dict[str, FlowGate]:
        """Return every key's gate, its present period included."""
        found = await self._redis.hgetall("{qstash}:flows")
        periods = await self._redis.hgetall("{qstash}:flow_periods")
        return {
            key: FlowGate(
                FlowSettings(**json.loads(record)),
                **(json.loads(periods[key]) if key in periods else {}),
            )
            for key, record in found.items()
        }

    async def save_flow(self, key: str, gate: FlowGate) -> None:
        """Store a key."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset("{qstash}:flows", key, dump(gate.settings))
            pipe.hset("{qstash}:flow_periods", key, dump_period(gate))
            await pipe.execute()

    async def forget_flows(self, keys: list[str]) -> None:
        """Delete keys that nobody uses."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hdel("{qstash}:flows", *keys)
            pipe.hdel("{qstash}:flow_periods", *keys)
            await pipe.execute()

    async def groups(self) -> list[UrlGroup]:
        """Return every URL group, by name."""
        found = await self._redis.hgetall("{qstash}:groups")
        return [UrlGroup.load(found[name]) for name in sorted(found)]

    async def group(self, name: str) -> UrlGroup | None:
        """Return one URL group, or None."""
        record = await self._redis.hget("{qstash}:groups", name)
        return None if record is None else UrlGroup.load(record)

    async def save_group(self, group: UrlGroup) -> None:
        """Store a URL group; one without endpoints is deleted."""
        if group.endpoints:
            await self._redis.hset("{qstash}:groups", group.name, group.dump())
        else:
            await self.delete_group(group.name)

    async def delete_group(self, name: str) -> None:
        """Delete a URL group, if there is one."""
        await self._redis.hdel("{qstash}:groups", name)

    async def schedule(self, schedule_id: str) -> Schedule | None:
        """Return one schedule, or None."""
        record = await self._redis.hget("{qstash}:schedules", schedule_id)
        return None if record is None else Schedule.load(record)

    async def schedules(self) -> list[Schedule]:
        """Return every schedule, oldest first."""
        found = map(Schedule.load, await self._redis.hvals("{qstash}:schedules"))
        return sorted(found, key=lambda schedule: (schedule.created_at_ms, schedule.schedule_id))

    async def schedule_state(self, schedule_id: str) -> ScheduleState:
        """Return what happened to a schedule so far."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sismember("{qstash}:schedules_paused", schedule_id)
            pipe.zscore("{qstash}:schedule_index", schedule_id)
            pipe.hget("{qstash}:schedule_last", schedule_id)
            pipe.hget("{qstash}:schedule_errors", schedule_id)
            pipe.hgetall(f"{{qstash}}:schedule_states:{schedule_id}")
            is_paused, next_ms, last_ms, error, states = await pipe.execute()
        return ScheduleState(
            is_paused=bool(is_paused),
            next_ms=None if next_ms is None else int(next_ms),
            last_ms=None if last_ms is None else int(last_ms),
            error=error,
            last_states=states,
        )

    async def save_schedule(self, schedule: Schedule, *, next_ms: int) -> None:
        """Store a schedule in place of one with its id, which leaves nothing behind."""
        async with self._redis.pipeline(transaction=True) as pipe:
            self._delete_schedule(pipe, schedule.schedule_id)
            pipe.hset("{qstash}:schedules", schedule.schedule_id, schedule.dump())
            pipe.zadd("{qstash}:schedule_index", {schedule.schedule_id: next_ms})
            await pipe.execute()

    async def delete_schedule(self, schedule_id: str) -> bool:
        """Delete a schedule; False if there is none."""
        async with self._redis.pipeline(transaction=True) as pipe:
            self._delete_schedule(pipe, schedule_id)
            return bool((await pipe.execute())[0])

    async def pause_schedule(self, schedule_id: str) -> None:
        """Take a schedule's next turn away."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd("{qstash}:schedules_paused", schedule_id)
            pipe.zrem("{qstash}:schedule_index", schedule_id)
            await pipe.execute()

    async def resume_schedule(self, schedule_id: str, *, next_ms: int) -> None:
        """Give a schedule its next turn."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.srem("{qstash}:schedules_paused", schedule_id)
            pipe.zadd("{qstash}:schedule_index", {schedule_id: next_ms})
            await pipe.execute()

    async def due_schedules(self, time_ms: int) -> list[tuple[str, int]]:
        """Return id and time of every schedule whose turn has come."""
        found = await self._redis.zrangebyscore(
            "{qstash}:schedule_index", "-inf", time_ms, withscores=True
        )
        return [(schedule_id, int(due_ms)) for schedule_id, due_ms in found]

    async def next_schedule_ms(self) -> int | None:
        """Return when the next schedule's turn comes, in unix ms."""
        found = await self._redis.zrange("{qstash}:schedule_index", 0, 0, withscores=True)
        return int(found[0][1]) if found else None

    @staticmethod
    def _delete_schedule(pipe: Any, schedule_id: str) -> None:  # noqa: ANN401 - a pipeline
        pipe.hdel("{qstash}:schedules", schedule_id)
        pipe.zrem("{qstash}:schedule_index", schedule_id)
        pipe.srem("{qstash}:schedules_paused", schedule_id)
        pipe.hdel("{qstash}:schedule_last", schedule_id)
        pipe.hdel("{qstash}:schedule_errors", schedule_id)
        pipe.delete(f"{{qstash}}:schedule_states:{schedule_id}")


def dump(settings: QueueSettings | FlowSettings) -> str:
    """Return settings as JSON, for storage."""
    return json.dumps(dataclasses.asdict(settings))


def dump_period(gate: FlowGate) -> str:
    """Return a key's present period as JSON, for storage."""
    return json.dumps({"period_start_ms": gate.period_start_ms, "started": gate.started})
