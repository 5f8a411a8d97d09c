"""Many rows: `kit.map` beside a loop over the openai SDK, and what each part of it costs."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from openai import AsyncOpenAI

from longtask_kit import connect
from longtask_kit.log.redis import RedisClient
from tests.benchmarks.measure import Row, percentile, time_s
from tests.benchmarks.place import move_away, open_place, read_memory_bytes, serve_app, start_module

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from longtask_kit import Kit, TaskGroup
    from tests.benchmarks.place import Place
    from tests.benchmarks.workbench import Workbench

_AT_ONCE = 50
_AWAY_MS = 20.0
_numbers = itertools.count(1)
_Figures = dict[tuple[str, str, float | None], list[float]]


def measure_map(bench: Workbench) -> list[Row]:
    """1,000 rows of 20 and of 200 tokens, whose model is as fast as it is read.

    Bound by CPU: a row is a claim, a record, a message, a lease, a delivery and an end, in four
    processes on two cores; the SDK's loop, which keeps nothing, is one process with the model.
    """
    figures: _Figures = {}

    def note(what: str, unit: str, aim: float | None, value: float) -> None:
        figures.setdefault((what, unit, aim), []).append(value)

    rows = bench.scaled(1000, 30)
    with (
        open_place(bench.stack) as place,
        serve_app(place) as (settings, _),
        contextlib.redirect_stdout(io.StringIO()),  # what each `map` says
    ):
        with connect(settings=settings, quiet=True) as kit:
            kit.map(_make_rows(50), model="0x20").results(60)  # what loads late
            for _ in range(bench.runs):
                for tokens, aim in ((20, 1.2), (200, 0.7)):
                    prompts = _make_rows(rows)
                    direct_s = asyncio.run(_ask_directly(place, prompts, tokens))
                    _count_calls(place)
                    mapped_s, whole_s = _ask_mapped(kit, prompts, tokens)
                    assert _count_calls(place) == rows
                    what = f"{rows:,} rows of {tokens} tokens"
                    note(f"{what}, beside the SDK", "x", aim, whole_s / direct_s)
                    note(f"{what}, all answers", "s", None, whole_s)
                    note(f"{what}, map returns", "s", 2, mapped_s)
                    again_s = sum(_ask_mapped(kit, prompts, tokens)[1:])
                    note(f"{what}, the same cell again", "s", 1, again_s)
                    assert _count_calls(place) == 0
                _measure_submits(kit, note, bench.scaled(100, 5))
        for _ in range(bench.runs):
            note(f"{rows:,} rows, map returns 20 ms away", "s", 3, _map_far(place, rows))
        _measure_commands(place, note, rows)
        _measure_memory(settings, note, bench.scaled(10_000, 50))
    return [
        Row(benchmark="map", what=what, unit=unit, values=values, aim=aim)
        for (what, unit, aim), values in figures.items()
    ]


def _make_rows(count: int) -> list[str]:
    """Return prompts that nobody has asked before."""
    return [f"Explain row {next(_numbers)}" for _ in range(count)]


def _ask_mapped(kit: Kit, prompts: Sequence[str], tokens: int) -> tuple[float, float]:
    """Return when `map` returned, and when the last answer was there, in seconds."""
    began = time.perf_counter()
    group = kit.map(prompts, model=f"0x{tokens}", parallelism=_AT_ONCE)
    mapped_s = time.perf_counter() - began
    answers = group.results(300)
    whole_s = time.perf_counter() - began
    assert {len(answer) for answer in answers} == {5 * tokens}
    return mapped_s, whole_s


async def _ask_directly(place: Place, prompts: Sequence[str], tokens: int) -> float:
    """Return how long the SDK takes, 50 at once."""
    turns = asyncio.Semaphore(_AT_ONCE)
    async with AsyncOpenAI(base_url=f"{place.model_url}/v1", api_key="none") as client:

        async def ask(prompt: str) -> str:
            async with turns:
                stream = await client.chat.completions.create(
                    model=f"0x{tokens}",
                    messages=[{"role": "user", "content": prompt}],
                    stream=True,
                )
                return "".join(
                    [c.choices[0].delta.content or "" async for c in stream if c.choices]
                )

        await ask("warm up")
        began = time.perf_counter()
        answers = await asyncio.gather(*map(ask, prompts))
        seconds = time.perf_counter() - began
    assert {len(answer) for answer in answers} == {5 * tokens}
    return seconds


def _count_calls(place: Place) -> int:
    """Return how many prompts the model was asked since this was asked last."""
    return len(httpx.get(f"{place.model_url}/sent", trust_env=False).json())


def _measure_submits(kit: Kit, note: Any, count: int) -> None:  # noqa: ANN401
    alone_ms = []
    for prompt in _make_rows(count // 2):
        alone_ms.append(1000 * time_s(lambda: kit.submit(prompt, model="0x20")))  # noqa: B023
        kit.tasks(limit=1)[0].result(30)
    note("submit, alone, p50", "ms", 4, percentile(alone_ms, 50))
    row_ms = [1000 * time_s(lambda: kit.submit(p, model="0x20")) for p in _make_rows(count)]  # noqa: B023
    note("submit, one of many in a row, p50", "ms", 4, percentile(row_ms, 50))
    wait_for_last(kit, count)
    prompts = _make_rows(count)

    def read_first(prompt: str) -> float:
        began = time.perf_counter()
        for _ in kit.submit(prompt, model="0x20"):
            return 1000 * (time.perf_counter() - began)
        raise AssertionError("no text")

    with ThreadPoolExecutor(count) as pool:
        first_ms = list(pool.map(read_first, prompts))
    note(f"{count} submitted at once, first text, p50", "ms", 250, percentile(first_ms, 50))
    wait_for_last(kit, count)


def wait_for_last(kit: Kit, count: int) -> None:
    """Wait until the newest tasks have ended."""
    for task in kit.tasks(limit=count):
        task.result(60)


def _map_far(place: Place, rows: int) -> float:
    """Return when `map` returns that is 20 ms from Redis and the queue."""
    queue = place.stack.environment["QSTASH_URL"]
    with (
        move_away(place, _AWAY_MS) as far,
        start_module("slow_wire", str(_AWAY_MS), urlsplit(queue).netloc) as (_, port),
        serve_app(place) as (near, _),
    ):
        url = f"http://127.0.0.1:{port}"
        base = {"base_url": near.base_url, "qstash_url": url}
        with connect(settings=far.settings.model_copy(update=base), quiet=True) as kit:
            kit.map(_make_rows(1), model="0x20").results(60)  # the connections
            prompts = _make_rows(rows)
            seconds = time_s(lambda: kit.map(prompts, model="0x20", parallelism=_AT_ONCE))
            kit.groups(limit=1)[0].results(120)
            return seconds


@contextlib.contextmanager
def counting(counted: list[str], *, kit: Kit | None = None) -> Iterator[None]:
    """Note the name of each command that this process, or a kit in it, sends."""
    send = RedisClient._send
    own = kit and kit._door.backend.groups.store._redis  # type: ignore[attr-defined]

    async def send_counted(self: RedisClient, commands: Sequence[list[Any]]) -> list[Any]:
        if own in (None, self):
            counted.extend(str(command[0]) for command in commands)
        return await send(self, commands)

    RedisClient._send = send_counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        RedisClient._send = send  # type: ignore[method-assign]


def _measure_commands(place: Place, note: Any, rows: int) -> None:  # noqa: ANN401
    """Count commands of kernel and app, both in this process; then of one who only follows."""
    counted: list[str] = []
    settings = place.settings.model_copy(update={"openai_base_url": f"{place.model_url}/v1"})
    with connect(settings=settings, quiet=True) as kit, counting(counted):
        kit.serve()
        kit.map(_make_rows(1), model="0x20").results(60)
        counted.clear()
        group = kit.map(_make_rows(rows), model="0x20", parallelism=_AT_ONCE)
        group.results(120)
        # One append a row brings its text, and with it its end.
        note("Redis commands a row beyond its text", "commands", 8, len(counted) / rows - 1)
    with connect(settings=settings, quiet=True) as kit:
        kit.serve()
        kit.map(_make_rows(rows // 4), model="20x60", parallelism=_AT_ONCE)
        with connect(settings=settings, quiet=True) as other:
            follower = other.groups(limit=1)[0]
            note("commands a second of a follower", "commands", 2.2, _follow(other, follower))
        kit.groups(limit=1)[0].results(300)


def _follow(kit: Kit, group: TaskGroup) -> float:
    """Return how many commands a second whoever waits for the group sends."""
    _ = group.counts  # a first look at all of them is no following
    counted: list[str] = []
    with counting(counted, kit=kit), group._watch.reading():
        began = time.perf_counter()
        time.sleep(3.0)
        took_s = time.perf_counter() - began
    if not counted:
        raise RuntimeError("A follower sends something: it is no longer counted.")
    return len(counted) / took_s


def _measure_memory(settings: Any, note: Any, rows: int) -> None:  # noqa: ANN401
    with connect(settings=settings, quiet=True) as kit:
        before = read_memory_bytes(os.getpid())
        group = kit.map(_make_rows(rows), model="0x20", parallelism=_AT_ONCE)
        group.results(600)
        used = read_memory_bytes(os.getpid()) - before
        note(f"{rows:,} rows done, memory in the kernel", "MB", 200, used / 1e6)
