"""The contestants as their readers see them: one function each, open for many tasks.

All read in this process, whatever writes: what differs is how a token gets here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from httpx_sse import aconnect_sse
from openai import AsyncOpenAI
from redis.asyncio import Redis

from longtask_kit import connect
from tests.benchmarks.contestants import END, TASKIQ_NAME, TASKIQ_QUEUE, read_model
from tests.benchmarks.place import move_away, serve_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.benchmarks.load import Reading
    from tests.benchmarks.place import Place

    Listen = Callable[[str], AsyncIterator[str]]
    Open = Callable[[Place], AbstractAsyncContextManager["Contestant"]]

_NPM_PACKAGES = ("resumable-stream@2", "redis@4")
_NPM_TIMEOUT_S = 60
ROUND_TRIP_MS = 20.0


class UnavailableError(Exception):
    """A contestant can't run on this machine; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One that is ready to run tasks.

    Attributes:
        read: Has an answer to a prompt of a model written, and reads it to its end.
        pids: Its own processes.
    """

    read: Callable[[str, str, Reading], Awaitable[None]]
    pids: frozenset[int] = frozenset()


@contextlib.asynccontextmanager
async def open_openai(place: Place) -> AsyncIterator[Contestant]:
    """The openai SDK on the model itself: what a notebook user does today."""
    async with AsyncOpenAI(api_key="x", base_url=f"{place.model_url}/v1", max_retries=0) as client:

        async def read(prompt: str, model: str, reading: Reading) -> None:
            async for text in read_model(client, prompt, model):
                reading.take(text)

        yield Contestant(read=read)


@contextlib.asynccontextmanager
async def open_kit(place: Place) -> AsyncIterator[Contestant]:
    """The kit, its webhook app in a process of its own."""
    with serve_app(place) as (settings, pid), connect(settings=settings, quiet=True) as kit:

        async def read(prompt: str, model: str, reading: Reading) -> None:
            task = await asyncio.to_thread(kit.submit, prompt, model=model)
            async for text in task:
                reading.take(text)

        yield Contestant(read=read, pids=frozenset({pid}))


@contextlib.asynccontextmanager
async def open_responses(place: Place) -> AsyncIterator[Contestant]:
    """The openai SDK on the kit's `/v1/responses`, the app in a process of its own."""
    with serve_app(place, "--front-end", "responses") as (settings, pid):
        url = f"{settings.base_url}/v1"
        async with AsyncOpenAI(api_key="x", base_url=url, max_retries=0, timeout=60) as client:

            async def read(prompt: str, model: str, reading: Reading) -> None:
                events = await client.responses.create(model=model, input=prompt, stream=True)
                async for event in events:
                    if event.type == "response.output_text.delta":
                        reading.take(event.delta)

            yield Contestant(read=read, pids=frozenset({pid}))


@contextlib.asynccontextmanager
async def open_naive(place: Place) -> AsyncIterator[Contestant]:
    """Three REST calls a token, an SSE subscription a reader."""
    headers = {"Authorization": f"Bearer {place.environment['UPSTASH_REDIS_REST_TOKEN']}"}
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client,
        _start_writer("naive", place) as writer,
    ):

        async def listen(task_id: str) -> AsyncIterator[str]:
            url = f"{place.rest_url}/subscribe/{task_id}"
            async with aconnect_sse(client, "POST", url, headers=headers) as source:
                async for frame in source.aiter_sse():
                    kind, _, text = frame.data.split(",", 2)
                    yield "" if kind == "subscribe" else text

        yield _make_contestant(writer, listen, writer.begin)


@contextlib.asynccontextmanager
async def open_naive_far(place: Place) -> AsyncIterator[Contestant]:
    """The same, when each call takes 20 ms."""
    with move_away(place, ROUND_TRIP_MS) as far:
        async with open_naive(far) as contestant:
            yield contestant


@contextlib.asynccontextmanager
async def open_redis_py(place: Place) -> AsyncIterator[Contestant]:
    """redis-py on both sides, no REST and no queue."""
    async with _open_redis(place) as redis, _start_writer("redis-py", place) as writer:
        yield _make_contestant(writer, _listen_by(redis), writer.begin)


@contextlib.asynccontextmanager
async def open_resumable(place: Place) -> AsyncIterator[Contestant]:
    """`resumable-stream` of PyPI; the text is kept in the writer's memory alone."""
    _require("resumable_stream")
    async with _start_writer("resumable", place) as writer, _resume_from(writer, place) as one:
        yield one


@contextlib.asynccontextmanager
async def open_resumable_npm(place: Place) -> AsyncIterator[Contestant]:
    """`resumable-stream` of npm, read by its port to Python, which speaks the same protocol."""
    _require("resumable_stream")
    with tempfile.TemporaryDirectory(prefix="longtask-npm-") as folder:
        node = _install_npm(Path(folder))
        command = [node, str(Path(folder) / "resumable.mjs")]
        async with _start_process(command, place) as writer, _resume_from(writer, place) as one:
            yield one


