"""What many tasks cost, and what gives way first: `python -m tests.benchmarks.scale`.

The cost of one task is measured here, with the flush interval that hosted services get. From it a
day of tasks that come at random moments is simulated. A task is 500 tokens at 50 a second.
"""

from __future__ import annotations

import heapq
import math
import os
import random
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis import Redis
from rich.console import Console
from rich.table import Table

from tests.benchmarks.place import open_place, serve_app, wait_for_answers
from tests.local.processes import read_process_cpu_s

if TYPE_CHECKING:
    from longtask_kit import Kit, Task
    from tests.benchmarks.place import Place

_TOKENS, _RATE = 500, 50
_AT_ONCE = 40  # while measuring
_FLUSH_INTERVAL_S = 0.1
_TTL_H = 7 * 24
_USD_A_COMMAND = 0.20 / 100_000  # upstash.com/pricing/redis, pay as you go
_TASKS_AN_HOUR = (100, 1_000, 10_000, 100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one task: what it asks of each service, and for how long it runs."""

    seconds: float
    commands: float
    redis_bytes: float
    kept_bytes: float
    app_cpu_s: float

    @property
    def at_once_a_core(self) -> int:
        """How many tasks keep one core of a webhook app busy."""
        return math.floor(self.seconds / self.app_cpu_s)


def measure_cost(place: Place) -> Cost:
    """Run tasks, all at once, and count."""
    from longtask_kit.cli.meter import Meter
    from longtask_kit.log.keys import log_key, task_key

    ids: list[str] = []

    def submit(kit: Kit) -> Task:
        task = kit.submit("x", model=f"{_RATE}x{_TOKENS}", max_tokens=_TOKENS)
        ids.append(task.id)
        return task

    os.environ["LONGTASK_MIN_FLUSH_INTERVAL_S"] = str(_FLUSH_INTERVAL_S)
    redis: Redis = Redis.from_url(place.redis_url)
    with serve_app(place) as (settings, pid):
        meter = Meter(settings, "the local stack")
        with meter.kit:
            meter.run(
                submit, tasks=1, at_once=1, advance=lambda: None
            )  # what is loaded late is loaded now
            ids.clear()
            before, cpu_s = _count_bytes(redis), read_process_cpu_s(pid)
            report = meter.run(submit, tasks=_AT_ONCE, at_once=_AT_ONCE, advance=lambda: None)
        redis_bytes = _count_bytes(redis) - before
        cpu_s = read_process_cpu_s(pid) - cpu_s
        wait_for_answers(place, ids)
    kept = [redis.memory_usage(key(i)) for i in ids for key in (log_key, task_key)]
    return Cost(
        seconds=report.seconds,
        commands=report.commands_per_task,
        redis_bytes=redis_bytes / _AT_ONCE,
        kept_bytes=sum(map(float, kept)) / _AT_ONCE,  # type: ignore[arg-type]
        app_cpu_s=cpu_s / _AT_ONCE,
    )


def _count_bytes(redis: Redis) -> int:
    stats = redis.info("stats")
    return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])


def simulate_day(tasks_an_hour: int, seconds: float) -> tuple[float, int]:
    """Return how many tasks run at once in a day of random arrivals: the mean, and the most."""
    rng = random.Random(tasks_an_hour)
    ends: list[float] = []
    now, most, busy = 0.0, 0, 0.0
    while now < 86_400:
        now += rng.expovariate(tasks_an_hour / 3600)
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        heapq.heappush(ends, now + seconds)
        most, busy = max(most, len(ends)), busy + seconds
    return busy / now, most


def main() -> None:
    """Measure, simulate, print."""
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as home:
        os.environ["LONGTASK_HOME"] = home
        from longtask_kit import LocalStack

        with LocalStack.start(idle_exit_s=None) as stack, open_place(stack) as place:
            cost = measure_cost(place)
    print(
        f"One task ({_TOKENS} tokens at {_RATE} a second, {_AT_ONCE} of them at once): "
        f"{cost.seconds:.1f} s, {cost.commands:.0f} Redis commands, "
        f"{cost.redis_bytes / 1e3:.0f} kB to and from Redis, {cost.kept_bytes / 1e3:.1f} kB kept, "
        f"{cost.app_cpu_s * 1e3:.0f} ms of the webhook app's CPU "
        f"({cost.at_once_a_core} tasks at once keep one core busy)\n"
    )
    table = Table("tasks an hour", box=None)
    for heading in ("at once: mean", "most", "busy cores", "commands/s", "USD/month", "kept, GB"):
        table.add_column(heading, justify="right")
    for tasks in _TASKS_AN_HOUR:
        mean, most = simulate_day(tasks, cost.seconds)
        table.add_row(
            f"{tasks:,}",
            f"{mean:,.1f}",
            f"{most:,}",
            f"{most / cost.at_once_a_core:.2f}",
            f"{most * cost.commands / cost.seconds:,.0f}",
            f"{tasks * 720 * cost.commands * _USD_A_COMMAND:,.0f}",
            f"{tasks * _TTL_H * cost.kept_bytes / 1e9:,.2f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
