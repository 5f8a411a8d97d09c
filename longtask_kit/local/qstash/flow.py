"""Flow control: how many messages of a key run at once, and start in a period; no I/O.

Wire doc, section 7: the last message's configuration counts unless it is pinned, retries pass
through too, and a rate's period begins with the first start in it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from longtask_kit.local.qstash.delays import parse_duration_s
from longtask_kit.local.qstash.errors import HeaderError

MAX_PERIOD_S = 7 * 86_400
MAX_LIMIT = 1_000_000

_KEY = re.compile(r"[^/\s]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLimits:
    """What a message asks for its key."""

    key: str
    parallelism: int | None
    rate: int | None
    period_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """What holds for a key, as it is stored; None is no limit."""

    parallelism: int | None = None
    rate: int | None = None
    period_s: int = 1
    is_paused: bool = False
    is_pinned_parallelism: bool = False
    is_pinned_rate: bool = False

    def given(
        self, parallelism: int | None, rate: int | None, period_s: int | None
    ) -> FlowSettings:
        """Return the settings after a message with these limits; what is pinned stays."""
        changed: dict[str, Any] = {}
        if not self.is_pinned_parallelism:
            changed["parallelism"] = parallelism
        if not self.is_pinned_rate:
            changed |= {"rate": rate, "period_s": period_s or 1}
        return dataclasses.replace(self, **changed)


class FlowGate:
    """One key: who waits, who runs, and how many started in the present period."""

    def __init__(
        self, settings: FlowSettings, *, period_start_ms: int = 0, started: int = 0
    ) -> None:
        self.settings = settings
        self.waiting: dict[str, None] = {}
        self.running: set[str] = set()
        self.period_start_ms = period_start_ms
        self.started = started

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, runs or was set by hand."""
        by_hand = (
            self.settings.is_paused
            or self.settings.is_pinned_parallelism
            or self.settings.is_pinned_rate
        )
        return not (self.waiting or self.running or by_hand)

    def period_end_ms(self) -> int:
        """When the present period ends, in unix ms."""
        return self.period_start_ms + self.settings.period_s * 1000

    def started_at(self, time_ms: int) -> int:
        """Return how many starts count against the rate at a time."""
        return self.started if time_ms < self.period_end_ms() else 0

    def start_next(self, time_ms: int) -> str | None:
        """Take the first that waits, if the key lets another one start now."""
        if not self.waiting or self.settings.is_paused or self._is_full():
            return None
        if self.started == 0 or time_ms >= self.period_end_ms():
            self.period_start_ms, self.started = time_ms, 0
        if self.settings.rate is not None and self.started >= self.settings.rate:
            return None
        message_id = next(iter(self.waiting))
        del self.waiting[message_id]
        self.running.add(message_id)
        self.started += 1
        return message_id

    def wake_ms(self) -> int | None:
        """When a message could start by the mere passing of time, in unix ms."""
        if not self.waiting or self.settings.is_paused or self._is_full():
            return None
        return self.period_end_ms()

    def leave(self, message_id: str) -> None:
        """Forget a message, whether it waits or runs."""
        self.waiting.pop(message_id, None)
        self.running.discard(message_id)

    def reset_rate(self, time_ms: int) -> None:
        """Begin a new period, with nothing started in it."""
        self.period_start_ms, self.started = time_ms, 0

    def _is_full(self) -> bool:
        most = self.settings.parallelism
        return most is not None and len(self.running) >= most


def parse_flow_limits(key: str, value: str) -> FlowLimits | None:
    """Return what the `Upstash-Flow-Control-*` headers ask for, None without a key.

    Raises:
        HeaderError: A part isn't `parallelism=<n>`, `rate=<n>` or `period=<duration>`.
    """
    if not key:
        if value:
            raise HeaderError("Upstash-Flow-Control-Value needs an Upstash-Flow-Control-Key")
        return None
    if _KEY.fullmatch(key) is None:
        raise HeaderError(
            f"invalid Upstash-Flow-Control-Key: expected up to 200 characters without slash or "
            f"space, got {key[:80]!r}"
        )
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, _, number = part.partition("=")
        if name.strip().lower() not in ("parallelism", "rate", "period"):
            raise HeaderError(
                "invalid Upstash-Flow-Control-Value: expected parallelism=<n>, rate=<n> and "
                f"period=<duration>, got {part[:80]!r}"
            )
        found[name.strip().lower()] = number.strip()
    return FlowLimits(
        key=key,
        parallelism=parse_limit("parallelism", found.get("parallelism")),
        rate=parse_limit("rate", found.get("rate")),
        period_s=parse_period_s(found.get("period")),
    )


def parse_limit(name: str, text: str | None) -> int | None:
    """Return a limit of flow control, None if none is given.

    Raises:
        HeaderError: It isn't a whole number from 1 on.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_LIMIT):
        raise HeaderError(
            f"invalid flow control {name}: expected 1 to {MAX_LIMIT}, got {text[:80]!r}"
        )
    return int(text)


def parse_period_s(text: str | None) -> int:
    """Return a period in seconds, 1 if none is given; a bare number is seconds too.

    Raises:
        MalformedRequestError: It isn't a duration from one second to a week.
    """
    if text is None:
        return 1
    period_s = parse_duration_s(f"{text}s" if text.isdigit() else text)
    if not 1 <= period_s <= MAX_PERIOD_S:
        raise HeaderError(f"invalid flow control period: expected 1s to 7d, got {text[:80]!r}")
    return period_s