@contextlib.asynccontextmanager
async def open_taskiq(place: Place) -> AsyncIterator[Contestant]:
    """A taskiq task that publishes each token; nothing keeps the text."""
    _require("taskiq_redis")
    taskiq_redis = importlib.import_module("taskiq_redis")
    broker = taskiq_redis.ListQueueBroker(
        url=place.redis_url, queue_name=TASKIQ_QUEUE, socket_timeout=None
    )

    @broker.task(task_name=TASKIQ_NAME)  # type: ignore[untyped-decorator]
    async def stream(task_id: str, model: str) -> None:
        """Run in the worker."""

    async def begin(task_id: str, model: str) -> None:
        await stream.kiq(task_id, model)

    await broker.startup()
    try:
        async with _open_redis(place) as redis, _start_writer("taskiq", place) as writer:
            yield _make_contestant(writer, _listen_by(redis), begin)
    finally:
        await broker.shutdown()


CONTESTANTS: dict[str, Open] = {
    "longtask_kit": open_kit,
    "openai SDK, direct": open_openai,
    "naive, 3 REST calls": open_naive,
    "naive, 20 ms a call": open_naive_far,
    "redis-py a token": open_redis_py,
    "resumable-stream, PyPI": open_resumable,
    "resumable-stream, npm": open_resumable_npm,
    "taskiq to pub/sub": open_taskiq,
}
"""By the name in the table."""

RESPONSES = "openai SDK, /v1/responses"


# -- listening ----------------------------------------------------------------------------------


def _open_redis(place: Place) -> Redis:
    return Redis.from_url(place.redis_url, max_connections=1000)


def _listen_by(redis: Redis) -> Listen:
    async def listen(task_id: str) -> AsyncIterator[str]:
        async with redis.pubsub() as channel:
            await channel.subscribe(task_id)
            async for message in channel.listen():
                yield "" if message["type"] == "subscribe" else message["data"].decode()

    return listen


def _make_contestant(
    writer: _Writer, listen: Listen, begin: Callable[[str, str], Awaitable[None]]
) -> Contestant:
    """Have tasks begin once their reader's subscription is acknowledged."""

    async def read(prompt: str, model: str, reading: Reading) -> None:
        async for text in listen(prompt):
            if not text:
                await begin(prompt, model)
            elif text == END:
                return
            else:
                reading.take(text)

    return Contestant(read=read, pids=writer.pids)


@contextlib.asynccontextmanager
async def _resume_from(writer: _Writer, place: Place) -> AsyncIterator[Contestant]:
    resumable = importlib.import_module("resumable_stream")
    publisher = resumable.RedisPublisher(place.redis_url)
    subscriber = resumable.RedisSubscriber(place.redis_url)
    await publisher.connect()
    await subscriber.connect()
    context = resumable.create_resumable_stream_context(publisher=publisher, subscriber=subscriber)

    async def read(prompt: str, model: str, reading: Reading) -> None:
        await writer.begin(prompt, model)
        await writer.wait_until_open(prompt)
        stream = await context.resume_existing_stream(prompt)
        if stream is None:  # it has ended, and with it all that was to be read
            return
        async for text in stream:
            reading.take(text)

    try:
        yield Contestant(read=read, pids=writer.pids)
    finally:
        await subscriber.close()
        await publisher.close()


# -- the writing processes ----------------------------------------------------------------------


class _Writer:
    """A process that runs tasks, a line of JSON each."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._open: dict[str, asyncio.Event] = {}

    @property
    def pids(self) -> frozenset[int]:
        return frozenset({self._process.pid})

    async def begin(self, task_id: str, model: str) -> None:
        """Have it run a task."""
        assert self._process.stdin is not None
        self._open[task_id] = asyncio.Event()
        line = json.dumps({"id": task_id, "model": model}) + "\n"
        self._process.stdin.write(line.encode())

    async def wait_until_open(self, task_id: str) -> None:
        """Return when it has said that readers may join."""
        await self._open[task_id].wait()

    async def take_lines(self) -> None:
        """Take in what it says."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._open[line.decode().strip()].set()


def _start_writer(name: str, place: Place) -> AbstractAsyncContextManager[_Writer]:
    return _start_process([sys.executable, "-m", "tests.benchmarks.contestants", name], place)


@contextlib.asynccontextmanager
async def _start_process(command: list[str], place: Place) -> AsyncIterator[_Writer]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, env=os.environ | place.environment
    )
    assert process.stdout is not None
    try:
        ready = await process.stdout.readline()
        assert ready == b"ready\n", f"{command} did not start"
        writer = _Writer(process)
        taking = asyncio.create_task(writer.take_lines())
        yield writer
        taking.cancel()
    finally:
        process.kill()
        await process.wait()


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UnavailableError('not installed: pip install "longtask_kit[bench]"')


def _install_npm(folder: Path) -> str:
    """Install npm's packages into a folder, with the script beside them; returns node's path."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise UnavailableError("node and npm are not installed")
    (folder / "package.json").write_text("{}")
    shutil.copy(Path(__file__).with_name("resumable.mjs"), folder)
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *_NPM_PACKAGES]
    quiet: Any = subprocess.DEVNULL
    try:
        subprocess.run(
            command, cwd=folder, stdout=quiet, stderr=quiet, timeout=_NPM_TIMEOUT_S, check=True
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as exc:
        raise UnavailableError(f"npm could not install its packages: {exc}") from exc
    return node
