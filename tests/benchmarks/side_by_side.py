"""The kit beside what people use instead, in one run: same model, same reader's machine.

Every token carries the time it was sent, so the delay of each is measured where it is read. All
runs check count and order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from httpx_sse import aconnect_sse
from openai import AsyncOpenAI
from redis.asyncio import Redis

from longtask_kit import connect
from tests.benchmarks.measure import Row, percentile
from tests.benchmarks.stamped_model import TOKEN_CHARS, read_clock, read_delays_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from longtask_kit import Kit, LocalStack
    from tests.benchmarks.workbench import Workbench

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Reading:
    """What one reader saw of one task."""

    tokens: int = 0
    delays_ms: list[float] = field(default_factory=list)

    def take(self, text: str) -> None:
        """Take a piece in; it may hold several tokens."""
        assert len(text) % TOKEN_CHARS == 0, "a token was cut"
        self.delays_ms += read_delays_ms(text, read_clock())
        self.tokens += len(text) // TOKEN_CHARS
        assert self.delays_ms[-1] < 300_000, "out of order, or very late"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is asked for: `tasks` at once, `count` tokens each, at `rate` a second (0: any)."""

    tasks: int
    rate: int
    count: int

    @property
    def model(self) -> str:
        """The stamped model that gives it."""
        return f"{self.rate}x{self.count}"

    def __str__(self) -> str:
        pace = f"{self.rate} tok/s" if self.rate else "unlimited"
        return f"{self.tasks} x {pace}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The processes of a run."""

    stack: LocalStack
    model_url: str
    pids: set[int]

    @contextlib.contextmanager
    def watching(self, process: subprocess.Popen[Any]) -> Iterator[None]:
        """Count a process's CPU time, too."""
        self.pids.add(process.pid)
        try:
            yield
        finally:
            self.pids.discard(process.pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a contestant did with a load, from the moment everything was ready."""

    readings: list[Reading]
    seconds: float
    cpu_s: float


def measure_side_by_side(bench: Workbench) -> list[Row]:
    """Tokens a second, added delay and CPU a token, of the kit and of what is used instead.

    Bound by CPU at 100 tasks: the same two cores run the model, the writer, Redis and the reader.
    """
    loads = [
        Load(tasks=1, rate=50, count=bench.scaled(150, 10)),
        Load(tasks=100, rate=50, count=bench.scaled(75, 5)),
        Load(tasks=1, rate=0, count=bench.scaled(4_000, 200)),
    ]
    rows: list[Row] = []
    with _start_model() as (model_url, model_pid):
        place = Place(stack=bench.stack, model_url=model_url, pids={bench.stack.pid, model_pid})
        for load in loads if not bench.is_quick else loads[:1]:
            for name, read in _READERS.items():
                rows += _measure(name, read, place, load, runs=bench.runs)
    return rows


def _measure(
    name: str,
    read: Callable[[Place, Load], Awaitable[Run]],
    place: Place,
    load: Load,
    *,
    runs: int,
) -> list[Row]:
    rates, p50, p99, cpu = [], [], [], []
    for _ in range(runs):
        run: Run = asyncio.run(read(place, load))  # type: ignore[arg-type]
        assert [reading.tokens for reading in run.readings] == [load.count] * load.tasks, name
        delays = [delay for reading in run.readings for delay in reading.delays_ms]
        total = load.tasks * load.count
        rates.append(total / run.seconds)
        p50.append(percentile(delays, 50))
        p99.append(percentile(delays, 99))
        cpu.append(run.cpu_s / total * 1e6)
    what = f"{load}: {name}"

    def row(unit: str, kind: str, values: list[float]) -> Row:
        return Row(benchmark="side-by-side", what=f"{what}, {kind}", unit=unit, values=values)

    return [
        row("tok/s", "read", rates),
        row("ms", "delay p50", p50),
        row("ms", "delay p99", p99),
        row("µs", "CPU a token", cpu),
    ]


async def _run(place: Place, load: Load, read: Callable[[], Awaitable[Reading]]) -> Run:
    """Read all tasks of a load at once."""
    busy_s, began = _read_cpu_s(place.pids), time.perf_counter()
    readings = await asyncio.gather(*(read() for _ in range(load.tasks)))
    seconds = time.perf_counter() - began
    return Run(readings=readings, seconds=seconds, cpu_s=_read_cpu_s(place.pids) - busy_s)


# -- the readers --------------------------------------------------------------------------------


async def _read_openai(place: Place, load: Load) -> Run:
    """The openai SDK on the model itself: what a notebook user does today."""
    client = AsyncOpenAI(api_key="x", base_url=f"{place.model_url}/v1", max_retries=0)

    async def read() -> Reading:
        reading = Reading()
        stream = await client.chat.completions.create(
            model=load.model, messages=[{"role": "user", "content": "x"}], stream=True
        )
        async for chunk in stream:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                reading.take(text)
        return reading

    async with client:
        return await _run(place, load, read)


async def _read_kit(place: Place, load: Load) -> Run:
    """The kit, its webhook app in a process of its own."""
    with _serve_kit(place) as kit:

        async def read() -> Reading:
            reading = Reading()
            task = await asyncio.to_thread(kit.submit, "x", model=load.model)
            async for text in task:
                reading.take(text)
            return reading

        return await _run(place, load, read)


async def _read_naive(place: Place, load: Load) -> Run:
    """Three REST calls a token, an SSE subscription a reader."""
    environment = place.stack.environment
    headers = {"Authorization": f"Bearer {environment['UPSTASH_REDIS_REST_TOKEN']}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:

        async def listen(task_id: str) -> AsyncIterator[str]:
            url = f"{environment['UPSTASH_REDIS_REST_URL']}/subscribe/{task_id}"
            async with aconnect_sse(client, "POST", url, headers=headers) as source:
                async for frame in source.aiter_sse():
                    kind, _, text = frame.data.split(",", 2)
                    yield "" if kind == "subscribe" else text

        return await _read_contestant("naive", place, load, listen)


async def _read_redis_py(place: Place, load: Load) -> Run:
    """redis-py on both sides, no REST and no queue."""
    redis = Redis(unix_socket_path=_find_socket(place.stack), max_connections=1000)

    async def listen(task_id: str) -> AsyncIterator[str]:
        async with redis.pubsub() as channel:
            await channel.subscribe(task_id)
            async for message in channel.listen():
                yield "" if message["type"] == "subscribe" else message["data"].decode()

    async with redis:
        return await _read_contestant("redis-py", place, load, listen)


_READERS = {
    "openai SDK, direct": _read_openai,
    "longtask_kit": _read_kit,
    "naive, 3 REST calls": _read_naive,
    "redis-py a token": _read_redis_py,
}


async def _read_contestant(
    name: str, place: Place, load: Load, listen: Callable[[str], AsyncIterator[str]]
) -> Run:
    """Have a contestant's process write, once everybody listens."""
    with (
        _start(
            ["contestants", name, place.model_url],
            **place.stack.environment,
            BENCH_SOCKET=_find_socket(place.stack),
        ) as worker,
        place.watching(worker),
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()  # ready
        stdin = worker.stdin

        async def read() -> Reading:
            reading, task_id = Reading(), f"bench_{secrets.token_hex(8)}"
            async for text in listen(task_id):
                if not text:
                    stdin.write(json.dumps({"id": task_id, "model": load.model}) + "\n")
                    stdin.flush()
                elif text == "end":
                    return reading
                else:
                    reading.take(text)
            raise AssertionError("the channel was closed")

        return await _run(place, load, read)


# -- the processes ------------------------------------------------------------------------------


@contextlib.contextmanager
def _start(arguments: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a module of this package until the context ends; its first line says it is ready."""
    module, *rest = arguments
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *rest]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=os.environ | environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def _start_model() -> Iterator[tuple[str, int]]:
    with _start(["stamped_model"]) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid


@contextlib.contextmanager
def _serve_kit(place: Place) -> Iterator[Kit]:
    from tests.serving import free_port

    port = free_port()
    own = {
        "LONGTASK_BASE_URL": f"http://127.0.0.1:{port}",
        "OPENAI_BASE_URL": f"{place.model_url}/v1",
    }
    command = [sys.executable, "-m", "longtask_kit.cli", "serve", "--port", str(port)]
    environment = os.environ | place.stack.environment | own
    quiet = subprocess.DEVNULL
    with (
        subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as app,
        place.watching(app),
    ):
        try:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(f"{own['LONGTASK_BASE_URL']}/api/health", trust_env=False)
                    break
                time.sleep(0.05)
            settings = place.stack.settings.model_copy(
                update={"base_url": own["LONGTASK_BASE_URL"]}
            )
            with connect(settings=settings, quiet=True) as kit:
                kit.submit("warm up", model="0x10").result(30)
                yield kit
        finally:
            app.terminate()


def _find_socket(stack: LocalStack) -> str:
    return str(stack._files.socket)


def _read_cpu_s(pids: set[int]) -> float:
    """CPU seconds of our process, of those named, and of their children."""
    total = 0.0
    for pid in (os.getpid(), *pids):
        total += _read_process_cpu_s(pid)
        if pid != os.getpid():
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            total += sum(_read_process_cpu_s(int(child)) for child in children)
    return total


def _read_process_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S
