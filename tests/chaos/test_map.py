"""Many rows, paid once: whatever is killed, deleted, cancelled or changed in between."""

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from upstash_redis import Redis

import longtask_kit as lt
from tests.chaos._wire import Link, Wire, wire_to
from tests.chaos.counting_model import Call, CountingModel, text_of
from tests.chaos.rig import kill_stack, run_stack
from tests.chaos.webhooks import Webhooks
from tests.serving import serve
from tests.wait import wait_until

pytestmark = pytest.mark.timeout(3600)

_ROOT = Path(__file__).parents[2]
_PARALLELISM = 8
_OPTIONS: dict[str, Any] = {"parallelism": _PARALLELISM, "name": "rows", "model": "counting"}
Kill = Literal["kernel", "webhook", "stack"]
_KILLS: tuple[Kill, ...] = ("kernel", "webhook", "stack")
_TOUCHES = ("delete", "cancel", "expire")


@dataclass(frozen=True, slots=True)
class Reason:
    """What may have a row asked once more: a kill, of whatever ran, or what was done to a row."""

    kind: str
    at: float
    prompt: str | None = None


class Cells:
    """Kernels, each with the same cell; the next one is warm while one runs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = os.environ | environment
        self._all: list[subprocess.Popen[str]] = []
        self._standby = self._spawn()

    def run(self, rows: Sequence[str], **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
        """Run the cell in a new kernel."""
        cell, self._standby = self._standby, self._spawn()
        assert cell.stdout is not None
        assert cell.stdin is not None
        assert cell.stdout.readline() == "ready\n"
        cell.stdin.write(json.dumps({"rows": rows, "options": _OPTIONS | options}) + "\n")
        cell.stdin.flush()
        return cell

    def close(self) -> None:
        """End them."""
        for cell in self._all:
            cell.kill()
            cell.communicate()

    def _spawn(self) -> subprocess.Popen[str]:
        cell = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.map_cell"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=_ROOT,
        )
        self._all.append(cell)
        return cell


def read_frame(cell: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a cell's end, and return its frame, column by column."""
    out, err = cell.communicate(timeout=300)
    assert cell.returncode == 0, err
    frame: dict[str, Any] = json.loads(out.splitlines()[-1])
    return frame


@dataclass
class Storm:
    """A stack, webhooks, a model that counts, and kernels: everything that can be killed."""

    stack: lt.LocalStack
    settings: lt.Settings
    data: Path
    hooks: Webhooks
    model: CountingModel
    cells: Cells
    wires: Sequence[Wire]
    rng: random.Random
    reasons: list[Reason] = field(default_factory=list)
    survivors: list[subprocess.Popen[str]] = field(default_factory=list)

    def strike(self, kill: Kill, rows: Sequence[str], *, calls: int) -> None:
        """Run the cell, and kill something at a random moment of it.

        The model answers no more calls than up to there, while the next kernel starts.
        """
        cell = self.cells.run(rows)
        if kill == "kernel" and self.rng.random() < 0.5:
            self._kill_at_request(cell, self.rng.randrange(1, 20))
        else:
            at = self.model.answered + self.rng.randrange(1, calls)
            self.model.allowed = at + self.rng.randrange(_PARALLELISM)
            wait_until(lambda: self.model.answered >= at or cell.poll() is not None, timeout_s=120)
            assert not cell.poll(), cell.communicate()[1]
        match kill:
            case "kernel":
                cell.kill()
                return
            case "webhook":
                deaths = self.hooks.deaths
                self.reasons.append(Reason("webhook killed", time.monotonic()))
                self.hooks.kill()
                self.survivors.append(cell)  # it maps at once with the next one
                while self.hooks.deaths == deaths:
                    time.sleep(0.01)
            case "stack":
                self.reasons.append(Reason("stack killed", time.monotonic()))
                kill_stack(self.stack)
                self._end([cell, *self.survivors])
                self.stack = run_stack(self.data)
        self._end(self.survivors[:-1])

    def touch(self, rows: Sequence[str], how: str) -> None:
        """Delete, cancel or expire the task of a row."""
        row = self.rng.randrange(len(rows))
        with lt.connect(settings=self.settings, quiet=True) as kit:
            task = next((group.tasks[row] for group in kit.groups(limit=1)), None)
            with contextlib.suppress(lt.StreamExpiredError):
                if task is None or (how == "cancel" and kit.attach(task.id).status == "completed"):
                    return
                match how:
                    case "delete":
                        task.delete()
                    case "cancel":
                        task.cancel()
                    case "expire":
                        self._expire(task.id)
        self.reasons.append(Reason(how, time.monotonic(), rows[row]))

    def _expire(self, task_id: str) -> None:
        """Have a task's time to live be over, as if that had been a minute, and long ago."""
        environment = self.stack.environment
        url, token = environment["UPSTASH_REDIS_REST_URL"], environment["UPSTASH_REDIS_REST_TOKEN"]
        with Redis(url, token, allow_telemetry=False) as redis:
            content = redis.hget(f"longtask:{{{task_id}}}", "content")
            redis.delete(f"longtask:{{{task_id}}}", f"longtask:{{{task_id}}}:log")
            redis.delete(f"longtask:{{{task_id}}}:input")
            if content is not None:
                redis.set(f"longtask:reuse:{content}", f"{task_id} 0", ex=600)

    def _kill_at_request(self, cell: subprocess.Popen[str], number: int) -> None:
        left = number

        def count(_: Link, data: bytes) -> bytes | None:
            nonlocal left
            left -= 1
            if left != 0:
                return data
            is_heard = self.rng.random() < 0.5
            cell.kill()
            return data if is_heard else None

        for wire in self.wires:
            wire.on_request = count
        cell.wait()
        for wire in self.wires:
            wire.on_request = lambda _, data: data

    def _end(self, cells: Sequence[subprocess.Popen[str]]) -> None:
        for cell in cells:
            cell.kill()
        self.survivors = [cell for cell in self.survivors if cell not in cells]

    def explain(self, calls: Sequence[Call]) -> Counter[str]:
        """Return why rows were asked more than once, each time with a reason in between."""
        extras: Counter[str] = Counter()
        used: Counter[Reason] = Counter()
        for prompt in {call.prompt for call in calls}:
            own = [call for call in calls if call.prompt == prompt]
            for before, after in pairwise(own):
                if before.is_refused:
                    extras["refused by the model"] += 1
                    continue
                between = [r for r in self.reasons if before.began < r.at < after.began]
                assert before.is_cut or before.is_whole
                found = [r for r in between if r.prompt in (None, prompt)]
                assert found, f"{prompt!r} was asked again for nothing"
                reason = max(found, key=lambda r: r.prompt is not None)
                used[reason] += 1
                extras[f"{reason.kind}, {'cut' if before.is_cut else 'whole'}"] += 1
        for reason, count in used.items():
            assert count <= (_PARALLELISM if reason.prompt is None else 1), reason
        return extras


