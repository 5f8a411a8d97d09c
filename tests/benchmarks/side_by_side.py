"""The kit beside what people use instead, in one run: same model, same machine, same readers.

Every token carries the time it was sent, so the delay of each is measured where it is read. Every
run checks count, order and content against what the model says that it sent. Runs take turns, so
that whatever else the machine does meets all contestants alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import statistics
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from redis import Redis

from tests.benchmarks.load import COLUMNS, Figures, Load, Reading
from tests.benchmarks.measure import Row
from tests.benchmarks.place import move_away, open_place, read_cpu_s
from tests.benchmarks.readers import (
    CONTESTANTS,
    RESPONSES,
    ROUND_TRIP_MS,
    UnavailableError,
    open_responses,
)
from tests.benchmarks.stamped_model import read_clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.place import Place
    from tests.benchmarks.readers import Contestant, Open
    from tests.benchmarks.workbench import Workbench

    Results = dict[str, list[Figures]]

KIT = "longtask_kit"
_LOADS = [(1, 50), (10, 50), (50, 50), (100, 50), (100, 150), (1, 500), (10, 500), (1, 0), (10, 0)]
_FAR_LOADS = [(1, 50), (1, 500)]
_FAR_NAMES = [KIT, "naive, 3 REST calls", "redis-py a token"]
_MOST_TOKENS = 500_000  # of all tasks, when nothing but the machine limits them
_SLACK_S = 30.0  # for the slowest contestant's slowest run


class _LostTextError(Exception):
    """A contestant did not deliver what the model sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Aim:
    """What the kit's median should reach; with `than`, as a multiple of that contestant's."""

    load: Load
    figure: str
    limit: float
    than: str = ""
    is_floor: bool = False


_SDK, _NAIVE, _REDIS_PY = "openai SDK, direct", "naive, 3 REST calls", "redis-py a token"
_ONE, _HUNDRED = Load(tasks=1, rate=50), Load(tasks=100, rate=50)
_CROWDED = Load(tasks=100, rate=150)
_AIMS = [
    _Aim(load=_ONE, figure="delay_p50", limit=3.0),
    _Aim(load=_ONE, figure="delay_p50", limit=1.5, than=_REDIS_PY),
    _Aim(load=_HUNDRED, figure="rate", limit=4500, is_floor=True),
    _Aim(load=_HUNDRED, figure="rate", limit=1.1, than=_SDK, is_floor=True),
    _Aim(load=_HUNDRED, figure="rate", limit=8, than=_NAIVE, is_floor=True),
    _Aim(load=_HUNDRED, figure="delay_p99", limit=60),
    _Aim(load=_HUNDRED, figure="cpu_us", limit=1.0, than=_SDK),
    # At 50 tokens a second both read all that is offered; this is more than the SDK can.
    _Aim(load=_CROWDED, figure="rate", limit=1.1, than=_SDK, is_floor=True),
    _Aim(load=_CROWDED, figure="delay_p99", limit=60),
    _Aim(load=Load(tasks=1, rate=0), figure="rate", limit=3, than=_SDK, is_floor=True),
]


def measure_side_by_side(bench: Workbench) -> list[Row]:
    """Throughput and delay of the steady part, start-up, CPU a token of all processes.

    Bound by CPU at 100 tasks: the same two cores run the model, the writer, Redis and the reader.
    One unlimited task is bound by whoever decodes the model's ~150 bytes of JSON a token.
    """
    chosen = [(tasks, rate) for tasks in bench.tasks for rate in bench.rates]
    loads = [Load(tasks=tasks, rate=rate) for tasks, rate in chosen or _LOADS]
    if bench.is_quick:
        loads = loads[:1]
    rows: list[Row] = []
    with open_place(bench.stack) as place:
        for load, results in _compare(bench, place, loads, CONTESTANTS).items():
            rows += _make_rows("side-by-side", load, results)
            rows += _make_aim_rows(load, results)
    return rows


