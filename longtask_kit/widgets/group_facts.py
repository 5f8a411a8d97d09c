"""What a group's view says: figures, the rows of its table, which of them are shown; values only.

The protocol with `js/src/group.js`: it draws what the two `to_wire` here name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from longtask_kit.client.group_watch import STAGES
from longtask_kit.log.finish import describe_finish
from longtask_kit.log.text import make_printable
from longtask_kit.widgets.facts import GONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.log.changes import Change

_CELL_CHARS = 160
_MAX_WINDOW = 200
_PLACES = ("done", "running", "waiting", "failed", "skipped")
Sort = Literal["row", "status", "prompt", "answer", "tokens", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """A row of the table.

    Attributes:
        stage: `done`, `running`, `waiting`, `failed` or `skipped`.
        word: The same, but of an answer that was cut off, filtered or refused that.
        answer: What its answer begins with, or why there is none.
        task_id: Of its card; None for a row that was left out.
    """

    row: int
    stage: str
    word: str
    prompt: str
    answer: str
    tokens: int | None
    run_ms: int | None
    task_id: str | None

    def to_wire(self) -> list[Any]:
        """Return its values in their order, as the page has it."""
        return [getattr(self, own.name) for own in fields(self)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What stands above the table.

    Attributes:
        counts: Rows by stage.
        word: The state as people read it.
        kind: Its colour: `run`, `wait`, `good`, `bad`, `warn` or `quiet`.
        odd_ends: Done rows by why their answers are not whole.
        stop: Why it stopped before its end, and how it goes on.
        left_s: Seconds until all have ended, as far as one can tell.
        notice: What a button led to, or why nothing is heard.
        source: Where its answers were replayed from, if they were.
    """

    group_id: str
    name: str
    counts: Mapping[str, int]
    word: str
    kind: str
    tokens: int
    cost: float | None
    rate: float | None
    left_s: float | None
    odd_ends: Mapping[str, int] = field(default_factory=dict)
    stop: str = ""
    notice: str = ""
    source: str = ""

    @property
    def is_over(self) -> bool:
        """Whether every row has ended."""
        return not (self.counts["running"] or self.counts["waiting"])

    def list_figures(self, *, is_live: bool) -> list[tuple[str, str, str]]:
        """Return figures as (before, value, after); a saved form has no rates, which would be old.

        Args:
            is_live: Whether it is drawn again.
        """
        rows = sum(self.counts.values())
        figures = [("", f"{rows:,}", " row" if rows == 1 else " rows")]
        figures += [("", f"{n:,}", f" {stage}") for stage in _PLACES if (n := self.counts[stage])]
        figures += [("", f"{n:,}", f" ended by {word}") for word, n in self.odd_ends.items()]
        if self.tokens:
            figures.append(("", _shorten(self.tokens), " tokens"))
        if self.cost is not None:
            figures.append(("", format_cost(self.cost), ""))
        if is_live and self.rate is not None and not self.is_over:
            figures.append(("", *_format_rate(self.rate)))
        if is_live and self.left_s is not None:
            figures.append(("", _format_left(self.left_s), " left"))
        if self.source:
            figures.append(("", self.source, ""))
        return figures

    def to_wire(self) -> dict[str, Any]:
        """Return what the page draws."""
        return {
            "groupId": self.group_id,
            "title": self.name or "group",
            "word": self.word,
            "kind": self.kind,
            "figures": self.list_figures(is_live=True),
            "bar": [self.counts[stage] for stage in ("done", "running", "failed", "waiting")],
            "counts": {stage: self.counts[stage] for stage in _PLACES},
            "notice": self.notice or self.stop,
            "isOver": self.is_over,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which rows a view shows.

    Attributes:
        begin: Number of the first one, among those that match.
        size: How many.
        stage: Only these; empty for all.
        word: Only those whose prompt or answer has it.
    """

    begin: int = 0
    size: int = 40
    sort: Sort = "row"
    is_descending: bool = False
    stage: str = ""
    word: str = ""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Query:
        """Read what a page asks; what makes no sense is as if it were not there."""
        sort = wire.get("sort")
        stage = wire.get("stage")
        return cls(
            begin=_read_count(wire.get("begin"), 0, 10**9),
            size=_read_count(wire.get("size"), 40, _MAX_WINDOW),
            sort=sort if sort in _SORTS else "row",
            is_descending=wire.get("isDescending") is True,
            stage=stage if stage in _PLACES else "",
            word=str(wire.get("word") or "").strip().casefold()[:200],
        )

    def choose(self, rows: Sequence[RowFacts]) -> list[RowFacts]:
        """Return all rows that match, in the order asked for."""
        chosen = [row for row in rows if self._matches(row)]
        if self.sort == "row":
            return chosen[::-1] if self.is_descending else chosen
        key = _SORTS[self.sort]
        known = [row for row in chosen if key(row) is not None]
        # What is not known comes last either way.
        unknown = [row for row in chosen if key(row) is None]
        return sorted(known, key=key, reverse=self.is_descending) + unknown

    def _matches(self, row: RowFacts) -> bool:
        if self.stage and row.stage != self.stage:
            return False
        return not self.word or self.word in f"{row.prompt}\n{row.answer}".casefold()


_STAGE_ORDER = {stage: at for at, stage in enumerate(("failed", "running", "waiting", "done"))}
_SORTS: dict[str, Any] = {
    "row": lambda row: row.row,
    "status": lambda row: _STAGE_ORDER.get(row.stage, len(_STAGE_ORDER)),
    "prompt": lambda row: row.prompt.casefold(),
    "answer": lambda row: row.answer.casefold() or None,
    "tokens": lambda row: row.tokens,
    "time": lambda row: row.run_ms,
}


def make_row(row: int, task_id: str | None, state: Change | None, prompt: str) -> RowFacts:
    """Return a row's facts.

    Args:
        row: Its number.
        task_id: Its task; None where it was left out.
        state: What is known of the task.
        prompt: What was asked.
    """
    status = "skipped" if task_id is None else (state.status or "gone") if state else "pending"
    stage = "skipped" if task_id is None else STAGES.get(status, "failed")
    return RowFacts(
        row=row,
        stage=stage,
        word=describe_end(state) or stage,
        prompt=_cut(prompt),
        answer=_cut(_describe_answer(status, state)),
        tokens=state.usage.completion_tokens if state and state.usage else None,
        run_ms=state.run_ms if state else None,
        task_id=task_id,
    )


def describe_end(state: Change | None) -> str | None:
    """Return in a word why an answer is not whole, or None where it is, or is none."""
    if state is None or state.status != "completed":
        return None
    is_whole = describe_finish(state.finish_reason, max_tokens=None) is None
    return None if is_whole else make_printable((state.finish_reason or "")[:20])


def _describe_answer(status: str, state: Change | None) -> str:
    match status:
        case "completed":
            return (state and state.answer) or ""
        case "skipped":
            return "left out: the row is empty"
        case "gone":
            return GONE
        case "pending" | "running":
            return (state and state.error) or ("queued" if status == "pending" else "running …")
        case "retrying":
            return f"retrying: {(state and state.error) or ''}"
        case "failed":
            code = f"{state.code}: " if state and state.code else ""
            return f"{code}{(state and state.error) or 'failed'}"
        case _:
            return status


def describe_state(
    counts: Mapping[str, int], *, error: str = "", is_whole: bool = True, parked: int = 0
) -> tuple[str, str]:
    """Return a group's state as people read it, and its colour.

    Args:
        counts: Rows by stage.
        error: Why nothing is heard.
        is_whole: Whether all answers are.
        parked: How many wait until the budget is raised.
    """
    if error:
        return "not followed", "quiet"
    if counts["running"]:
        return "running", "run"
    if parked and parked == counts["waiting"]:
        return "stopped at the budget", "warn"
    if counts["waiting"]:
        return "waiting", "wait"
    if counts["failed"]:
        return f"{counts['failed']:,} failed", "bad"
    return "done", "good" if is_whole else "warn"


def describe_stop(parked: int, options: Mapping[str, Any]) -> str:
    """Say how a group that stopped at its budget goes on; nothing of one that did not.

    Args:
        parked: How many rows wait until the budget is raised.
        options: What the group was asked with.
    """
    if not parked:
        return ""
    rows = "1 row waits" if parked == 1 else f"{parked:,} rows wait"
    budget = "budget_cost" if options.get("budgetCost") else "budget_tokens"
    return f"stopped at the budget, {rows}: group.resume({budget}=…) goes on"


def estimate_left_s(counts: Mapping[str, int], rate: float | None) -> float | None:
    """Return how many seconds it takes until all have ended, at this rate a second."""
    left = counts["running"] + counts["waiting"]
    return left / rate if rate and left else None


def _cut(text: str) -> str:
    # Cut first: a prompt may be megabytes, of which only the beginning is cleaned.
    text = " ".join(make_printable(text[: 2 * _CELL_CHARS]).split())
    return text if len(text) <= _CELL_CHARS else text[: _CELL_CHARS - 1] + "…"


def _read_count(value: object, default: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return default
    return min(value, most)


def _shorten(count: int) -> str:
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1000:,.0f} k" if count < 10_000_000 else f"{count / 1_000_000:,.1f} M"


def format_cost(cost: float) -> str:
    """Return dollars with as many digits as say something."""
    if cost == 0:
        return "$0"
    digits = 2 if cost >= 0.01 else min(6, 1 - math.floor(math.log10(cost)))
    return f"${cost:,.{digits}f}"


def _format_rate(rate: float) -> tuple[str, str]:
    if rate < 1:
        return f"{60 * rate:.1f}" if rate < 1 / 6 else f"{60 * rate:.0f}", " a minute"
    return f"{rate:.1f}" if rate < 10 else f"{rate:.0f}", " a second"


def _format_left(left_s: float) -> str:
    if left_s < 90:
        return f"{math.ceil(left_s)} s"
    minutes = math.ceil(left_s / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
