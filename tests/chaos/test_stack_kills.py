"""The whole stack killed with tasks in flight; the notebook's kernel killed while it follows."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import longtask_kit as lt
from longtask_kit.client.backend import ServiceBackend
from longtask_kit.client.door import Door
from longtask_kit.client.kit import Kit
from longtask_kit.local.model.prose import split_tokens, write_reply
from tests.chaos._wire import Link, wire_to
from tests.chaos.rig import kill_stack, new_prompt, run_stack
from tests.wait import wait_until

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as name:
        yield Path(name) / "data"


def test_a_stack_killed_with_many_tasks_in_flight_finishes_them_all_after_its_restart(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    scale: Callable[..., int],
    figures: Callable[[str, str], None],
) -> None:
    count, rounds = scale(short=30, full=100), scale(short=1, full=5)
    monkeypatch.setenv("LONGTASK_LEASE_S", "1")
    rng = random.Random(11)
    attempts = in_flight = 0
    stack = run_stack(data)
    try:
        for _ in range(rounds):
            settings = stack.settings.model_copy(update={"retries": 12})
            with lt.connect(settings=settings, quiet=True) as kit:
                prompts = [new_prompt() for _ in range(count)]
                tasks = [kit.submit(prompt, model="demo@40") for prompt in prompts]
                for task in tasks:
                    task.events()
                at = rng.randrange(2 * count, 20 * count)  # tokens over all of them
                wait_until(lambda: sum(t._feed.transcript.tokens for t in tasks) >= at)  # noqa: B023
                in_flight += sum(not task._feed.transcript.is_terminal for task in tasks)
                kill_stack(stack)
                stack = run_stack(data)
                for task, prompt in zip(tasks, prompts, strict=True):
                    assert task.result(120) == write_reply(prompt)
                attempts += check_logs(settings, tasks)
    finally:
        stack.stop()
    figures(
        "11 stack killed with tasks in flight",
        f"{rounds} kills -9, {in_flight} tasks in flight, {attempts} attempts: all completed, "
        "each once",
    )


def check_logs(settings: lt.Settings, tasks: list[lt.Task]) -> int:
    """Check each log as a new kit reads it; returns how many attempts there were."""
    attempts = 0
    with lt.connect(settings=settings, quiet=True) as late:
        for task in tasks:
            events = list(late.attach(task.id).events())
            assert late.attach(task.id).result(30) == task.text
            assert [event.type for event in events].count("end") == 1
            assert [e.data for e in events if e.type == "status"].count("completed") == 1
            last = events[-1].cursor.attempt
            tokens = sum(e.tokens for e in events if e.type == "content" and e.cursor[0] == last)
            assert tokens == len(split_tokens(task.text))
            for attempt in range(last + 1):
                seqs = [e.cursor.seq for e in events if e.cursor.attempt == attempt]
                assert seqs == [*range(1, len(seqs) + 1)]
            attempts += last
    return attempts


@pytest.mark.gate
def test_a_stack_that_dies_before_its_answer_to_a_submit_runs_the_task_once(
    home: Path, figures: Callable[[str, str], None]
) -> None:
    assert home.is_dir()
    stack = lt.LocalStack.join_or_start(idle_exit_s=None)
    killed: list[int] = []

    def die_before_the_answer(link: Link, data: bytes) -> bytes | None:
        if b"/v2/publish/" not in link.asked or killed:
            return data
        killed.append(stack.pid)
        os.kill(stack.pid, signal.SIGKILL)
        return None

    with wire_to(stack.environment["QSTASH_URL"]) as wire:
        wire.on_answer = die_before_the_answer
        through = stack.settings.model_copy(update={"qstash_url": wire.url})

        def revive() -> lt.Settings | None:
            return None if lt.LocalStack.join_or_start().pid == stack.pid else through

        door = Door(lambda: ServiceBackend(through), settings=through, revive=revive)
        with contextlib.closing(Kit(door, "through a wire")) as kit:
            task = kit.submit("Explain tides", model="demo@400")
            assert task.result(60) == write_reply("Explain tides")
            assert [found.id for found in kit.tasks()] == [task.id]
            messages = httpx.get(
                f"{stack.environment['QSTASH_URL']}/v2/events",
                headers={"Authorization": f"Bearer {stack.environment['QSTASH_TOKEN']}"},
            ).json()["events"]
            assert len({message["messageId"] for message in messages}) == 1
            assert task.attempt == 1
    assert killed
    figures("11 stack killed before its answer", "1 submit, asked again: one task, one message")


_FOLLOW = """
import sys
import longtask_kit as lt
with lt.connect(quiet=True) as kit:
    task = kit.submit(sys.argv[1], model="demo@200")
    print(task.id, flush=True)
    for delta in task:
        print(".", flush=True)
"""

_ATTACH = """
import sys
import longtask_kit as lt
with lt.connect(quiet=True) as kit:
    print(kit.attach(sys.argv[1]).result(60), end="")
"""


def run_kernel(code: str, argument: str, stack: lt.LocalStack) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, argument],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | stack.environment,
        cwd=os.environ["LONGTASK_HOME"],  # no .env of anybody's
    )


def test_a_killed_kernel_loses_nothing_and_another_attaches_to_its_task(
    stack: lt.LocalStack, scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    kills = scale(short=3, full=30)
    rng = random.Random(8)
    characters = 0
    for _ in range(kills):
        prompt = new_prompt()
        with run_kernel(_FOLLOW, prompt, stack) as kernel:
            assert kernel.stdout is not None
            task_id = kernel.stdout.readline().strip()
            for _ in range(rng.randrange(20)):  # so many events it has seen; 0 is none
                kernel.stdout.readline()
            kernel.kill()
        with run_kernel(_ATTACH, task_id, stack) as other:
            text, _ = other.communicate(timeout=60)
        assert text == write_reply(prompt)
        characters += len(text)
    figures(
        "8 kernel killed, another attaches",
        f"{kills} kills -9, {characters:,} characters: 0 lost, 0 doubled",
    )
