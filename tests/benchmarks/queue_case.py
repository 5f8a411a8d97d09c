"""The queue alone: how fast it accepts, and how soon a handler starts; beside taskiq and celery.

Publisher and handlers share one process; the queue is the stack's. taskiq and celery (`pip install
longtask_kit[bench]`) use the same Valkey without HTTP on either side, and keep nothing of what a
killed worker had, which are their advantages: taskiq with its list broker; celery with a pool of
threads, in a worker process of its own. Each run measures all of them one after the other, so that
a ratio compares one moment.

What bounds the queue: a message takes about 1 ms of the stack's CPU with fifty in flight: writes to
sockets (two scripts, the request, the answer), the HTTP server with Starlette, redis-py's packing
and reading of the scripts, JSON; Valkey, in its own process, takes 0.05 ms a script. Before an
attempt starts there is one round trip to Valkey, which stores the message and the start. A bare
asyncio receiver instead of uvicorn shows how much of the start is the handler's own server.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import socket
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn

from tests.benchmarks.measure import Row, percentile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from tests.benchmarks.workbench import Workbench

    Send = Callable[[int], Awaitable[None]]
    Race = Callable[[Workbench, int, int], Coroutine[Any, Any, dict[str, float]]]

_AT_ONCE = 50
_MANY = 2000
_ONE_BY_ONE = 300
_CELERY_TIMEOUT_S = 120
_ROWS = (
    ("start, p50, 1 in flight", "p50 of 1", "ms"),
    ("start, p99, 1 in flight", "p99 of 1", "ms"),
    ("start, p50, 50 in flight", "p50 of 50", "ms"),
    ("start, p99, 50 in flight", "p99 of 50", "ms"),
    ("deliveries, 50 in flight", "rate", "msg/s"),
    ("publish, 1 at once", "publish by 1", "msg/s"),
    ("publish, 50 at once", "publish by 50", "msg/s"),
)
_AIMS = {"p50 of 1": (3.0, False), "rate": (400.0, True)}


class _Race:
    """Sends numbers and notes when the handler of each began."""

    def __init__(self) -> None:
        self._began: dict[int, asyncio.Future[float]] = {}

    def begin(self, number: int, at_s: float | None = None) -> None:
        """Note that the handler of a number starts now, or did at a time."""
        future = self._began.get(number)
        if future is not None and not future.done():
            future.set_result(time.perf_counter() if at_s is None else at_s)

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
    """Publish to handler start, 1 and 50 at once; deliveries and publishes a second."""
    many, few = bench.scaled(_MANY, 60), bench.scaled(_ONE_BY_ONE, 10)
    races: dict[str, Race] = {"queue": partial(_race_queue, _uvicorn_receiver)}
    if importlib.util.find_spec("taskiq_redis") is not None:
        races["taskiq"] = _race_taskiq
    if importlib.util.find_spec("celery") is not None:
        races["celery"] = _race_celery
    races["queue to a bare receiver"] = partial(_race_queue, _bare_receiver)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in races}
    for _ in range(bench.runs):
        for name, race in races.items():
            runs[name].append(asyncio.run(race(bench, many, few)))
    return [
        *(row for name, found in runs.items() for row in _rows(name, found)),
        *(
            _ratio(name, runs["queue"], runs[name], aim=aim)
            for name, aim in (("taskiq", 1.5), ("celery", None))
            if name in runs
        ),
    ]


def _rows(name: str, runs: list[dict[str, float]]) -> list[Row]:
    rows = []
    for what, key, unit in _ROWS:
        aim, is_floor = _AIMS.get(key, (None, False)) if name == "queue" else (None, False)
        rows.append(
            Row(
                benchmark="queue",
                what=f"{name}: {what}",
                unit=unit,
                values=[run[key] for run in runs],
                aim=aim,
                is_floor=is_floor,
            )
        )
    return rows if name != "queue to a bare receiver" else rows[:1]


def _ratio(
    name: str, ours: list[dict[str, float]], theirs: list[dict[str, float]], *, aim: float | None
) -> Row:
    ratios = [a["p50 of 1"] / b["p50 of 1"] for a, b in zip(ours, theirs, strict=True)]
    return Row(
        benchmark="queue", what=f"p50 of 1, queue to {name}", unit="x", values=ratios, aim=aim
    )


async def _race_queue(
    receiver: Callable[[_Race], contextlib.AbstractAsyncContextManager[str]],
    bench: Workbench,
    many: int,
    few: int,
) -> dict[str, float]:
    race = _Race()
    async with receiver(race) as target:
        publisher = _Publisher(bench.stack.environment, target)
        try:
            return await _measure(race, publisher.send, many, few)
        finally:
            publisher.close()


@contextlib.asynccontextmanager
async def _uvicorn_receiver(race: _Race) -> AsyncIterator[str]:
    async def handler(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        race.begin(int(scope["path"][1:]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    config = uvicorn.Config(handler, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def _bare_receiver(race: _Race) -> AsyncIterator[str]:
    """As little of a server as can answer; a delivery comes in one piece."""

    class Receiver(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport: Any = transport

        def data_received(self, data: bytes) -> None:
            race.begin(int(data.split(b" ", 2)[1][1:]))
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


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


async def _race_celery(bench: Workbench, many: int, few: int) -> dict[str, float]:
    race = _Race()

    class Reports(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _: object) -> None:
            number, at_s = data.split()
            race.begin(int(number), float(at_s))

    loop = asyncio.get_running_loop()
    listening, _ = await loop.create_datagram_endpoint(Reports, local_addr=("127.0.0.1", 0))
    environment = {
        "BENCH_BROKER": bench.redis_url.replace("unix://", "redis+socket://"),
        "BENCH_PORT": str(listening.get_extra_info("sockname")[1]),
    }
    os.environ.update(environment)
    begin = importlib.import_module("tests.benchmarks.celery_worker").begin

    async def send(number: int) -> None:
        begin.delay(number)  # blocks, as it does in any program of celery's

    options = f"--pool=threads --concurrency={_AT_ONCE} --loglevel=CRITICAL"
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "celery", "-A", "tests.benchmarks.celery_worker", "worker"),
        *options.split(),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_CELERY_TIMEOUT_S):
            return await _measure(race, send, many, few)
    finally:
        if worker.returncode is None:
            worker.terminate()
            await worker.wait()
        listening.close()


async def _measure(race: _Race, send: Send, many: int, few: int) -> dict[str, float]:
    await race.run(send, total=_AT_ONCE, at_once=_AT_ONCE)  # connections, imports
    single, _ = await race.run(send, total=few, at_once=1)
    several, wall_s = await race.run(send, total=many, at_once=_AT_ONCE)
    by_one_s = await _publish(send, few, at_once=1)
    by_many_s = await _publish(send, many, at_once=_AT_ONCE)
    # What was only accepted is delivered before the next measures anything.
    await race.run(send, total=1, at_once=1)
    return {
        "p50 of 1": percentile(single, 50),
        "p99 of 1": percentile(single, 99),
        "p50 of 50": percentile(several, 50),
        "p99 of 50": percentile(several, 99),
        "rate": many / wall_s,
        "publish by 1": few / by_one_s,
        "publish by 50": many / by_many_s,
    }


async def _publish(send: Send, total: int, *, at_once: int) -> float:
    """Return the seconds until all are accepted; the handlers run meanwhile."""
    numbers = iter(range(total))

    async def work() -> None:
        for number in numbers:
            await send(number)

    begun_at = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return time.perf_counter() - begun_at
