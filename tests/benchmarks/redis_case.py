"""The Redis REST service beside redis-py on the same Valkey, in the same run."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import quote

import redis

from longtask_kit.log.keys import channel_name, script_keys, task_key
from longtask_kit.log.redis import load_script
from tests.benchmarks.measure import Row, percentile, time_s
from tests.benchmarks.redis_clients import (
    RestConnection,
    open_raw,
    open_readers,
    publish_at,
    time_posts,
)
from tests.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.benchmarks.redis_clients import Reader
    from tests.benchmarks.workbench import Workbench

    Opening = Callable[[str, int], Awaitable[Sequence[Reader]]]

_SET = ["SET", "bench:key", "x" * 100]
_PIPELINE = [["SET", f"bench:{number}", "x" * 100] for number in range(100)]
_FIELDS = json.dumps(["status", "running"])
_RAW = 99  # the caller that is redis-py
_RATE = 100


def measure_redis(bench: Workbench) -> list[Row]:
    """SET, a pipeline of 100, the kit's append, and one channel to many readers.

    Bound by the CPU of the stack's one process: parsing HTTP and JSON for the first three, and
    one write to a socket for each reader and message for the last.
    """
    environment = bench.stack.environment
    url, token = environment["UPSTASH_REDIS_REST_URL"], environment["UPSTASH_REDIS_REST_TOKEN"]
    socket_url = f"unix://{quote(str(bench.stack._files.socket))}"
    count = bench.scaled(2000, 20)
    with redis.Redis.from_url(socket_url, protocol=2) as raw:
        appends = _Appends(raw)
        rows = _measure_rest(bench, url, token, appends, count)
        rows += _measure_raw(raw, appends, count)
        for readers in (1, 5) if bench.is_quick else (1, 50, 200):
            rows += _measure_fan_out(
                bench, raw, functools.partial(open_readers, url, token), "", readers
            )
            rows += _measure_fan_out(
                bench, raw, functools.partial(open_raw, socket_url), "redis-py: ", readers
            )
    return rows


class _Appends:
    """The call that appends one delta to a task's log, as the kit makes it.

    Each caller has a task of its own, since the entries of a task are numbered.
    """

    def __init__(self, raw: redis.Redis) -> None:
        source, self._sha = load_script("append")
        raw.script_load(source)
        self._raw = raw
        self._seqs: Counter[int] = Counter()

    def next_command(self, caller: int) -> list[str | int]:
        """Return a caller's next call."""
        task_id = f"task_benchmark{caller:02}"
        if caller not in self._seqs:
            self._raw.hset(task_key(task_id), "attempt", "1")
        self._seqs[caller] += 1
        entries = json.dumps([[f"1-{self._seqs[caller]}", "data", "a delta of a few words"]])
        keys = script_keys("append", task_id)
        return [
            "EVALSHA",
            self._sha,
            len(keys),
            *keys,
            channel_name(task_id),
            600,
            1,
            60_000,
            entries,
            _FIELDS,
        ]

    def next_body(self, caller: int) -> bytes:
        """Return it as a request's body."""
        return json.dumps(self.next_command(caller)).encode()

    def run_raw(self) -> None:
        """Run one through redis-py."""
        _, sha, count, *rest = map(str, self.next_command(_RAW))
        assert self._raw.evalsha(sha, int(count), *rest) == [b"ok"]


def _same(command: object) -> Callable[[int], bytes]:
    body = json.dumps(command).encode()
    return lambda _caller: body


def _measure_rest(
    bench: Workbench, url: str, token: str, appends: _Appends, count: int
) -> list[Row]:
    async def run() -> list[Row]:
        connections = [await RestConnection(url, token).open() for _ in range(8)]
        rows = []
        for what, path, make, number in (
            ("SET", "/", _same(_SET), count),
            ("100 SETs in a pipeline", "/pipeline", _same(_PIPELINE), count // 10),
            ("the kit's append script", "/", appends.next_body, count),
        ):
            await time_posts(connections[:1], path, make, max(number // 10, 1))
            alone = [
                await time_posts(connections[:1], path, make, number) for _ in range(bench.runs)
            ]
            rows += _describe(what, alone, aim_ms=1 if what == "SET" else None)
            rows.append(await _measure_rate(bench, connections, what, path, make, number // 4))
        for connection in connections:
            connection.close()
        return rows

    return asyncio.run(run())


async def _measure_rate(
    bench: Workbench,
    connections: list[RestConnection],
    what: str,
    path: str,
    make: Callable[[int], bytes],
    number: int,
) -> Row:
    number, values = max(number, 1), []
    for _ in range(bench.runs):
        begun = time.perf_counter()
        await time_posts(connections, path, make, number)
        values.append(number * len(connections) / (time.perf_counter() - begun))
    return Row(
        benchmark="redis",
        what=f"{what}, {len(connections)} connections",
        unit="1/s",
        values=values,
        aim=2500 if what == "SET" else None,
        is_floor=True,
    )


def _measure_raw(raw: redis.Redis, appends: _Appends, count: int) -> list[Row]:
    def pipeline() -> None:
        with raw.pipeline(transaction=False) as batch:
            for command in _PIPELINE:
                batch.set(command[1], command[2])
            batch.execute()

    rows: list[Row] = []
    works: list[tuple[str, Callable[[], object], int]] = [
        ("SET", lambda: raw.set(_SET[1], _SET[2]), count),
        ("100 SETs in a pipeline", pipeline, count // 10),
        ("the kit's append script", appends.run_raw, count),
    ]
    for what, work, number in works:
        rows += _describe(f"redis-py: {what}", [[time_s(work) for _ in range(number)]])
    return rows


def _measure_fan_out(
    bench: Workbench, raw: redis.Redis, opening: Opening, name: str, readers: int
) -> list[Row]:
    """Publish through redis-py, which costs the service nothing, and read through the service."""
    messages = bench.scaled(3 * _RATE, 10)
    channel = f"bench:{readers}"

    async def run() -> list[float]:
        listening = await opening(channel, readers)
        await publish_at(_RATE, messages, lambda text: raw.publish(channel, text))
        give_up_at = time.monotonic() + 20
        while any(len(reader.delays_s) < messages for reader in listening):
            assert time.monotonic() < give_up_at, "a message was lost"
            await asyncio.sleep(0.01)
        for reader in listening:
            reader.close()
        return [delay for reader in listening for delay in reader.delays_s]

    delays = []
    for _ in range(bench.runs):
        delays.append(asyncio.run(run()))
        wait_until(lambda: raw.pubsub_numsub(channel)[0][1] == 0)
    aim = 60 if readers == 200 and not name else None
    return _describe(f"{name}to {readers} readers, {_RATE}/s", delays, aim_p99_ms=aim)


def _describe(
    what: str,
    runs: list[list[float]],
    *,
    aim_ms: float | None = None,
    aim_p99_ms: float | None = None,
) -> list[Row]:
    def row(name: str, percent: float, aim: float | None) -> Row:
        values = [1000 * percentile(times, percent) for times in runs]
        return Row(benchmark="redis", what=f"{what}, {name}", unit="ms", values=values, aim=aim)

    return [row("p50", 50, aim_ms), row("p99", 99, aim_p99_ms)]
