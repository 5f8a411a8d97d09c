"""What is asked of a contestant, what its readers saw, and the figures of it."""

from __future__ import annotations

import hashlib
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.benchmarks.measure import percentile
from tests.benchmarks.stamped_model import TOKEN_CHARS, read_clock, read_delay_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIDDLE = (0.1, 0.9)  # of all tokens, in the order they came


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is asked for: `tasks` at once, each at `rate` tokens a second (0: any)."""

    tasks: int
    rate: int

    def __str__(self) -> str:
        pace = f"{self.rate} tok/s" if self.rate else "unlimited"
        return f"{self.tasks} x {pace}"


@dataclass(slots=True)
class Reading:
    """What one reader saw of one task: pieces of text, looked into when all is over."""

    asked: int = field(default_factory=read_clock)
    pieces: list[tuple[int, str]] = field(default_factory=list)

    def take(self, text: str) -> None:
        """Take a piece in; it may hold several tokens."""
        self.pieces.append((read_clock(), text))

    @property
    def digest(self) -> str:
        """SHA-256 of the whole text."""
        text = "".join(text for _, text in self.pieces)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def first_ms(self) -> float:
        """From asking to the first text."""
        return (self.pieces[0][0] - self.asked) / 100

    @property
    def seconds(self) -> float:
        """From the first text to the last."""
        return (self.pieces[-1][0] - self.pieces[0][0]) / 1e5

    def list_arrivals(self) -> list[tuple[int, float]]:
        """Return when each token was whole, on the clock, and how long it took, in milliseconds."""
        arrivals = []
        rest = ""
        for now, text in self.pieces:
            rest += text
            whole = len(rest) - len(rest) % TOKEN_CHARS
            arrivals += [
                (now, read_delay_ms(rest[at : at + TOKEN_CHARS], now))
                for at in range(0, whole, TOKEN_CHARS)
            ]
            rest = rest[whole:]
        return arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run in numbers; all but the start-up's are of its steady part.

    Attributes:
        rate: Tokens a second, of all tasks together.
        delay_p50: From the model's stamp to the reader, milliseconds.
        delay_p99: As before.
        first_p50: Start-up: from asking to the first text, of all tasks, milliseconds.
        first_p99: As before.
        cpu_us: CPU time of all processes a token, microseconds.
        seconds: From a task's first token to its last, median of all tasks.
        start_s: From the first asking until all tasks have had their first text.
    """

    rate: float
    delay_p50: float
    delay_p99: float
    first_p50: float
    first_p99: float
    cpu_us: float
    seconds: float
    start_s: float

    @classmethod
    def of(cls, readings: list[Reading], used: Sequence[tuple[int, float]]) -> Figures:
        """Work out the figures of a run.

        Args:
            readings: One of each task.
            used: The CPU seconds of all processes at several times on the clock, in order.
        """
        arrivals = sorted(a for reading in readings for a in reading.list_arrivals())
        begin, end = _find_steady_part(readings, arrivals)
        delays = [delay for now, delay in arrivals if begin < now <= end]
        firsts = [reading.first_ms for reading in readings]
        cpu_s = _interpolate(used, end) - _interpolate(used, begin)
        return cls(
            rate=len(delays) / (end - begin) * 1e5,
            delay_p50=percentile(delays, 50),
            delay_p99=percentile(delays, 99),
            first_p50=percentile(firsts, 50),
            first_p99=percentile(firsts, 99),
            cpu_us=cpu_s / len(delays) * 1e6,
            seconds=statistics.median(reading.seconds for reading in readings),
            start_s=_find_start(readings)[1] / 1e5,
        )


def _find_start(readings: list[Reading]) -> tuple[int, int]:
    """Return when the first task was asked for, and how long until all had their first text."""
    asked = min(reading.asked for reading in readings)
    return asked, max(reading.pieces[0][0] for reading in readings) - asked


def _find_steady_part(
    readings: list[Reading], arrivals: list[tuple[int, float]]
) -> tuple[int, int]:
    """Return the time in which every task runs, none is late from its start, and none has ended.

    It begins when all have had their first text, and as long again to catch up. Where the tasks
    are too short for that, or take turns, it is the middle four fifths of the tokens.
    """
    asked, start = _find_start(readings)
    begin, end = asked + 2 * start, min(reading.pieces[-1][0] for reading in readings)
    first, last = (arrivals[round(part * (len(arrivals) - 1))][0] for part in _MIDDLE)
    if end - begin < (last - first) / 2:
        begin, end = first, last
    return min(begin, end - 1), end  # not empty, should all have come in one piece


def _interpolate(used: Sequence[tuple[int, float]], at: int) -> float:
    before = max((one for one in used if one[0] <= at), default=used[0])
    after = min((one for one in used if one[0] >= at), default=used[-1])
    if after[0] <= before[0]:
        return before[1]
    return before[1] + (after[1] - before[1]) * (at - before[0]) / (after[0] - before[0])


COLUMNS = {
    "rate": ("read", "tok/s"),
    "delay_p50": ("delay p50", "ms"),
    "delay_p99": ("delay p99", "ms"),
    "first_p50": ("first p50", "ms"),
    "first_p99": ("first p99", "ms"),
    "cpu_us": ("CPU a token", "µs"),
}
"""The figures that are shown, with a title and their unit."""
