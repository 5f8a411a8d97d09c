"""Requests and tokens a minute: one bucket in Redis for each endpoint and model."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StoreError, StoreRefusedError
from longtask_kit.log.keys import limit_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from longtask_kit.log.redis import RedisClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a model that is to be made.

    Attributes:
        bucket: Of the endpoint and model, as `name_bucket` names it.
        group: Whose share it is part of; empty for tasks of no group.
        task_id: Its task.
        rpm: Requests a minute that whoever asks keeps; 0 is no limit.
        tpm: Tokens a minute, likewise.
        prompt_tokens: Estimated.
        answer_tokens: Most of the answer.
    """

    bucket: str
    group: str
    task_id: str
    rpm: int
    tpm: int
    prompt_tokens: int
    answer_tokens: int

    @property
    def line(self) -> str:
        """Where it waits, as its task's record says it: see `leave_lines`."""
        return f"{self.bucket} {self.group}"


@dataclass(frozen=True, slots=True)
class Reserved:
    """A call may be made now; this is what was taken for it."""

    slot: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the service said of its own limits.

    Attributes:
        is_refused: It refused the call.
        hold_s: No call before so many seconds.
        rpm: Requests a minute it takes; 0 where it did not say.
        tpm: Tokens a minute, likewise.
    """

    is_refused: bool = False
    hold_s: float = 0.0
    rpm: int = 0
    tpm: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How full a bucket is.

    Attributes:
        rpm: Requests a minute that are kept, after what the service refused; 0 is no limit.
        tpm: Tokens a minute, likewise.
        calls: Made in the last minute.
        tokens: Of those calls.
        waiting: Calls that wait for their turn.
        hold_s: No call before so many seconds, as the service asked for.
    """

    rpm: float
    tpm: float
    calls: int
    tokens: int
    waiting: int
    hold_s: float


class LimitStore:
    """The buckets. Asked twice after a lost reply, a call counts twice, for a minute.

    Args:
        redis: Where they are.
        read_clock_ms: Another clock than Redis' own, which all who ask share.

    Attributes:
        minute_s: What counts as a minute.
    """

    def __init__(
        self, redis: RedisClient, *, read_clock_ms: Callable[[], int] | None = None
    ) -> None:
        self._redis = redis
        self._read_clock_ms = read_clock_ms
        self.minute_s = 60.0

    async def ask(self, call: Call) -> Reserved | float:
        """Return what was reserved for a call, or how many seconds to wait before it asks again."""
        numbers = [call.rpm, call.tpm, call.prompt_tokens, call.answer_tokens]
        match await self._run(call, "ask", [call.task_id, *numbers]):
            case ["go", slot, tokens]:
                return Reserved(int(slot), int(tokens))
            case [_, wait_ms]:
                return int(wait_ms) / 1000
            case reply:
                raise StoreError(f"The limit script answered {reply!r}: expected go or wait.")

    async def leave(self, call: Call) -> None:
        """Give up a place among those that wait."""
        await self._run(call, "leave", [call.task_id])

    async def settle(
        self, call: Call, reserved: Reserved, *, counted: tuple[int, int] | None, rates: Rates
    ) -> None:
        """Put what a call took in the place of what was reserved for it.

        Args:
            call: As it was asked for.
            reserved: What `ask` returned.
            counted: Tokens of prompt and answer; None where nobody knows.
            rates: What the service said.
        """
        prompt, answer = counted or ("", 0)
        taken = [reserved.slot, reserved.tokens, call.prompt_tokens, prompt, answer]
        told = [int(rates.is_refused), round(rates.hold_s * 1000), rates.rpm, rates.tpm]
        await self._run(call, "settle", [*taken, *told])

    async def read_levels(self, buckets: Sequence[str]) -> list[Level | None]:
        """Return how full buckets are, by one command; None where nobody keeps a limit."""
        if not buckets:
            return []
        keys = [limit_keys(bucket)[0] for bucket in buckets]
        try:
            [found] = await self._redis.run([["MGET", *keys]], is_urgent=True)
        except StoreRefusedError as exc:
            if "CROSSSLOT" not in str(exc):
                raise
            found = await self._redis.run([["GET", key] for key in keys])
        now_ms, minute_ms = self._now_ms(), self.minute_s * 1000
        return [text and find_level(json.loads(text), now_ms, minute_ms) for text in found]

    async def is_kept(self, bucket: str) -> bool:
        """Tell whether an app or a group asks for a limit there, by one command."""
        [text] = await self._redis.run([["GET", limit_keys(bucket)[0]]], is_urgent=True)
        return bool(text) and has_asked(json.loads(text), self._now_ms(), self.minute_s * 1000)

    def _now_ms(self) -> float:
        return self._read_clock_ms() if self._read_clock_ms else time.time() * 1000

    async def _run(self, call: Call, what: str, args: list[Any]) -> list[Any]:
        keys = limit_keys(call.bucket)
        now_ms = self._read_clock_ms() if self._read_clock_ms else ""
        head = [what, round(self.minute_s * 1000), now_ms, call.group]
        arguments = [len(keys), *keys, *head, *args]
        [reply] = await self._redis.run_script("limit", [arguments], is_urgent=True)
        return list(reply)