def measure_far_redis(bench: Workbench) -> list[Row]:
    """Redis a round trip of 20 ms away, through a proxy that delays and limits nothing else.

    The proxy adds a little of its own, so delays are compared with what a PING takes through it.

    Bound by the round trip: whoever waits for it after each token reads at its pace, whoever sends
    on meanwhile at the model's. One way from the model to the reader takes a whole round trip:
    half to Redis, half from Redis.
    """
    loads = [Load(tasks=tasks, rate=rate) for tasks, rate in _FAR_LOADS]
    with open_place(bench.stack) as place, move_away(place, ROUND_TRIP_MS) as far:
        round_trip_ms = _measure_round_trip_ms(far)
        rows = [Row(benchmark="far-redis", what="PING", unit="ms", values=[round_trip_ms])]
        chosen = {name: CONTESTANTS[name] for name in _FAR_NAMES}
        results = _compare(bench, far, loads[:1] if bench.is_quick else loads, chosen)
        for load, found in results.items():
            rows += _make_rows("far-redis", load, found)
            own = found[KIT]
            for what, values, limit, is_floor in (
                ("read / model's rate", [f.rate / load.rate for f in own], 0.97, True),
                ("delay p50 / PING", [f.delay_p50 / round_trip_ms for f in own], 1.2, False),
            ):
                rows.append(
                    Row(
                        benchmark="far-redis",
                        what=f"{load}: {KIT}, {what}",
                        unit="x",
                        values=values,
                        aim=limit,
                        is_floor=is_floor,
                    )
                )
    return rows


def measure_responses(bench: Workbench) -> list[Row]:
    """A hundred streams at once through `/v1/responses`, read by the openai SDK.

    Bound by CPU as side-by-side is, and by the SDK, which makes an object of each event in the
    process that reads all hundred; read directly it makes one of each token.
    """
    count = next(iter(bench.tasks), bench.scaled(_HUNDRED.tasks, 5))
    load = Load(tasks=count, rate=_HUNDRED.rate)
    names = {name: CONTESTANTS[name] for name in (KIT, _SDK)} | {RESPONSES: open_responses}
    with open_place(bench.stack) as place:
        results = _compare(bench, place, [load], names)[load]
    rates = [run.rate / (load.tasks * load.rate) for run in results[RESPONSES]]
    aim = Row(
        benchmark="responses",
        what=f"{load}: {RESPONSES}, read / models' rate",
        unit="x",
        values=rates,
        aim=0.9,
        is_floor=True,
    )
    return [*_make_rows("responses", load, results), aim]


def _measure_round_trip_ms(place: Place) -> float:
    """Return what a PING takes on an open connection that is used now and then; the median."""
    times_ms = []
    with Redis.from_url(place.redis_url) as redis:
        for _ in range(51):
            began = read_clock()
            redis.ping()
            times_ms.append((read_clock() - began) / 100)
            time.sleep(0.01)
    return statistics.median(times_ms)


def _compare(
    bench: Workbench, place: Place, loads: Sequence[Load], contestants: Mapping[str, Open]
) -> dict[Load, Results]:
    """Measure each load with each contestant; all of them stand ready from the beginning."""

    async def compare() -> dict[Load, Results]:
        # A notebook's loop has few threads; a hundred blocking submits would wait for one another.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(100))
        async with contextlib.AsyncExitStack() as stack:
            ready: dict[str, Contestant] = {}
            for name, enter in contestants.items():
                try:
                    ready[name] = await stack.enter_async_context(enter(place))
                except UnavailableError as exc:
                    bench.skip(name, str(exc))
            return {load: await _run_load(bench, place, load, ready) for load in loads}

    return asyncio.run(compare())


async def _run_load(
    bench: Workbench, place: Place, load: Load, ready: dict[str, Contestant]
) -> Results:
    results: Results = defaultdict(list)
    counts: dict[str, int] = {}
    for number in range(bench.runs):
        for name, one in ready.items():
            print(f"  {load}, run {number + 1} of {bench.runs}: {name} …", file=sys.stderr)
            if name not in counts:
                counts[name] = await _find_count(bench, place, load, one)
            try:
                figures = await _run(place, load, one, counts[name])
            except _LostTextError as exc:
                if name == KIT:
                    raise
                bench.skip(f"{name}, {load}", str(exc))
            else:
                results[name].append(figures)
    return results


