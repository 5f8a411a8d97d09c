"""What every benchmark gives: rows of numbers, and how busy the machine was meanwhile."""

from __future__ import annotations

import math
import os
import platform
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PROC_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        benchmark: Which benchmark it is from.
        what: What the numbers are.
        unit: `s`, `ms`, `tok/s`, `x` (a ratio), or a noun that is counted.
        values: One for each run, at least one.
        aim: The median should not be above it; None where nothing is promised.
        is_floor: The median should not be below it, instead.
        note: One fact about the last run, or nothing.
        who: Of several that are compared; such rows are printed as a table of their own.
        column: Which of its figures this is, in that table.
    """

    benchmark: str
    what: str
    unit: str
    values: Sequence[float]
    aim: float | None = None
    is_floor: bool = False
    note: str = ""
    who: str = ""
    column: str = ""

    @property
    def median(self) -> float:
        """Half of the runs were no worse."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the aim was met; None where there is none."""
        if self.aim is None:
            return None
        return self.median >= self.aim if self.is_floor else self.median <= self.aim

    def to_wire(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        return {
            "benchmark": self.benchmark,
            "what": self.what,
            "unit": self.unit,
            "min": min(self.values),
            "median": self.median,
            "max": max(self.values),
            "runs": len(self.values),
            "aim": self.aim,
            "is_floor": self.is_floor,
            "met": self.is_met,
            "note": self.note,
            "who": self.who,
            "column": self.column,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and when the numbers were taken.

    Attributes:
        others_share: Part of all cores' time that went to processes which are not ours, or to
            other machines on the same host, 0 to 1; None where the system does not tell.
    """

    cores: int
    python: str
    system: str
    elapsed_s: float
    others_share: float | None

    def describe(self) -> str:
        """Say it in one line."""
        share = self.others_share
        busy = "unknown on this system" if share is None else f"{share:.0%}"
        return (
            f"{self.cores} cores, Python {self.python}, {self.system}; {self.elapsed_s:.0f} s; "
            f"CPU taken by others: {busy}"
        )


class CpuMeter:
    """Tells how much of the machine others used since it was made.

    Our children count only once they have been waited for: read it after all of them ended.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy_s, self._own_s = _read_busy_s(), _read_own_s()

    def read(self) -> Machine:
        """Return the machine, and its load from then to now."""
        elapsed_s = time.perf_counter() - self._started
        cores = os.cpu_count() or 1
        busy_s, share = _read_busy_s(), None
        if self._busy_s is not None and busy_s is not None:
            others_s = (busy_s - self._busy_s) - (_read_own_s() - self._own_s)
            share = min(1.0, max(0.0, others_s / (elapsed_s * cores)))
        return Machine(
            cores=cores,
            python=platform.python_version(),
            system=f"{platform.system()} {platform.machine()}",
            elapsed_s=elapsed_s,
            others_share=share,
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all do not exceed (nearest rank)."""
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


def time_s(work: Callable[[], object]) -> float:
    """Return how long a call takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _read_busy_s() -> float | None:
    """Seconds that all cores together were not idle since boot, stolen time included."""
    if sys.platform != "linux":
        return None
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    fields = map(int, _PROC_STAT.read_text().split("\n", 1)[0].split()[1:])
    ticks = dict(zip(names, fields, strict=False))  # guest time after these is in `user` already
    busy = sum(ticks.values()) - ticks["idle"] - ticks["iowait"]
    return float(busy / os.sysconf("SC_CLK_TCK"))


def _read_own_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
