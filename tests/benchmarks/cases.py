"""The benchmarks: one function each, which takes the workbench and returns its rows."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from longtask_kit import LocalStack, connect
from longtask_kit.local.model.installed import SMOLLM2_NAME, install_pinned
from tests.benchmarks.cassette_case import measure_cassette
from tests.benchmarks.compare_case import measure_compare
from tests.benchmarks.dashboard_case import measure_dashboard
from tests.benchmarks.followers_case import measure_followers
from tests.benchmarks.map_case import measure_map
from tests.benchmarks.measure import Row, percentile, time_s
from tests.benchmarks.memory_case import measure_memory
from tests.benchmarks.queue_case import measure_queue
from tests.benchmarks.redis_case import measure_redis
from tests.benchmarks.side_by_side import (
    measure_far_redis,
    measure_responses,
    measure_side_by_side,
)
from tests.benchmarks.widget_case import measure_widget
from tests.benchmarks.workbench import Answer, ask_model, ask_task, check_same_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from longtask_kit.server.handlers import TaskContext
    from tests.benchmarks.workbench import Workbench

    Benchmark = Callable[[Workbench], list[Row]]

_HEAVY_MODULES = ("fastapi", "openai", "uvicorn", "ipywidgets")
_LONG = 20_000  # more than demo-long's 10,000 tokens


def measure_import(bench: Workbench) -> list[Row]:
    """`import longtask_kit` in a fresh interpreter, less the start of a bare one.

    Bound by reading and running the modules of the root package alone: all else is lazy. The row
    without an aim is what the first `connect` then costs: httpx, pydantic, the two SDKs.
    """
    plain, with_connect = [], []
    for _ in range(bench.scaled(2 * bench.runs, 1)):
        bare_s = time_s(lambda: _run_python("pass"))
        plain.append(time_s(lambda: _run_python("import longtask_kit")) - bare_s)
        with_connect.append(
            time_s(lambda: _run_python("from longtask_kit import connect")) - bare_s
        )
    loaded = _find_heavy_modules("import longtask_kit")
    return [
        Row(benchmark="import", what="import longtask_kit", unit="s", values=plain, aim=0.15),
        Row(
            benchmark="import",
            what="heavy modules it loads",
            unit="modules",
            values=[len(loaded)],
            aim=0,
            note=_describe_modules(loaded),
        ),
        Row(
            benchmark="import",
            what="from longtask_kit import connect",
            unit="s",
            values=with_connect,
            note=_describe_modules(_find_heavy_modules("from longtask_kit import connect")),
        ),
    ]


def measure_stack(bench: Workbench) -> list[Row]:
    """`LocalStack.start(data=None)` from the call until it is ready, and the first task on it.

    Bound by the start of one interpreter with its imports (fastapi, uvicorn, redis, qstash) and
    of Valkey. The first task, which has no aim, pays for what loads late: the openai client.
    """
    ready, first = [], []
    for _ in range(bench.runs):
        stacks: list[LocalStack] = []
        ready.append(time_s(lambda: stacks.append(LocalStack.start(data=None))))  # noqa: B023 - at once
        with stacks[0] as stack, connect(settings=stack.settings, quiet=True) as kit:
            first.append(ask_task(kit, "Explain the first start", model="demo-fast").first_s)
    return [
        Row(benchmark="stack", what="LocalStack.start(data=None)", unit="s", values=ready, aim=1.5),
        Row(benchmark="stack", what="its first task's first token", unit="s", values=first),
    ]


def measure_cold_run(bench: Workbench) -> list[Row]:
    """`longtask run` where no stack runs, from the command to the first text in its output.

    Bound by two interpreters one after the other, each with its imports, and Valkey: the command's
    own, and the stack's; then as the first task of `stack`.
    """
    seconds = []
    for _ in range(bench.runs):
        with tempfile.TemporaryDirectory(prefix="longtask-cold-") as home:
            seconds.append(_run_cold(os.environ | {"LONGTASK_HOME": home}))
    row = Row(
        benchmark="cold-run", what="longtask run, first text", unit="s", values=seconds, aim=2.5
    )
    return [row]


def _run_cold(environment: dict[str, str]) -> float:
    longtask = [sys.executable, "-m", "longtask_kit.cli"]
    began = time.perf_counter()
    with subprocess.Popen(
        [*longtask, "run", "--model", "demo-fast", "Explain the first start"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as command:
        assert command.stdout is not None
        first = command.stdout.read(1)
        seconds = time.perf_counter() - began
        assert first, "nothing was printed"
        assert len(command.stdout.read()) > 100
    subprocess.run([*longtask, "down"], env=environment, check=True, capture_output=True)
    return seconds


def measure_first_token(bench: Workbench) -> list[Row]:
    """Submit to the first text delta in `task.events()`, less the model's own first token.

    Bound by the round trips before the model is asked (record, publish, delivery, lease) and the
    one after (append with its news); each is a request or two through the stack's one process.
    """
    kit, model = bench.kit, bench.model
    tasks: list[Answer] = []
    directs: list[Answer] = []
    for number in range(bench.scaled(4 * bench.runs, 3)):
        prompt = f"Explain tide number {number}"
        directs.append(ask_model(model, prompt, model="demo-fast"))
        tasks.append(ask_task(kit, prompt, model="demo-fast"))
        check_same_text(tasks[-1], directs[-1])
    added = [t.first_s - d.first_s for t, d in zip(tasks, directs, strict=True)]

    def row(what: str, seconds: list[float], aim: float | None = None) -> Row:
        values = [1000 * value for value in seconds]
        return Row(benchmark="first-token", what=what, unit="ms", values=values, aim=aim)

    return [
        row("added by the kit", added, aim=40),
        row("submit to first delta", [task.first_s for task in tasks]),
        row("submit() returned", [task.accepted_s for task in tasks]),
        row("model alone", [direct.first_s for direct in directs]),
    ]


def measure_throughput(bench: Workbench) -> list[Row]:
    """One long answer as fast as it can go, from submit to end, checked for exact text.

    Bound by the one process that is model, app, queue and Redis REST at once, and by the decoding
    of ~250 bytes of JSON a token; the direct call is the same model read without the kit.
    """
    size = bench.scaled(_LONG, 1000)
    tasks: list[Answer] = []
    directs: list[Answer] = []
    for number in range(bench.runs):
        prompt = f"Explain throughput, part {number}"
        directs.append(ask_model(bench.model, prompt, model="demo-long", max_tokens=size))
        tasks.append(ask_task(bench.kit, prompt, model="demo-long", max_tokens=size))
        check_same_text(tasks[-1], directs[-1])
    note = f"{tasks[-1].tokens:,} tokens in {len(tasks[-1].deltas)} events"

    def row(what: str, answers: list[Answer], note: str = "") -> Row:
        values = [answer.tokens_per_s for answer in answers]
        return Row(benchmark="throughput", what=what, unit="tok/s", values=values, note=note)

    return [row("one task, submit to end", tasks, note), row("model alone", directs)]


def measure_llm(bench: Workbench) -> list[Row]:
    """The installed real model through the whole flow; its first token includes no start.

    Bound by the processor: the model computes on all cores but one, at most four.
    """
    install_pinned(lambda *_: None)
    size = bench.scaled(200, 20)
    ask_task(bench.kit, "Say hello.", model=SMOLLM2_NAME, max_tokens=2)
    answers = [
        ask_task(bench.kit, f"Write story {n} about a river.", model=SMOLLM2_NAME, max_tokens=size)
        for n in range(bench.runs)
    ]
    rates = [answer.tokens_per_s for answer in answers]
    firsts = [answer.first_s for answer in answers]
    return [
        Row(benchmark="llm", what="one task, submit to end", unit="tok/s", values=rates),
        Row(benchmark="llm", what="submit to first token", unit="s", values=firsts),
    ]


def measure_many(bench: Workbench) -> list[Row]:
    """Twenty tasks at once, of a model that gives each 50 tokens a second.

    Bound by twenty simultaneous starts (first token) and by the CPU a delta costs on its way from
    the model to the events. Delivered counts from the first submit to the last end; offered is
    what the model alone would reach if it began at once.
    """
    size = bench.scaled(150, 20)
    prompts = [f"Explain swarm number {number}" for number in range(20)]
    kit, model = bench.kit, bench.model
    # The speed changes when the text comes, not the text.
    directs = [ask_model(model, p, model="demo-fast", max_tokens=size) for p in prompts]
    total, longest = sum(d.tokens for d in directs), max(d.tokens for d in directs)
    p50, p99, delivered = [], [], []
    for _ in range(bench.runs):
        answers: list[Answer] = []
        with ThreadPoolExecutor(len(prompts)) as pool:
            tasks = [
                pool.submit(ask_task, kit, prompt, model="demo@50", max_tokens=size)
                for prompt in prompts
            ]
            wall_s = time_s(lambda: answers.extend(task.result() for task in tasks))  # noqa: B023
        for answer, direct in zip(answers, directs, strict=True):
            check_same_text(answer, direct)
        first_ms = [1000 * answer.first_s for answer in answers]
        p50.append(percentile(first_ms, 50))
        p99.append(percentile(first_ms, 99))
        delivered.append(total / wall_s)
    note = f"{total * 50 / (longest - 1):,.0f} offered"
    return [
        Row(benchmark="many", what="first token, p50 of 20", unit="ms", values=p50),
        Row(benchmark="many", what="first token, p99 of 20", unit="ms", values=p99),
        Row(benchmark="many", what="delivered", unit="tok/s", values=delivered, note=note),
    ]


def measure_flushes(bench: Workbench) -> list[Row]:
    """Redis writes for 1,000 tokens at 50 a second, with the flush interval of a hosted Redis.

    Bound by that interval: a hosted Redis bills by the command, and a flush is one command
    whatever it holds. The naive way (store, announce, renew: three commands a token) needs 3,000.
    """
    tokens = bench.scaled(500, 50)

    async def speak_slowly(_: TaskContext) -> AsyncIterator[str]:
        for _number in range(tokens):
            yield "word "
            await asyncio.sleep(0.02)

    settings = bench.stack.settings.model_copy(update={"min_flush_interval_s": 0.1})
    with connect(settings=settings, quiet=True) as kit:
        kit.serve(handlers={"speak": speak_slowly})
        task = kit.submit("x", handler="speak")
        text = task.result()
        assert text == "word " * tokens
        writes = sum(event.type == "content" for event in task.events())
    note = f"{tokens} tokens measured, scaled to 1,000"
    row = Row(
        benchmark="flushes",
        what="writes for 1,000 tokens",
        unit="commands",
        values=[writes * 1000 / tokens],
        note=note,
    )
    return [row]


BENCHMARKS: Mapping[str, Benchmark] = {
    "import": measure_import,
    "stack": measure_stack,
    "cold-run": measure_cold_run,
    "first-token": measure_first_token,
    "throughput": measure_throughput,
    "many": measure_many,
    "flushes": measure_flushes,
    "side-by-side": measure_side_by_side,
    "far-redis": measure_far_redis,
    "responses": measure_responses,
    "followers": measure_followers,
    "memory": measure_memory,
    "map": measure_map,
    "cassette": measure_cassette,
    "queue": measure_queue,
    "redis": measure_redis,
    "widget": measure_widget,
    "dashboard": measure_dashboard,
    "compare": measure_compare,
}
# Only when named: it fetches a model of 95 MB and needs the llm extra.
ON_DEMAND: Mapping[str, Benchmark] = {"llm": measure_llm}


def _run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _find_heavy_modules(statement: str) -> list[str]:
    """Return which of the heavy modules a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(_run_python(code))
    return [name for name in _HEAVY_MODULES if name in loaded]


def _describe_modules(loaded: list[str]) -> str:
    return f"loads {', '.join(loaded) or 'none'} of {', '.join(_HEAVY_MODULES)}"
