"""Kernels that ask a bucket of limits, and a model that enforces them, on a clock of their own.

The bucket is the real script in a real Valkey; only the wire between is left out, so that many
settings and seeds take seconds.
"""

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from longtask_kit.log.limits import Call, LimitStore, Rates, Reserved
from longtask_kit.log.redis import RedisClient, load_script

MINUTE_MS = 60_000


class DirectRedis(RedisClient):
    """Runs scripts in a server on this machine, without a service between."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, decode_responses=True)
        self._shas: dict[str, str] = {}

    async def run_script(self, name: str, calls: Any, **_: Any) -> list[Any]:  # noqa: ANN401
        """Run one script several times."""
        if name not in self._shas:
            self._shas[name] = self._redis.script_load(load_script(name)[0])
        return [self._redis.evalsha(self._shas[name], *call) for call in calls]

    async def run(self, commands: Any, **_: Any) -> list[Any]:  # noqa: ANN401
        """Run commands."""
        return [self._redis.execute_command(*command) for command in commands]  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


@dataclass
class World:
    """Kernels that ask a bucket, and a model that enforces its limits over any minute.

    Attributes:
        now: ms.
        seed: Of all chance.
        lag: How late whatever happens is at most, ms: the way to Redis, to the model, and back.
    """

    store: LimitStore
    rpm: int = 60
    tpm: int = 20_000
    lag: int = 300
    seed: int = 1
    wrong_by: float = 1.0  # real tokens by estimated ones
    now: int = 1_800_000_000_000
    bucket: str = ""
    served: list[tuple[int, int, str]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    asked: int = 0
    _events: list[tuple[int, int, object]] = field(default_factory=list)
    _order: itertools.count = field(default_factory=itertools.count)  # type: ignore[type-arg]
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def at(self, ms: float, event: object) -> None:
        """Have something happen, or a little later."""
        due = int(ms) + self._chance.randrange(self.lag)
        heapq.heappush(self._events, (due, next(self._order), event))

    def serve(self, tokens: int, group: str) -> int:
        """Take a call, or return how long it is refused, ms."""
        window = [call for call in self.served[-self.rpm :] if call[0] > self.now - MINUTE_MS]
        if len(window) >= self.rpm or sum(c[1] for c in window) + tokens > self.tpm:
            self.refused.append(self.now)
            return window[0][0] + MINUTE_MS - self.now
        self.served.append((self.now, tokens, group))
        return 0

    async def run(
        self,
        rows: dict[str, int],
        *,
        parallelism: dict[str, int] | None = None,
        **limits: int,
    ) -> None:
        """Have groups of so many rows each run to their ends."""
        left = Counter(rows)
        limits = {"rpm": self.rpm, "tpm": self.tpm} | limits

        def begin(group: str) -> None:
            if left[group]:
                left[group] -= 1
                row = left[group]
                prompt = 150 + 50 * (row % 7)
                call = Call(
                    bucket=self.bucket,
                    group=group,
                    task_id=f"{group}{row}",
                    prompt_tokens=round(prompt / self.wrong_by),
                    answer_tokens=1000,
                    **limits,
                )
                self.at(self.now, ("ask", call, prompt))

        for group in rows:
            for _ in range((parallelism or {}).get(group, 16)):
                begin(group)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            match event:
                case ("ask", Call() as call, int(prompt)):
                    self.asked += 1
                    answer = await self.store.ask(call)
                    if isinstance(answer, Reserved):
                        self.at(self.now, ("call", call, prompt, answer))
                    else:
                        self.at(self.now + answer * 1000, event)
                case ("call", Call() as call, int(prompt), Reserved() as reserved):
                    if wait_ms := self.serve(prompt + 60, call.group):
                        rates = Rates(is_refused=True, hold_s=wait_ms / 1000)
                        await self.store.settle(call, reserved, counted=None, rates=rates)
                        self.at(self.now, ("ask", call, prompt))
                    else:
                        self.at(self.now + 3000, ("end", call, prompt, reserved))
                case ("end", Call() as call, int(prompt), Reserved() as reserved):
                    counted = (prompt, 60)
                    await self.store.settle(call, reserved, counted=counted, rates=Rates())
                    begin(call.group)

    def rate(self, *, after_ms: int = 0) -> float:
        """Return the part of the possible rate that was reached from a time on to the last call."""
        first = self.served[0][0] + after_ms
        calls = [call for call in self.served if call[0] >= first][:-1]
        minutes = (self.served[-1][0] - calls[0][0]) / MINUTE_MS
        return max(len(calls) / self.rpm, sum(c[1] for c in calls) / self.tpm) / minutes

    def shares(self, parallelism: dict[str, int]) -> dict[str, float]:
        """Return each group's part of its fair share, while all had rows that waited."""
        served = [[i for i, call in enumerate(self.served) if call[2] == g] for g in parallelism]
        ends = [at[-calls] for at, calls in zip(served, parallelism.values(), strict=True)]
        counts = Counter(group for _, _, group in self.served[: min(ends)])
        return {group: counts[group] * len(counts) / counts.total() for group in parallelism}
