"""What `longtask bench` measures: where a task's time goes, and what it costs.

Every stage of a task leaves its time in the log, on Redis' clock: submitted, attempt begun, each
piece of text stored. This machine's clock is compared with it first, so the age of a text is known
when it arrives.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longtask_kit.client.backend import ServiceBackend
from longtask_kit.client.door import Door
from longtask_kit.client.kit import Kit
from longtask_kit.client.own_model import Aim
from longtask_kit.errors import LongTaskError
from longtask_kit.log.many import ManyStore
from longtask_kit.log.redis import RedisClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from longtask_kit.client.task import Task
    from longtask_kit.settings import Settings

_USD_A_COMMAND = 0.20 / 100_000  # upstash.com/pricing/redis, pay as you go
_AT_ONCE_S = 0.05  # a text that came within so long has no rate
_CLOCK_CHECKS = 5
_BUSY = 0.8  # of one core: above that everything waits for this process


@dataclass(slots=True)
class TaskTimes:
    """What happened to one task, in seconds of this machine's clock.

    Attributes:
        asked: `submit()` was called.
        accepted: It returned.
        recorded: Redis had the task.
        begun: The latest attempt began.
        stored: Redis stored each piece of text of that attempt.
        arrived: The same pieces came here.
        tokens: How many each holds.
    """

    asked: float
    accepted: float = 0.0
    recorded: float = 0.0
    begun: float = 0.0
    stored: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of a run; times in milliseconds, medians unless the name says otherwise.

    Attributes:
        tasks: How many ran.
        tokens: Of all of them.
        seconds: From the first submit to the last end.
        first_token_ms: From submit to the first text here.
        first_token_max_ms: The longest of these.
        record_ms: Of that, from submit until Redis had the task.
        queue_ms: From there until an attempt began: publish, delivery, lease.
        model_ms: From there to the first text in Redis: the model, and one flush.
        delivery_ms: From Redis to here.
        submit_ms: From calling `submit()` to its return, which the attempt does not wait for.
        tokens_per_s: Of one task, from its first text to its last; None if all came at once.
        delay_p50_ms: Age of a text when it arrives, since Redis stored it.
        delay_p99_ms: As before.
        round_trip_ms: The quickest of a few commands.
        flush_interval_ms: Least time between two writes, by the settings of this machine.
        commands_per_task: Redis commands, the reader's as counted, the app's by what it stored.
        usd_per_1000_tasks: These at the hosted price.
        cpu_share: Of one core, used by this process.
    """

    tasks: int
    tokens: int
    seconds: float
    first_token_ms: float
    first_token_max_ms: float
    record_ms: float
    queue_ms: float
    model_ms: float
    delivery_ms: float
    submit_ms: float
    tokens_per_s: float | None
    delay_p50_ms: float
    delay_p99_ms: float
    round_trip_ms: float
    flush_interval_ms: float
    commands_per_task: float
    usd_per_1000_tasks: float
    cpu_share: float


def make_report(
    times: Sequence[TaskTimes],
    *,
    seconds: float,
    cpu_s: float,
    round_trip_s: float,
    flush_interval_s: float,
    read_commands: int,
) -> Report:
    """Work out the figures of what was seen."""
    firsts = [one.arrived[0] - one.asked for one in times]
    delays = sorted(a - s for one in times for s, a in zip(one.stored, one.arrived, strict=True))
    spans = [(sum(one.tokens[1:]), one.arrived[-1] - one.arrived[0]) for one in times]
    rates = [tokens / span_s for tokens, span_s in spans if span_s > _AT_ONCE_S]
    # The app's: one to begin, an append for each piece of text, one for the end, one to compact.
    commands = statistics.mean(len(one.stored) + 3 for one in times) + read_commands / len(times)
    return Report(
        tasks=len(times),
        tokens=sum(sum(one.tokens) for one in times),
        seconds=seconds,
        first_token_ms=_median_ms(firsts),
        first_token_max_ms=1000 * max(firsts),
        record_ms=_median_ms([one.recorded - one.asked for one in times]),
        queue_ms=_median_ms([one.begun - one.recorded for one in times]),
        model_ms=_median_ms([one.stored[0] - one.begun for one in times]),
        delivery_ms=_median_ms([one.arrived[0] - one.stored[0] for one in times]),
        submit_ms=_median_ms([one.accepted - one.asked for one in times]),
        tokens_per_s=statistics.median(rates) if rates else None,
        delay_p50_ms=_median_ms(delays),
        delay_p99_ms=1000 * delays[math.ceil(len(delays) * 0.99) - 1],
        round_trip_ms=1000 * round_trip_s,
        flush_interval_ms=1000 * flush_interval_s,
        commands_per_task=commands,
        usd_per_1000_tasks=1000 * commands * _USD_A_COMMAND,
        cpu_share=cpu_s / seconds,
    )


