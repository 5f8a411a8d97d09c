"""The time axis of an x-ray, on which long waits are cut short; values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from longtask_kit.log.timeline import WAITS
from longtask_kit.widgets.facts import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longtask_kit.log.timeline import Span

_CUT_SHARE = 0.22  # of what is not waiting: as wide as a wait that was cut is drawn
_CUT_FROM = 1.6  # times as long as that: a wait that is cut
_MOST_TICKS = 6
_APART = 0.1  # of the width, between two ticks


class Stretch(NamedTuple):
    """A stretch of the axis: seconds, and where it is drawn, from 0 to 1."""

    begin_s: float
    end_s: float
    left: float
    right: float
    is_cut: bool


class Tick(NamedTuple):
    """A mark on the axis."""

    place: float
    word: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Where on the axis each second is drawn."""

    stretches: tuple[Stretch, ...]

    def find_place(self, at_s: float) -> float:
        """Return where a second is drawn, from 0 to 1."""
        for begin, end, left, right, _ in self.stretches:
            if at_s <= end and end > begin:
                return left + (right - left) * max(0.0, at_s - begin) / (end - begin)
        return 1.0

    def list_ticks(self) -> list[Tick]:
        """Return the marks: round times where the axis is whole, `⋯` where it was cut."""
        ticks = [
            Tick((left + right) / 2, "⋯") for _, _, left, right, is_cut in self.stretches if is_cut
        ]
        shown_s = sum(s.end_s - s.begin_s for s in self.stretches if not s.is_cut)
        width = sum(s.right - s.left for s in self.stretches if not s.is_cut)
        if shown_s <= 0:
            return ticks
        step_s = _find_step_s(shown_s / max(width, 0.01) / _MOST_TICKS)
        for begin, end, *_, is_cut in self.stretches:
            number = -(-begin // step_s)
            while not is_cut and number * step_s <= end:
                place = self.find_place(number * step_s)
                if all(abs(place - tick.place) >= _APART for tick in ticks):
                    ticks.append(Tick(place, format_tick(number * step_s)))
                number += 1
        return sorted(ticks)


def make_scale(total_s: float, waits: Iterable[tuple[float, float]]) -> Scale:
    """Return the scale of an axis.

    Args:
        total_s: Where it ends.
        waits: Stretches in which nothing happened, `(begin, end)` in seconds.
    """
    idle = _merge(waits)
    busy_s = total_s - sum(end - begin for begin, end in idle)
    cut_s = busy_s * _CUT_SHARE
    cuts = [(b, e) for b, e in idle if busy_s > 0 and e - b > _CUT_FROM * cut_s]
    if sum(end - begin for begin, end in cuts) < total_s * 0.1:
        cuts = []
    parts: list[tuple[float, float, bool]] = []
    at = 0.0
    for begin, end in cuts:
        parts += [(at, begin, False), (begin, end, True)]
        at = end
    parts = [part for part in [*parts, (at, total_s, False)] if part[1] > part[0]]
    lengths = [cut_s if is_cut else end - begin for begin, end, is_cut in parts]
    whole = sum(lengths) or 1.0
    stretches, left = [], 0.0
    for (begin, end, is_cut), length in zip(parts, lengths, strict=True):
        right = left + length / whole
        stretches.append(Stretch(begin, end, left, right, is_cut))
        left = right
    return Scale(tuple(stretches))


def make_scale_of_spans(spans: Iterable[Span], total_s: float) -> Scale:
    """Return the scale of an axis that is cut where none of them does anything."""
    busy = [(span.begin_s, span.end_s) for span in spans if span.kind not in WAITS]
    return make_scale(max(total_s, 0.001), _list_waits(busy, total_s))


def _list_waits(busy: Iterable[tuple[float, float]], total_s: float) -> list[tuple[float, float]]:
    """Return the stretches up to the end in which nothing happened, `(begin, end)` in seconds."""
    waits, at = [], 0.0
    for begin, end in [*sorted(busy), (total_s, total_s)]:
        if begin > at:
            waits.append((at, begin))
        at = max(at, end)
    return waits


def _merge(waits: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(waits):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _find_step_s(least_s: float) -> float:
    """Return the smallest round time that is not shorter."""
    unit = 0.001
    while True:
        for factor in (1, 2, 5) if unit < 60 else (1, 2, 5, 10, 15, 30):
            if factor * unit >= least_s:
                return factor * unit
        unit = unit * 10 if unit < 10 else unit * 60 if unit >= 60 else 60.0


def format_tick(at_s: float) -> str:
    """Write 0, 250 ms, 1.5 s, 2 min, 3 h."""
    if at_s == 0:
        return "0"
    if at_s < 1:
        return f"{at_s * 1000:.0f} ms"
    if at_s < 120:
        return f"{at_s:.10g} s" if at_s < 10 else f"{at_s:.0f} s"
    if at_s >= 3600:
        return f"{at_s / 3600:.0f} h" if at_s % 3600 == 0 else format_duration(at_s * 1000)
    return f"{at_s / 60:.0f} min" if at_s % 60 == 0 else format_duration(at_s * 1000)
