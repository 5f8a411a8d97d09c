"""The queue alone: how fast it accepts, and how soon a handler starts; beside taskiq if installed.

Publisher and handlers share one process; the queue is the stack's. taskiq (`pip install
longtask_kit[bench]`) uses the same Valkey without HTTP on either side, and its list broker keeps
nothing of what a killed worker had, which are its advantages.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn

from tests.benchmarks.measure import Row, percentile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.benchmarks.workbench import Workbench

    Send = Callable[[int], Awaitable[None]]

_AT_ONCE = 50
_MANY = 2000
_ONE_BY_ONE = 300


class _Race:
    """Sends numbers and notes when the handler of each began."""

    def __init__(self) -> None:
        self._began: dict[int, asyncio.Future[float]] = {}

    def begin(self, number: int) -> None:
        """Note that the handler of a number starts now."""
        future = self._began.get(number)
        if future is not None and not future.done():
            future.set_result(time.perf_counter())

    async def run(self, send: Send, *, total: int, at_once: int) -> tuple[list[float], float]:
        """Return the milliseconds from each send to its start, and the seconds of all."""
        loop = asyncio.get_running_loop()
        numbers = iter(range(total))
        waits_ms: list[float] = []

        async def work() -> None:
            for number in numbers:
                self._began[number] = loop.create_future()
                sent_at = time.perf_counter()
                await send(number)
                waits_ms.append(1000 * (await self._began[number] - sent_at))

        begun_at = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return waits_ms, time.perf_counter() - begun_at


class _Publisher:
    """Publishes over kept connections by hand, so that no client library is measured."""

    def __init__(self, environment: dict[str, str], target: str) -> None:
        self._address = urlsplit(environment["QSTASH_URL"])
        self._token = environment["QSTASH_TOKEN"]
        self._target = target
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, number: int) -> None:
        """Publish one message and wait until it is accepted."""
        host, port = self._address.hostname, self._address.port
        pair = self._idle.pop() if self._idle else await asyncio.open_connection(host, port)
        reader, writer = pair
        writer.write(
            f"POST /v2/publish/{self._target}/{number} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {self._token}\r\nContent-Length: 1\r\n\r\nx".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b" 201 " in head.split(b"\r\n")[0], head
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        self._idle.append(pair)

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()


def measure_queue(bench: Workbench) -> list[Row]:
    """Publish to handler start, one by one and 50 at once; deliveries and publishes a second.

    Bound by the stack's one process: a message is two HTTP requests, three round trips to Valkey
    and a signature. The aims: p50 at most 1.5x taskiq's, 400 deliveries a second on two cores.
    """
    many, few = bench.scaled(_MANY, 60), bench.scaled(_ONE_BY_ONE, 10)
    ours = [asyncio.run(_race_queue(bench, many, few)) for _ in range(bench.runs)]
    rows = _rows("queue", ours)
    accepted = [run["publish"] for run in ours]
    rows.append(Row(benchmark="queue", what="publish, 50 at once", unit="msg/s", values=accepted))
    if importlib.util.find_spec("taskiq_redis") is not None:
        theirs = [asyncio.run(_race_taskiq(bench, many, few)) for _ in range(bench.runs)]
        rows += _rows("taskiq", theirs)
        ratios = [a["p50 of 1"] / b["p50 of 1"] for a, b in zip(ours, theirs, strict=True)]
        rows.append(
            Row(
                benchmark="queue",
                what="p50 of 1, queue to taskiq",
                unit="x",
                values=ratios,
                note="aimed at 1.5 or less",
            )
        )
    return rows


def _rows(name: str, runs: list[dict[str, float]]) -> list[Row]:
    rows = []
    for what, key, unit in (
        ("start, p50, 1 in flight", "p50 of 1", "ms"),
        ("start, p99, 1 in flight", "p99 of 1", "ms"),
        ("start, p50, 50 in flight", "p50 of 50", "ms"),
        ("start, p99, 50 in flight", "p99 of 50", "ms"),
        ("deliveries, 50 in flight", "rate", "msg/s"),
    ):
        values = [run[key] for run in runs]
        rows.append(Row(benchmark="queue", what=f"{name}: {what}", unit=unit, values=values))
    return rows


async def _race_queue(bench: Workbench, many: int, few: int) -> dict[str, float]:
    race = _Race()

    async def handler(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        race.begin(int(scope["path"][1:]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    config = uvicorn.Config(handler, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    target = f"http://127.0.0.1:{listener.getsockname()[1]}"
    publisher = _Publisher(bench.stack.environment, target)
    try:
        found = await _measure(race, publisher.send, many, few)
        accepted_at = time.perf_counter()
        numbers = iter(range(many))

        async def publish() -> None:
            for number in numbers:
                await publisher.send(number)

        await asyncio.gather(*(publish() for _ in range(_AT_ONCE)))
        found["publish"] = many / (time.perf_counter() - accepted_at)
        # What was only accepted is delivered before the next measures anything.
        await race.run(publisher.send, total=1, at_once=1)
    finally:
        publisher.close()
        server.should_exit = True
        await serving
    return found


async def _race_taskiq(bench: Workbench, many: int, few: int) -> dict[str, float]:
    taskiq_redis = importlib.import_module("taskiq_redis")
    taskiq_api = importlib.import_module("taskiq.api")
    race = _Race()
    broker = taskiq_redis.ListQueueBroker(url=bench.redis_url, queue_name="bench:taskiq")

    @broker.task(task_name="begin")  # type: ignore[untyped-decorator]
    async def begin(number: int) -> None:
        race.begin(number)

    async def send(number: int) -> None:
        await begin.kiq(number)

    broker.is_worker_process = True
    await broker.startup()
    working = asyncio.create_task(taskiq_api.run_receiver_task(broker, max_async_tasks=_AT_ONCE))
    try:
        return await _measure(race, send, many, few)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await broker.shutdown()


async def _measure(race: _Race, send: Send, many: int, few: int) -> dict[str, float]:
    await race.run(send, total=_AT_ONCE, at_once=_AT_ONCE)  # connections, imports
    single, _ = await race.run(send, total=few, at_once=1)
    several, wall_s = await race.run(send, total=many, at_once=_AT_ONCE)
    return {
        "p50 of 1": percentile(single, 50),
        "p99 of 1": percentile(single, 99),
        "p50 of 50": percentile(several, 50),
        "p99 of 50": percentile(several, 99),
        "rate": many / wall_s,
    }