def describe_limit(report: Report) -> str:
    """Say in one sentence what the first token, the rate and the delay wait for."""
    if report.cpu_share > _BUSY:
        return (
            f"This machine limits it: reading took {report.cpu_share:.0%} of a core; run fewer "
            "tasks at once, or read in several processes."
        )
    parts = {
        "the record in Redis": report.record_ms,
        "the queue hop": report.queue_ms,
        "the model": report.model_ms,
        "the way from Redis": report.delivery_ms,
    }
    longest = max(parts, key=lambda name: parts[name])
    first = f"The first token waits mostly for {longest} ({parts[longest]:.0f} ms)"
    if report.tokens_per_s is None:
        rate = "the text comes at once"
    else:
        rate = f"the rate is the model's ({report.tokens_per_s:.0f} tokens/s)"
    if report.flush_interval_ms > report.delay_p50_ms:
        delay = f"text waits for the flush interval (at most {report.flush_interval_ms:.0f} ms)"
    else:
        delay = f"its delay is that of the way from Redis ({report.delay_p50_ms:.0f} ms)"
    return f"{first}; {rate}; {delay}."


def _median_ms(seconds: Sequence[float]) -> float:
    return 1000 * statistics.median(seconds)


class CountingRedis(RedisClient):
    """Counts the commands it sends, and can tell Redis' time.

    Attributes:
        commands: How many were sent.
    """

    commands = 0

    async def run(self, commands: Sequence[list[Any]], *, is_urgent: bool = False) -> list[Any]:
        """Run commands, and count them."""
        self.commands += len(commands)
        return await super().run(commands, is_urgent=is_urgent)

    async def read_clock(self) -> float:
        """Return Redis' time, in seconds since 1970."""
        [[seconds, microseconds]] = await self.run([["TIME"]])
        return int(seconds) + int(microseconds) / 1e6


class Meter:
    """A kit whose commands are counted, beside Redis' clock; a context manager.

    Args:
        settings: Of the services to measure.
        description: What the kit says that they are.
        aim: Which model is asked, and where; None is the app's.
    """

    def __init__(self, settings: Settings, description: str, aim: Aim | None = None) -> None:
        self._settings = settings
        door = Door(self._open_backend, settings=settings, aim=aim or Aim())
        self.kit = Kit(door, description)

    def _open_backend(self) -> ServiceBackend:
        settings = self._settings
        self._redis = CountingRedis(settings)
        store = ManyStore(self._redis, ttl_s=settings.ttl_s, lease_s=settings.lease_s)
        return ServiceBackend(settings, store)

    def run(
        self,
        submit: Callable[[Kit], Task],
        *,
        tasks: int,
        at_once: int,
        advance: Callable[[], None],
    ) -> Report:
        """Run tasks to their ends and report.

        Args:
            submit: Submits one.
            tasks: How many, >= 1.
            at_once: At most so many at a time, >= 1.
            advance: Called whenever one has ended.

        Raises:
            LongTaskError: A task could not be submitted, failed, or had no text.
        """
        offset_s, round_trip_s = self.kit._door.start(self._compare_clocks()).result()
        before, cpu_s, began = self._redis.commands, time.process_time(), time.time()

        async def watch_all() -> list[TaskTimes]:
            free = asyncio.Semaphore(at_once)

            async def watch_one() -> TaskTimes:
                async with free:
                    times = await _watch(submit, self.kit, offset_s)
                advance()
                return times

            return await asyncio.gather(*(watch_one() for _ in range(tasks)))

        times = asyncio.run(watch_all())
        return make_report(
            times,
            seconds=time.time() - began,
            cpu_s=time.process_time() - cpu_s,
            round_trip_s=round_trip_s,
            flush_interval_s=self._settings.min_flush_interval_s,
            read_commands=self._redis.commands - before + tasks,  # a subscription each
        )

    async def _compare_clocks(self) -> tuple[float, float]:
        """Return how far Redis' clock is ahead, and its round trip, both by the quickest answer."""
        checks = []
        for _ in range(_CLOCK_CHECKS):
            asked = time.time()
            theirs = await self._redis.read_clock()
            answered = time.time()
            checks.append((answered - asked, theirs - (asked + answered) / 2))
        round_trip_s, offset_s = min(checks)
        return offset_s, round_trip_s


async def _watch(submit: Callable[[Kit], Task], kit: Kit, offset_s: float) -> TaskTimes:
    """Submit a task and follow it to its end."""
    times = TaskTimes(asked=time.time())
    task = await asyncio.to_thread(submit, kit)
    times.accepted = time.time()
    async for event in task.events():
        at = event.time.timestamp() - offset_s
        if event.type == "status" and event.data == "pending":
            times.recorded = at
        elif event.type == "start":
            times.begun = at
            times.stored, times.arrived, times.tokens = [], [], []
        elif event.type == "content":
            times.arrived.append(time.time())
            times.stored.append(at)
            times.tokens.append(event.tokens)
    await task  # raises what went wrong
    if not times.stored:
        raise LongTaskError(f"{task.id} ended without any text: ask the model for some.")
    return times
