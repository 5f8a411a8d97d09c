"""What a follower, an idle task and a finished task cost in memory."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from longtask_kit import connect
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.store import Store
from longtask_kit.submit.spec import TaskSpec
from tests.benchmarks.followers_case import open_readers
from tests.benchmarks.measure import Row
from tests.benchmarks.place import (
    open_place,
    read_memory_bytes,
    serve_app,
    wait_for_answers,
)
from tests.local.processes import read_process_cpu_s

if TYPE_CHECKING:
    from longtask_kit import Kit
    from tests.benchmarks.place import Place
    from tests.benchmarks.workbench import Workbench

_FOLLOWERS = 1000
_IDLE_S = 4.0
_ANSWER = 10_000  # tokens
# A second: slow enough that a token is an entry, as at 50, in a quarter of the time.
_PACED = 200
_LOG_AIM = 3.0
_MEMORY_AIM_MB = 150


def measure_memory(bench: Workbench) -> list[Row]:
    """1,000 idle followers in a kernel, and at the app; an idle and a finished task in Redis.

    A follower in a kernel is bound by its subscription: a connection with its buffers and parser.
    At the app it is a request that stays open, and shares its task's subscription with the others
    of that task. The log of an ended task is bound by its text, and by the four to six bytes that
    tell the length and time of each piece of it that was an entry while the task ran; Redis allots
    the last node of a stream whole (4 KiB).
    """
    count = bench.scaled(_FOLLOWERS, 20)
    with open_place(bench.stack) as place:
        ids = asyncio.run(_create_idle_tasks(place, count))
        idle_s = 0.2 if bench.is_quick else _IDLE_S
        rows = _measure_kernel(place, ids, idle_s, runs=bench.runs)
        rows += _measure_app(place, ids, idle_s, runs=bench.runs)
        rows += _measure_tasks(bench, ids)
        rows += _measure_logs(bench, place)
    return rows


async def _create_idle_tasks(place: Place, count: int) -> list[str]:
    """Record tasks that nothing ever runs: no message is published."""
    store = Store.open(place.settings)
    ids = [new_task_id() for _ in range(count)]
    try:
        for task_id in ids:
            await store.create(task_id, TaskSpec(prompt="Explain tides").to_wire())
    finally:
        await store.aclose()
    return ids


def _measure_kernel(place: Place, ids: list[str], idle_s: float, *, runs: int) -> list[Row]:
    """Follow from a fresh process: each task once, and one task as often."""
    rows = []
    for what, followed in (("a task each", ids), ("one task", [ids[0]] * len(ids))):
        seen = [_run_idle_followers(place, followed, idle_s) for _ in range(runs)]
        rows += _make_rows(f"kernel, {what}", len(ids) - 1, seen)
    return rows


def _run_idle_followers(place: Place, ids: list[str], idle_s: float) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.idle_followers", str(idle_s)],
        input="\n".join(ids),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | place.environment,
        check=True,
    )
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def _measure_app(place: Place, ids: list[str], idle_s: float, *, runs: int) -> list[Row]:
    rows = []
    for what, followed in (("a task each", ids), ("one task", [ids[0]] * len(ids))):
        seen = []
        for _ in range(runs):
            with serve_app(place) as (settings, pid):
                with connect(settings=settings, quiet=True) as kit:
                    kit.submit("warm up", model="0x10").result(30)
                seen.append(asyncio.run(_follow_app(str(settings.base_url), followed, pid, idle_s)))
        rows += _make_rows(f"app, {what}", len(ids), seen)
    return rows


async def _follow_app(url: str, ids: list[str], pid: int, idle_s: float) -> dict[str, float]:
    before = read_memory_bytes(pid)
    readers = await open_readers(url, ids)
    after, busy_s = read_memory_bytes(pid), read_process_cpu_s(pid)
    await asyncio.sleep(idle_s)
    cpu_share = (read_process_cpu_s(pid) - busy_s) / idle_s
    for reader in readers:
        reader.close()
    followed = sum(reader.joined.done() for reader in readers)
    return {"before": before, "after": after, "followed": followed, "cpu_share": cpu_share}


def _make_rows(what: str, followers: int, seen: list[dict[str, float]]) -> list[Row]:
    each = [(one["after"] - one["before"]) / one["followed"] / 1024 for one in seen]
    whole = [one["after"] / 1e6 for one in seen]
    busy = [100 * one["cpu_share"] for one in seen]
    followed = [one["followed"] for one in seen]
    name = f"{what}: idle followers"

    def row(what: str, unit: str, values: list[float], **aim: Any) -> Row:  # noqa: ANN401
        return Row(benchmark="memory", what=what, unit=unit, values=values, **aim)

    return [
        row(name, "within 30 s", followed, aim=followers, is_floor=True),
        row(f"{what}: memory of all", "MB", whole, aim=_MEMORY_AIM_MB),
        row(f"{what}: one more", "KiB", each),
        row(f"{what}: CPU while idle", "% of a core", busy),
    ]


def _measure_tasks(bench: Workbench, ids: list[str]) -> list[Row]:
    """Record and log of a task that waits, and of a finished one of 100 tokens."""
    idle = [float(bench.measure_task(task_id)) for task_id in ids[: bench.runs]]
    done = []
    for number in range(bench.runs):
        task = bench.kit.submit(f"Explain shells {number}", model="demo-fast", max_tokens=100)
        task.result(30)
        done.append(float(bench.measure_task(task.id)))
    return [
        Row(benchmark="memory", what="an idle task in Redis", unit="bytes", values=idle),
        Row(benchmark="memory", what="100 tokens, finished", unit="bytes", values=done),
    ]


def _measure_logs(bench: Workbench, place: Place) -> list[Row]:
    """Logs of ended tasks, as the webhook leaves them, divided by the bytes of their texts."""
    count = bench.scaled(_ANSWER, 200)
    rows = []
    with (
        serve_app(place) as (settings, _),
        connect(settings=settings, quiet=True) as kit,
        ThreadPoolExecutor(bench.runs) as pool,
    ):
        for what, rate in (("paced", _PACED), ("unlimited", 0)):
            run = functools.partial(_run_long, bench, place, kit, rate, count)
            found = [future.result() for future in [pool.submit(run) for _ in range(bench.runs)]]
            note = f"{found[-1][1]:,} entries, {found[-1][2]:,} bytes"
            rows.append(
                Row(
                    benchmark="memory",
                    what=f"log / text, {count:,} tokens, {what}",
                    unit="x",
                    values=[ratio for ratio, _, _ in found],
                    aim=_LOG_AIM,
                    note=note,
                )
            )
    return rows


def _run_long(
    bench: Workbench, place: Place, kit: Kit, rate: int, count: int
) -> tuple[float, int, int]:
    task = kit.submit("memory", model=f"{rate}x{count}")
    text = task.result(300)
    wait_for_answers(place, [task.id])
    size_bytes, entries = bench.measure_log(task.id)
    return size_bytes / len(text.encode()), entries, size_bytes
