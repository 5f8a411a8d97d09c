"""What is asked of a contestant, what its readers saw, and the figures of it."""

from __future__ import annotations

import hashlib
import statistics
from dataclasses import dataclass, field

from tests.benchmarks.measure import percentile
from tests.benchmarks.stamped_model import TOKEN_CHARS, read_clock, read_delay_ms

_STEADY = (0.1, 0.9)  # of all tokens, in the order they came: what is between is no start-up


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
    """One run in numbers; throughput and delay are those of the middle four fifths of its tokens.

    Attributes:
        rate: Tokens a second, of all tasks together.
        delay_p50: From the model's stamp to the reader, milliseconds.
        delay_p99: As before.
        first_p50: From asking to the first text, of all tasks, milliseconds.
        first_p99: As before.
        cpu_us: CPU time of all processes, per token of the whole run, microseconds.
        seconds: From a task's first token to its last, median of all tasks.
    """

    rate: float
    delay_p50: float
    delay_p99: float
    first_p50: float
    first_p99: float
    cpu_us: float
    seconds: float

    @classmethod
    def of(cls, readings: list[Reading], cpu_s: float) -> Figures:
        """Work out the figures of a run."""
        arrivals = sorted(a for reading in readings for a in reading.list_arrivals())
        begin, end = (round(part * len(arrivals)) for part in _STEADY)
        steady = arrivals[begin : max(end, begin + 1)]
        span_s = max((steady[-1][0] - steady[0][0]) / 1e5, 1e-5)
        delays = [delay for _, delay in steady]
        firsts = [reading.first_ms for reading in readings]
        return cls(
            rate=max(len(steady) - 1, 1) / span_s,
            delay_p50=percentile(delays, 50),
            delay_p99=percentile(delays, 99),
            first_p50=percentile(firsts, 50),
            first_p99=percentile(firsts, 99),
            cpu_us=cpu_s / len(arrivals) * 1e6,
            seconds=statistics.median(reading.seconds for reading in readings),
        )


COLUMNS = {
    "rate": ("read", "tok/s"),
    "delay_p50": ("delay p50", "ms"),
    "delay_p99": ("delay p99", "ms"),
    "first_p50": ("first p50", "ms"),
    "first_p99": ("first p99", "ms"),
    "cpu_us": ("CPU a token", "µs"),
}
"""The figures that are shown, with a title and their unit."""