@pytest.fixture
def storm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storm]:
    monkeypatch.setenv("LONGTASK_LEASE_S", "1")
    model = CountingModel(allowed=0)
    with contextlib.ExitStack() as exits:
        enter = exits.enter_context
        data = Path(enter(tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp"))) / "data"
        stack = run_stack(data)
        hooks = Webhooks(data.parent / "webhook.log")
        exits.callback(hooks.close)
        model_url = enter(serve(model))
        wires = [
            enter(wire_to(stack.environment[name]))
            for name in ("UPSTASH_REDIS_REST_URL", "QSTASH_URL")
        ]
        environment = stack.environment | {
            "OPENAI_BASE_URL": f"{model_url}/v1",
            "LONGTASK_BASE_URL": hooks.url,
            "LONGTASK_RETRIES": "30",
        }
        hooks.start(environment)
        own = {"UPSTASH_REDIS_REST_URL": wires[0].url, "QSTASH_URL": wires[1].url}
        cells = Cells(environment | own)
        exits.callback(cells.close)
        settings = stack.settings.model_copy(update={"base_url": hooks.url, "retries": 30})
        rng = random.Random(19)
        storm = Storm(stack, settings, data, hooks, model, cells, wires, rng)
        try:
            yield storm
        finally:
            storm.stack.stop()


def test_rows_are_paid_once_whatever_is_killed(
    storm: Storm, scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    kills, size = scale(short=12, full=30), scale(short=400, full=1000)
    thrice = [f"thrice {number}" for number in range(size // 10)]
    rows = [*thrice * 3, *(f"once {number}" for number in range(size - 3 * len(thrice)))]
    storm.rng.shuffle(rows)
    different = set(rows)
    storm.model.refused = set(storm.rng.sample(sorted(different), 3))
    for number in range(kills):
        storm.strike(_KILLS[number % 3], rows, calls=max(2, len(different) // kills))
        storm.touch(rows, _TOUCHES[number // 3 % 3])
    storm.model.allowed = math.inf
    frame = read_frame(storm.cells.run(rows))
    if (
        "failed" in frame["status"].values()
    ):  # refused in the last run: run again, it is asked again
        frame = read_frame(storm.cells.run(rows))
    assert set(frame["status"].values()) == {"completed"}
    assert {row: frame["answer"][str(i)] for i, row in enumerate(rows)} == {
        row: text_of(row) for row in rows
    }
    calls = list(storm.model.calls)
    assert {call.prompt for call in calls} == different
    extras = storm.explain(calls)
    assert len(calls) == len(different) + extras.total()
    check_what_follows(storm, rows, frame)
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(extras.items()))
    figures(
        "19 many rows, everything killed",
        f"{kills} kills -9, {size} rows, {len(different)} different: each served once; "
        f"asked again: {named or 'none'}",
    )


def check_what_follows(storm: Storm, rows: Sequence[str], frame: dict[str, Any]) -> None:
    """Check what a calm run gives, and what is asked when rows are edited and inserted."""
    calm = read_frame(storm.cells.run(rows, reuse=False, name="calm"))
    for column in ("prompt_tokens", "completion_tokens"):  # what was cut is paid, too
        paid, least = frame.pop(column), calm.pop(column)
        assert all(paid[row] >= least[row] for row in least)
    assert calm == frame
    with lt.connect(settings=storm.settings, quiet=True) as kit:

        def ask(rows: Sequence[str]) -> int:
            before = len(storm.model.calls)
            group = kit.map(pd.DataFrame({"text": rows}), "{text}", **_OPTIONS)
            assert group.results(120) == [text_of(row) for row in rows]
            return len(storm.model.calls) - before

        assert ask(rows) == 0
        edited = [f"{row} edited" if i in range(10, 20) else row for i, row in enumerate(rows)]
        assert ask(edited) == 10
        assert ask(["on top", *edited]) == 1
