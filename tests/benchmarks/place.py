"""The processes of a comparison, started on loopback, and the CPU time they take."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import httpx
from redis import Redis

from longtask_kit.log.keys import task_key
from tests.local.processes import read_process_cpu_s
from tests.serving import free_port
from tests.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from longtask_kit import LocalStack, Settings

_Process = TypeVar("_Process", subprocess.Popen[str], subprocess.Popen[bytes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where contestants work.

    Attributes:
        stack: Redis, the REST protocol in front of it, the queue.
        model_url: The stamped model.
        rest_url: The Redis REST service, straight or over a long wire.
        redis_url: Redis itself, likewise.
        pids: The processes that work for every contestant.
    """

    stack: LocalStack
    model_url: str
    rest_url: str
    redis_url: str
    pids: frozenset[int]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a contestant's process."""
        return self.stack.environment | {
            "UPSTASH_REDIS_REST_URL": self.rest_url,
            "OPENAI_BASE_URL": f"{self.model_url}/v1",
            "LONGTASK_API_KEY": "",  # readers come over HTTP
            "BENCH_REDIS_URL": self.redis_url,
        }

    @property
    def settings(self) -> Settings:
        """Settings of a kit here."""
        return self.stack.settings.model_copy(update={"upstash_redis_rest_url": self.rest_url})


@contextlib.contextmanager
def open_place(stack: LocalStack) -> Iterator[Place]:
    """Yield a place without detours."""
    with start_module("stamped_model") as (model, port):
        yield Place(
            stack=stack,
            model_url=f"http://127.0.0.1:{port}",
            rest_url=stack.environment["UPSTASH_REDIS_REST_URL"],
            redis_url=f"unix://{stack._files.socket}",
            pids=frozenset({stack.pid, model.pid}),
        )


@contextlib.contextmanager
def move_away(place: Place, round_trip_ms: float) -> Iterator[Place]:
    """Yield a place that is a round trip away from its Redis; the wire's CPU time isn't counted."""
    rest, socket = urlsplit(place.rest_url).netloc, place.redis_url.removeprefix("unix://")
    with (
        start_module("slow_wire", str(round_trip_ms), rest) as (_, rest_port),
        start_module("slow_wire", str(round_trip_ms), socket) as (_, redis_port),
    ):
        yield replace(
            place,
            rest_url=f"http://127.0.0.1:{rest_port}",
            redis_url=f"redis://127.0.0.1:{redis_port}",
        )


@contextlib.contextmanager
def start_module(module: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a module of this package until the context ends; its first line is its port."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    with _ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


@contextlib.contextmanager
def serve_app(place: Place, *options: str) -> Iterator[tuple[Settings, int]]:
    """Run `longtask serve` in a process of its own; yields a kit's settings, and its pid."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "longtask_kit.cli", "serve", "--port", str(port), *options]
    environment = os.environ | place.environment | {"LONGTASK_BASE_URL": url}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    with _ending(process):
        while process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url}/api/health", trust_env=False)
                break
            time.sleep(0.05)
        yield place.settings.model_copy(update={"base_url": url}), process.pid


def wait_for_answers(place: Place, task_ids: Iterable[str]) -> None:
    """Return once the queue has the webhook's answers: before it answers, it compacts the log."""
    environment = place.environment
    with (
        Redis.from_url(place.redis_url, decode_responses=True) as redis,
        httpx.Client(  # the SDK prints what it lists
            base_url=environment["QSTASH_URL"],
            headers={"Authorization": f"Bearer {environment['QSTASH_TOKEN']}"},
            trust_env=False,
        ) as queue,
    ):

        def is_answered(task_id: str) -> bool:
            message_id = str(redis.hget(task_key(task_id), "message_id"))
            answer = queue.get("/v2/logs", params={"messageId": message_id})
            return any(entry["state"] == "DELIVERED" for entry in answer.json()["events"])

        for task_id in task_ids:
            wait_until(functools.partial(is_answered, task_id), timeout_s=60)


@contextlib.contextmanager
def _ending(process: _Process) -> Iterator[_Process]:
    with process:
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


def read_cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of this process, of those named, and of their children."""
    total = read_process_cpu_s(os.getpid())
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        total += sum(map(read_process_cpu_s, [pid, *map(int, children)]))
    return total


def read_memory_bytes(pid: int) -> int:
    """Return the memory that only this process has (RSS less what is shared with others)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private: Sequence[str] = [line for line in lines if line.startswith("Private_")]
    return sum(int(line.split()[1]) for line in private) * 1024
