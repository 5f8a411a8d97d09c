"""What a dashboard's page draws: rows, figures, the side; values only.

The protocol with `js/src/dashboard.js`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtask_kit.client.overview import (
    choose_lines,
    describe_counts,
    find_rows,
    find_stage,
    fold_lines,
)
from longtask_kit.log.events import to_ms
from longtask_kit.log.text import make_printable
from longtask_kit.widgets.group_facts import format_cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.client.overview import Limit, Line, Side
    from longtask_kit.log.groups import GroupRecord

STAGES = ("running", "waiting", "failed", "done")
KINDS = {"running": "run", "waiting": "wait", "failed": "bad", "done": "good"}
SHOWN_LETTERS = 5
_MAX_WINDOW = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardFacts:
    """What stands above and beside the table.

    Attributes:
        counts: Tasks by stage.
        notice: What a button led to, or why nothing is heard.
    """

    counts: Mapping[str, int]
    groups: int
    tokens: int
    cost: float | None
    side: Side
    notice: str = ""

    @classmethod
    def of(cls, lines: Sequence[Line], side: Side, *, notice: str = "") -> DashboardFacts:
        """Return the facts of all tasks."""
        costs = [line.cost for line in lines if line.cost is not None]
        return cls(
            counts=Counter(line.stage for line in lines),
            groups=len({line.group_id for line in lines if line.group_id}),
            tokens=sum(line.tokens or 0 for line in lines),
            cost=sum(costs) if costs else None,
            side=side,
            notice=notice,
        )

    @property
    def stage(self) -> str:
        """What is going on, as one of the stages; what failed is over."""
        stage = find_stage(self.counts)
        return stage if stage in ("running", "waiting") else "done"

    @property
    def word(self) -> str:
        """The same as people read it."""
        if not sum(self.counts.values()):
            return "no tasks yet"
        return {"done": "all ended"}.get(self.stage, self.stage)

    def list_figures(self) -> list[tuple[str, str, str]]:
        """Return figures as (before, value, after)."""
        tasks = sum(self.counts.values())
        figures = [("", f"{tasks:,}", " task" if tasks == 1 else " tasks")]
        if self.groups:
            figures.append(("", f"{self.groups:,}", " group" if self.groups == 1 else " groups"))
        figures += [("", f"{n:,}", f" {stage}") for stage in STAGES if (n := self.counts[stage])]
        if self.tokens:
            figures.append(("", f"{self.tokens:,}", " tokens"))
        if self.cost is not None:
            figures.append(("", format_cost(self.cost), ""))
        return figures

    def to_wire(self) -> dict[str, Any]:
        """Return what the page draws."""
        return {
            "id": "dashboard",
            "note": {"dashboard": True},
            "word": self.word,
            "kind": KINDS[self.stage],
            "figures": self.list_figures(),
            "counts": {stage: self.counts[stage] for stage in STAGES},
            "notice": self.notice,
            "side": write_side(self.side),
        }


def write_side(side: Side) -> dict[str, Any]:
    """Return what stands beside the table, as the page has it."""
    queue = side.queue
    return {
        "health": [
            [
                one.service,
                one.is_well,
                "" if one.latency_ms is None else f"{one.latency_ms:,.0f} ms",
                make_printable(one.detail),
            ]
            for one in side.health
        ],
        "queue": queue
        and {
            "waiting": queue.waiting,
            "inFlight": queue.in_flight,
            "dead": [
                [one.dead_letter_id, make_printable(one.reason), one.task_id]
                for one in queue.dead[:SHOWN_LETTERS]
            ],
            "deadCount": len(queue.dead),
        },
        "limits": [
            [make_printable(limit.model), *level] for limit in side.limits for level in _fill(limit)
        ],
        "notes": list(side.notes),
        "error": make_printable(side.error),
    }


def _fill(limit: Limit) -> list[list[Any]]:
    """Return of each kind that is limited: share used, in words, what waits."""
    level, found = limit.level, []
    waits = f"{level.waiting:,} wait" if level.waiting else ""
    if level.hold_s >= 1:
        waits = f"{waits}{', ' if waits else ''}held for {level.hold_s:.0f} s"
    for used, most, what in (
        (level.calls, level.rpm, "requests"),
        (level.tokens, level.tpm, "tokens"),
    ):
        if most:
            words = f"{used:,} of {most:,.0f} {what} a minute"
            found.append([round(min(1.0, used / most), 3), words, waits])
    return found


def write_line(line: Line) -> list[Any]:
    """Return a row as the page has it."""
    return [
        line.line_id,
        line.rows,
        line.stage,
        line.word,
        line.prompt,
        line.model,
        line.attempt,
        to_ms(line.created),
        "" if line.rate is None else f"{line.rate:,.0f}",
        "" if line.cost is None else format_cost(line.cost),
        line.error,
        line.group_id,
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardQuery:
    """Which rows a view shows.

    Attributes:
        begin: Number of the first one, among those that match.
        size: How many.
        group_id: Only tasks of this group; empty for all, each group as one row.
    """

    begin: int = 0
    size: int = 40
    stage: str = ""
    word: str = ""
    group_id: str = ""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> DashboardQuery:
        """Read what a page asks; what makes no sense is as if it were not there."""
        stage = wire.get("stage")
        return cls(
            begin=_read_count(wire.get("begin"), 0, 10**6),
            size=_read_count(wire.get("size"), 40, _MAX_WINDOW),
            stage=stage if stage in STAGES else "",
            word=str(wire.get("word") or "").strip()[:200],
            group_id=str(wire.get("group") or "")[:100],
        )

    def show(
        self, lines: Sequence[Line], groups: Mapping[str, GroupRecord | None]
    ) -> dict[str, Any]:
        """Return its window into the rows, and what is to be said of the group it shows."""
        chosen = choose_lines(
            lines, groups, stage=self.stage, word=self.word, group_id=self.group_id
        )
        begin = max(0, min(self.begin, len(chosen) - self.size))
        window = chosen[begin : begin + self.size]
        return {
            "begin": begin,
            "total": len(chosen),
            "rows": [write_line(line) for line in window],
            "group": self._describe_group(lines, groups),
        }

    def _describe_group(
        self, lines: Sequence[Line], groups: Mapping[str, GroupRecord | None]
    ) -> dict[str, Any] | None:
        own = [line for line in lines if line.group_id == self.group_id]
        if not self.group_id or not own:
            return None
        counts = Counter(line.stage for line in find_rows(own, groups.get(self.group_id)))
        [folded] = fold_lines(own, groups)
        return {
            "id": self.group_id,
            "name": folded.prompt,
            "word": describe_counts(counts),
            "failed": counts["failed"],
            "open": counts["running"] + counts["waiting"],
        }


def _read_count(value: object, default: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return default
    return min(value, most)
