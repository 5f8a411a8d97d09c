"""Many readers of one task over HTTP: what a delivery costs the server, and how late it comes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from longtask_kit import connect
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.store import Store
from longtask_kit.submit.queue import Queue
from longtask_kit.submit.spec import TaskSpec
from tests.benchmarks.load import Reading
from tests.benchmarks.measure import Row, percentile
from tests.benchmarks.place import open_place, serve_app
from tests.benchmarks.stamped_model import read_clock
from tests.local.processes import read_process_cpu_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longtask_kit import Settings
    from tests.benchmarks.workbench import Workbench

_FOLLOWERS = 200
_RATE = 50
_PROMPT = "followers"
_PATIENCE_S = 30.0
_CONTENT = re.compile(rb'"type":"content","data":"(\w+)"')


class SseReader(asyncio.Protocol):
    """Reads `GET /api/tasks/stream` as cheaply as Python can: bytes and their time, no parsing.

    Attributes:
        pieces: What came, and when.
        joined: Done once the task's first event was here.
        started: Done once an attempt began.
        ended: Done once the connection is closed.
    """

    def __init__(self, url: str, task_id: str) -> None:
        self._address = urlsplit(url).netloc
        self._task_id = task_id
        self.pieces: list[tuple[int, bytes]] = []
        loop = asyncio.get_running_loop()
        self.joined, self.started = loop.create_future(), loop.create_future()
        self.ended = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        request = f"GET /api/tasks/stream?taskId={self._task_id} HTTP/1.1\r\n"
        head = f"Host: {self._address}\r\nConnection: close\r\n\r\n"
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write((request + head).encode())

    def close(self) -> None:
        """Leave."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Keep what came, and when."""
        self.pieces.append((read_clock(), data))
        if not self.joined.done() and b'"pending"' in data:
            self.joined.set_result(None)
        if not self.started.done() and b'"start"' in data:
            self.started.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that it is over."""
        self.ended.set_result(None)

    def make_reading(self) -> Reading:
        """Return the texts of what came; a frame that was cut belongs to its last part."""
        reading, rest = Reading(), b""
        for now, data in self.pieces:
            frames, end, rest = (rest + data).rpartition(b"\n\n")
            found = _CONTENT.findall(frames + end)
            if found:
                reading.pieces.append((now, b"".join(found).decode()))
        return reading


async def open_readers(url: str, task_ids: list[str]) -> list[SseReader]:
    """Connect a reader to each task; returns when all have its first event, or after 30 s."""
    loop = asyncio.get_running_loop()
    host, port = str(urlsplit(url).hostname), urlsplit(url).port or 80
    readers = [SseReader(url, task_id) for task_id in task_ids]
    for reader in readers:
        await loop.create_connection(lambda: reader, host, port)  # noqa: B023 - at once
    await asyncio.wait([reader.joined for reader in readers], timeout=_PATIENCE_S)
    return readers


def measure_followers(bench: Workbench) -> list[Row]:
    """200 SSE followers of one task of 50 tokens a second, at the webhook app's own route.

    Bound by the server's one core: framing, and a write to each socket, 10,000 times a second; the
    app runs the task meanwhile, which is counted, too. The readers share the machine's cores.
    """
    cost, p50, p99 = [], [], []
    count = round(_RATE * bench.scaled(4, 1) * bench.seconds / 3)
    with open_place(bench.stack) as place, serve_app(place) as (settings, pid):
        with connect(settings=settings, quiet=True) as kit:
            kit.submit("warm up", model="0x10").result(30)  # what the app loads late
        for _ in range(bench.runs):
            with _no_collections():
                readers, cpu_s, began, ended = asyncio.run(
                    _follow(settings, f"{_RATE}x{count}", pid, bench.scaled(_FOLLOWERS, 20))
                )
            sent = httpx.get(f"{place.model_url}/sent", trust_env=False).json()[_PROMPT]
            readings = [reader.make_reading() for reader in readers]
            assert {reading.digest for reading in readings} == {sent}, "a follower missed some"
            arrivals = [a for reading in readings for a in reading.list_arrivals()]
            delays = [delay for now, delay in arrivals if began <= now <= ended]
            cost.append(cpu_s / len(delays) * 1e6)
            p50.append(percentile(delays, 50))
            p99.append(percentile(delays, 99))
            note = f"{len(readers)} followers, {len(delays):,} deliveries"

    def row(what: str, unit: str, values: list[float], aim: float | None, note: str = "") -> Row:
        return Row(
            benchmark="followers",
            what=what,
            unit=unit,
            values=values,
            aim=aim,
            note=note,
        )

    return [
        row("server CPU a delivery", "µs", cost, 40, note),
        row("delay p50", "ms", p50, None),
        row("delay p99", "ms", p99, 30),
    ]


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python from looking for cycles here: among all that is loaded that takes 0.2 s."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _follow(
    settings: Settings, model: str, pid: int, count: int
) -> tuple[list[SseReader], float, int, int]:
    """Follow a task to its end; returns the server's CPU seconds of its middle, and when that was.

    Everybody listens before the task is queued, so that joining is no part of it.
    """
    wire = TaskSpec(prompt=_PROMPT, model=model).to_wire()
    store, queue, task_id = Store.open(settings), Queue.open(settings), new_task_id()
    try:
        await store.create(task_id, wire)
        readers = await open_readers(str(settings.base_url), [task_id] * count)
        await queue.publish(task_id)
    finally:
        await store.aclose()
        await queue.aclose()
    await asyncio.gather(*(reader.started for reader in readers))
    began, cpu_s = read_clock(), read_process_cpu_s(pid)
    await asyncio.wait([r.ended for r in readers], return_when=asyncio.FIRST_COMPLETED)
    ended, used_s = read_clock(), read_process_cpu_s(pid) - cpu_s
    await asyncio.gather(*(reader.ended for reader in readers))
    return readers, used_s, began, ended
