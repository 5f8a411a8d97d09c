"""The tasks of a group on one time axis: which are drawn, what overlapped; values only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.log.timeline import MODEL, Kind, Timeline
from longtask_kit.widgets.facts import format_duration
from longtask_kit.widgets.xray_scale import Scale, make_scale_of_spans

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from longtask_kit.log.changes import Change

MOST_ROWS = 60


def choose_ids(
    ids: Sequence[str], states: Mapping[str, Change], *, since_ms: int, most: int = MOST_ROWS
) -> list[str]:
    """Return the tasks that are drawn, in their order: what runs, then what failed, then the rest.

    Args:
        ids: All of a group's; those that are not there any more are left out.
        states: What is known of them.
        since_ms: When the group last began; what ended before was kept, and comes last.
        most: How many there is room for.
    """
    there = [i for i in ids if i not in states or states[i].status is not None]
    ranked = sorted(there, key=lambda i: _rank(states.get(i), since_ms))  # stable
    chosen = set(ranked[:most])
    return [i for i in there if i in chosen]


def _rank(state: Change | None, since_ms: int) -> int:
    match state and state.status:
        case "running" | "retrying":
            return 0
        case "failed":
            return 1
    was_kept = (
        state is not None
        and state.status in TERMINAL_STATUSES
        and state.updated_ms is not None
        and state.updated_ms < since_ms
    )
    return 3 if was_kept else 2


class Line(NamedTuple):
    """A task's line.

    Attributes:
        row: Its first row in the group.
        name: What it was asked.
    """

    row: int
    name: str
    timeline: Timeline


class GroupTimes(NamedTuple):
    """The tasks of a group on one time axis.

    Attributes:
        lines: Those that are drawn, in the order of their rows.
        hidden: How many more there are.
        total_s: Where the axis ends.
        word: The state of the whole group, as people read it.
        mood: Its colour.
    """

    lines: list[Line]
    hidden: int
    total_s: float
    word: str
    mood: str

    def count_most(self, *kinds: Kind) -> int:
        """Return how many were in spans of these kinds at once, at most."""
        return max((count for _, count in list_counts(self.lines, kinds)), default=0)

    def count_s(self, *kinds: Kind) -> float:
        """Return how long spans of these kinds took together."""
        return sum(line.timeline.count_s(*kinds) for line in self.lines)


def make_group_scale(times: GroupTimes) -> Scale:
    """Return the scale of a group's axis: cut where all of them wait."""
    attempts = (attempt for line in times.lines for attempt in line.timeline.attempts)
    spans = (span for attempt in attempts for span in attempt.spans)
    return make_scale_of_spans(spans, times.total_s)


def list_counts(lines: Sequence[Line], kinds: Collection[Kind]) -> list[tuple[float, int]]:
    """Return how many are in spans of these kinds from when on: `(second, count)`, in order."""
    steps: Counter[float] = Counter()
    for line in lines:
        for attempt in line.timeline.attempts:
            for span in attempt.spans:
                if span.kind in kinds:
                    steps[span.begin_s] += 1
                    steps[span.end_s] -= 1
    count, told = 0, []
    for at, step in sorted(steps.items()):
        count += step
        told.append((at, count))
    return told


_SPENT: tuple[tuple[str, Kind], ...] = (
    ("queue", "queue"),
    ("limit", "limit"),
    ("retries", "retry"),
)


def list_figures(times: GroupTimes) -> list[tuple[str, str, str]]:
    """Return the figures of the head as (before, value, after)."""
    figures = [
        ("", f"{len(times.lines) + times.hidden:,}", " tasks"),
        *([("", f"{len(times.lines):,}", " drawn, of them")] if times.hidden else []),
        ("", format_duration(1000 * times.total_s), " in all"),
        ("at most ", str(times.count_most(*MODEL)), " at once"),
    ]
    rows = max(1, len(times.lines))
    for name, kind in _SPENT:
        if spent_s := times.count_s(kind):
            figures.append((f"{name} ", format_duration(1000 * spent_s / rows), " each"))
    firsts = [line.timeline.count_s("first") for line in times.lines]
    if firsts:
        middle = sorted(firsts)[len(firsts) // 2]
        figures.append(("first token ", format_duration(1000 * middle), ""))
    return figures


def list_moments(times: GroupTimes) -> list[list[Any]]:
    """Return what went on at which time in words, `[from ms, words]`."""
    told = {
        name: list_counts(times.lines, kinds)
        for name, kinds in (
            ("at work", tuple(MODEL)),
            ("waiting for the limit", ("limit",)),
            ("in the queue", ("queue", "delivery")),
            ("waiting for the next try", ("retry", "silence")),
        )
    }
    moments = sorted({at for counts in told.values() for at, _ in counts})
    moments = [*moments[: -1 : max(1, len(moments) // 300)], *moments[-1:]]
    now = dict.fromkeys(told, 0)
    lists = {name: iter(counts) for name, counts in told.items()}
    ahead = {name: next(counts, None) for name, counts in lists.items()}
    lines = []
    for at in moments:
        for name in told:
            while (step := ahead[name]) is not None and step[0] <= at:
                now[name] = step[1]
                ahead[name] = next(lists[name], None)
        words = ", ".join(f"{count} {name}" for name, count in now.items() if count)
        lines.append([round(1000 * at), words or "all have ended"])
    return lines
