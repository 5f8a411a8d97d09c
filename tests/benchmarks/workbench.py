"""One warm stack for several benchmarks, and the two ways to an answer: as a task, and direct."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import httpx
from upstash_redis import Redis

from longtask_kit import LocalStack, connect
from longtask_kit.log.keys import log_key, task_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from longtask_kit import Kit

WARM_UP = "Explain why engines are warmed up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of text, when it came, and how many of the model's tokens it holds."""

    at_s: float
    text: str
    tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer and when its parts came; all times count from the moment it was asked for.

    Attributes:
        accepted_s: When `submit()` returned, or the model's response began.
        ended_s: When the end was known.
        task_id: Empty for a direct answer.
    """

    deltas: list[Delta]
    accepted_s: float
    ended_s: float
    task_id: str = ""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def tokens(self) -> int:
        """How many tokens came."""
        return sum(delta.tokens for delta in self.deltas)

    @property
    def first_s(self) -> float:
        """When the first text came."""
        return self.deltas[0].at_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens from asking to the end."""
        return self.tokens / self.ended_s


class Workbench:
    """What the benchmarks share; the stack starts, and is warmed up, when first asked for.

    Args:
        runs: How often each measurement is repeated, >= 1.
        is_quick: Each benchmark as short as possible: only that it works is of interest.
        seconds: How long a run of a comparison takes, start-up apart, > 0.
        tasks: How many at once a comparison measures; empty is its own choice.
        rates: Tokens a second of each, 0 for as fast as they are read; goes with `tasks`.

    Attributes:
        skipped: What was not measured, and why.
    """

    def __init__(
        self,
        *,
        runs: int,
        is_quick: bool,
        seconds: float = 3.0,
        tasks: Sequence[int] = (),
        rates: Sequence[int] = (),
    ) -> None:
        self.runs = 1 if is_quick else runs
        self.is_quick = is_quick
        self.seconds = seconds
        self.tasks, self.rates = tasks, rates
        self.skipped: list[str] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def skip(self, what: str, why: str) -> None:
        """Note that something was not measured."""
        self.skipped.append(f"{what}: {why}")
        print(f"not measured: {self.skipped[-1]}", file=sys.stderr)

    def scaled(self, full: int, quick: int) -> int:
        """Return a size: the real one, or the one of a quick run."""
        return quick if self.is_quick else full

    @cached_property
    def stack(self) -> LocalStack:
        """A throw-away stack whose app and model have run a task before."""
        stack = self._open.enter_context(LocalStack.start(data=None))
        with connect(settings=stack.settings, quiet=True) as kit:
            kit.submit(WARM_UP, model="demo-fast").result(30)
        return stack

    @cached_property
    def kit(self) -> Kit:
        """A kit with open connections to the stack."""
        kit = self._open.enter_context(connect(settings=self.stack.settings, quiet=True))
        ask_task(kit, WARM_UP, model="demo-fast")
        return kit

    @cached_property
    def model(self) -> httpx.Client:
        """A client of the stack's model, its connection kept alive."""
        environment = self.stack.environment
        client = httpx.Client(
            base_url=environment["OPENAI_BASE_URL"],
            headers={"Authorization": f"Bearer {environment['OPENAI_API_KEY']}"},
            timeout=60.0,
            trust_env=False,
        )
        self._open.enter_context(client)
        ask_model(client, WARM_UP, model="demo-fast")
        return client

    @property
    def redis_url(self) -> str:
        """The stack's Valkey itself, for what doesn't go through the REST protocol."""
        return f"unix://{self.stack._files.socket}"

    @cached_property
    def _redis(self) -> Redis:
        environment = self.stack.environment
        client = Redis(
            environment["UPSTASH_REDIS_REST_URL"],
            environment["UPSTASH_REDIS_REST_TOKEN"],
            allow_telemetry=False,
        )
        return self._open.enter_context(client)

    def measure_log(self, task_id: str) -> tuple[int, int]:
        """Return a log's size in Redis, in bytes of memory, and its number of entries."""
        entries = self._redis.execute(["XLEN", log_key(task_id)])
        assert isinstance(entries, int)
        return self._measure_key(log_key(task_id)), entries

    def measure_task(self, task_id: str) -> int:
        """Return the bytes of memory that a task's record and log take in Redis."""
        return self._measure_key(task_key(task_id)) + self._measure_key(log_key(task_id))

    def _measure_key(self, key: str) -> int:
        size_bytes = self._redis.execute(["MEMORY", "USAGE", key, "SAMPLES", "0"])
        assert isinstance(size_bytes, int)
        return size_bytes


def ask_task(kit: Kit, prompt: str, *, model: str, max_tokens: int = 1000) -> Answer:
    """Submit a task and watch its events to the end."""
    asked = time.perf_counter()
    task = kit.submit(prompt, model=model, max_tokens=max_tokens)
    accepted_s = time.perf_counter() - asked
    deltas = []
    for event in task.events():
        if event.type == "content":
            at_s = time.perf_counter() - asked
            deltas.append(Delta(at_s=at_s, text=event.data, tokens=event.tokens))
    ended_s = time.perf_counter() - asked
    assert task.result(0.1) == "".join(delta.text for delta in deltas)
    return Answer(deltas=deltas, accepted_s=accepted_s, ended_s=ended_s, task_id=task.id)


def ask_model(client: httpx.Client, prompt: str, *, model: str, max_tokens: int = 1000) -> Answer:
    """Ask the model itself, without the kit's code, and read its stream to the end."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "stream": True,
    }
    asked = time.perf_counter()
    with client.stream("POST", "/chat/completions", json=body) as response:
        accepted_s = time.perf_counter() - asked
        response.raise_for_status()
        deltas = [
            Delta(at_s=time.perf_counter() - asked, text=text)
            for text in _read_deltas(response.iter_bytes())
        ]
    ended_s = time.perf_counter() - asked
    return Answer(deltas=deltas, accepted_s=accepted_s, ended_s=ended_s)


def check_same_text(answer: Answer, direct: Answer) -> None:
    """Refuse numbers of a wrong answer: however fast, a lost token is a bug, not a missed aim."""
    got, expected = answer.text, direct.text
    if got == expected:
        return
    pairs = enumerate(zip(got, expected, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(got), len(expected)))
    raise AssertionError(
        f"{answer.task_id}: {len(got)} characters, the model gave {len(expected)}; from {at} on "
        f"expected {expected[at : at + 40]!r}, got {got[at : at + 40]!r}"
    )


def _read_deltas(chunks: Iterator[bytes]) -> Iterator[str]:
    """Yield the non-empty text deltas of a chat completion's SSE bytes."""
    buffer = b""
    for chunk in chunks:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data: ")
            if not data or data == b"[DONE]":
                continue
            choices = json.loads(data)["choices"]
            if choices and (text := choices[0]["delta"].get("content")):
                yield text