async def _find_count(bench: Workbench, place: Place, load: Load, one: Contestant) -> int:
    """Return how many tokens a task takes to last as long as a run should; warms everything up."""
    most = _MOST_TOKENS // load.tasks
    count = 5 if load.rate else 100
    while not bench.is_quick and count < most:
        try:
            run = await _run(place, load, one, count)
        except _LostTextError:  # too short for its reader to join, or the measured runs tell
            if load.rate:
                return round(load.rate * bench.seconds)
            count *= 5
            continue
        # Twice the start-up on top, which the steady part leaves out.
        wanted_s = bench.seconds + 2 * run.start_s
        wanted = max(5, round(count * wanted_s / max(0.01, run.seconds)))
        if load.rate:
            wanted = min(wanted, round(load.rate * wanted_s))
        if run.seconds > bench.seconds / 4 or wanted <= count:
            return min(wanted, most)
        count = min(wanted, count * 5, most)
    return count


async def _run(place: Place, load: Load, one: Contestant, count: int) -> Figures:
    """Have all tasks of a load run at once, and check what was read of each."""
    prompts = [f"bench_{secrets.token_hex(8)}" for _ in range(load.tasks)]
    model = f"{load.rate}x{count}"

    async def read(prompt: str) -> Reading:
        reading = Reading()
        await one.read(prompt, model, reading)
        return reading

    gc.collect()
    gc.freeze()  # what the bench holds is no part of a run: collecting it would stop all readers
    used: list[tuple[int, float]] = []
    watching = asyncio.create_task(_watch_cpu(place.pids | one.pids, used))
    try:
        async with asyncio.timeout(_SLACK_S):
            readings = await asyncio.gather(*map(read, prompts))
    except TimeoutError:
        raise _LostTextError(f"not at the end after {_SLACK_S:g} s") from None
    except Exception as exc:
        raise _LostTextError(f"{type(exc).__name__}: {exc}") from exc
    finally:
        watching.cancel()
    async with httpx.AsyncClient(trust_env=False) as client:
        sent = (await client.get(f"{place.model_url}/sent")).json()
    wrong = sum(r.digest != sent[p] for p, r in zip(prompts, readings, strict=True))
    if wrong:
        raise _LostTextError(f"{wrong} of {load.tasks} texts were not what the model sent")
    return Figures.of(readings, used)


async def _watch_cpu(pids: frozenset[int], used: list[tuple[int, float]]) -> None:
    """Note the CPU seconds of all processes at the time on the clock, again and again."""
    while True:
        used.append((read_clock(), read_cpu_s(pids)))
        await asyncio.sleep(0.1)


def _make_rows(benchmark: str, load: Load, results: Results) -> list[Row]:
    return [
        Row(
            benchmark=benchmark,
            what=str(load),
            who=name,
            column=column,
            unit=unit,
            values=[getattr(run, figure) for run in runs],
        )
        for name, runs in results.items()
        for figure, (column, unit) in COLUMNS.items()
    ]


def _make_aim_rows(load: Load, results: Results) -> list[Row]:
    rows = []
    for aim in _AIMS:
        if aim.load != load or (aim.than and aim.than not in results):
            continue
        what, unit = COLUMNS[aim.figure]
        values = [getattr(run, aim.figure) for run in results[KIT]]
        if aim.than:
            others = [getattr(run, aim.figure) for run in results[aim.than]]
            values = [own / other for own, other in zip(values, others, strict=False)]
            what, unit = f"{what} / {aim.than}", "x"
        rows.append(
            Row(
                benchmark="side-by-side",
                what=f"{load}: {KIT}, {what}",
                unit=unit,
                values=values,
                aim=aim.limit,
                is_floor=aim.is_floor,
            )
        )
    return rows