async def leave_lines(redis: RedisClient, lines: Mapping[str, str]) -> None:
    """Give up the places of tasks that were ended while they waited: others would wait for them.

    Args:
        redis: Where they are.
        lines: Where each waits, by its id: `Call.line`.
    """
    calls = []
    for task_id, line in lines.items():
        bucket, _, group = line.partition(" ")
        keys = limit_keys(bucket)
        calls.append([len(keys), *keys, "leave", 60_000, "", group, task_id])
    if calls:
        await redis.run_script("limit", calls)


def name_bucket(endpoint: str, model: str) -> str:
    """Name the bucket of a model at an endpoint."""
    return hashlib.sha256(f"{endpoint.rstrip('/')}\n{model}".encode()).hexdigest()[:24]


def has_asked(state: Mapping[str, Any], now_ms: float, minute_ms: float) -> bool:
    """Tell whether anybody asked for a limit in the last five minutes; takes `find_level`'s.

    What a service tells of its own limits is none: nobody has asked for it.
    """
    groups = [*(state.get("groups") or {}).values()]
    return any(
        (group.get("rpm") or group.get("tpm")) and now_ms < group.get("seen", 0) + 5 * minute_ms
        for group in groups
    )


def find_level(state: Mapping[str, Any], now_ms: float, minute_ms: float) -> Level | None:
    """Return how full a bucket is, or None where no limit is kept of it.

    Args:
        state: What `lua/limit.lua` keeps, which says what each of its fields is.
        now_ms: Unix milliseconds; another machine's clock may be behind the bucket's.
        minute_ms: What counts as a minute.
    """
    now_ms = max(now_ms, state.get("at", 0))
    groups = [*(state.get("groups") or {}).values()]  # of Lua, where an empty one is a list

    def find_least(name: str) -> float:
        told = state.get(name, 0) if now_ms < state.get("told", 0) + 10 * minute_ms else 0
        limits = [n for n in (told, *(group.get(name) or 0 for group in groups)) if n > 0]
        return float(min(limits, default=0) * state.get("factor", 1))

    rpm, tpm = find_least("rpm"), find_least("tpm")
    if not rpm and not tpm:
        return None
    width_ms = minute_ms / 60
    slots = [s for s in state.get("slots") or () if now_ms < (s[0] + 1) * width_ms + minute_ms]
    return Level(
        rpm=rpm,
        tpm=tpm,
        calls=int(sum(slot[1] for slot in slots)),
        tokens=int(sum(slot[2] for slot in slots)),
        waiting=int(sum(group.get("waiting") or 0 for group in groups)),
        hold_s=max(0.0, (state.get("hold", 0) - now_ms) / 1000),
    )
