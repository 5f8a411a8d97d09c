"""What a dashboard says of tasks and groups: one line each, newest first; values only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from longtask_kit.client.group_watch import STAGES, describe_error
from longtask_kit.client.prices import choose_price, count_cost
from longtask_kit.log.changes import Change
from longtask_kit.log.finish import note_record
from longtask_kit.log.text import make_printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from longtask_kit.client.health import Health
    from longtask_kit.client.prices import Prices
    from longtask_kit.log.groups import GroupRecord
    from longtask_kit.log.limits import Level
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.submit.queue_state import QueueState

_CELL_CHARS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A task, or a group of them.

    Attributes:
        line_id: The task's id, or the group's.
        group_id: The group that a task belongs to, or empty.
        stage: `done`, `running`, `waiting` or `failed`.
        word: The status; of an answer that was cut off, filtered or refused that.
        rate: Tokens a second of an answer that has ended.
        error: What went wrong, or why it waits.
        rows: Of a group how many tasks it has; 0 for a task.
    """

    line_id: str
    group_id: str
    stage: str
    word: str
    prompt: str
    model: str
    attempt: int
    created: datetime
    tokens: int | None
    rate: float | None
    cost: float | None
    error: str
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The limiter's level for a model."""

    model: str
    level: Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What stands beside the tasks.

    Attributes:
        queue: None where it can't be asked from here, or has not been.
        notes: What can't be told, and why.
        error: Why the queue did not answer, or empty.
    """

    health: tuple[Health, ...] = ()
    queue: QueueState | None = None
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""


def make_line(
    record: TaskRecord, state: Change | None, *, default_model: str, prices: Prices | None
) -> Line:
    """Return a task's line.

    Args:
        record: As it was read once.
        state: What was heard of it since.
        default_model: Of tasks that named none.
        prices: What tokens cost, if somebody said it.
    """
    now = state or Change.of(record)
    status, wire, usage = now.status or "gone", record.wire, now.usage
    model = str(wire.get("model") or default_model)
    finish = note_record(now, max_tokens=wire.get("maxTokens"))
    tokens = usage.completion_tokens if usage else None
    is_done = status == "completed"
    return Line(
        line_id=record.task_id,
        group_id=str(wire.get("groupId") or ""),
        stage=STAGES.get(status, "failed"),
        word=make_printable(finish) if finish else status,
        prompt=_cut(str(wire.get("prompt") or "")),
        model=_cut(model),
        attempt=now.attempt,
        created=record.created,
        tokens=tokens,
        rate=1000 * tokens / now.run_ms if is_done and tokens and now.run_ms else None,
        cost=count_cost(choose_price(prices, model), usage),
        error=_cut(describe_error(now) or ""),
    )


def fold_lines(lines: Iterable[Line], groups: Mapping[str, GroupRecord | None]) -> list[Line]:
    """Return lines in which each group is one, where its newest task stands."""
    folded: dict[str, list[Line]] = {}
    for line in lines:
        folded.setdefault(line.group_id or line.line_id, []).append(line)
    return [
        _fold_group(found, groups.get(found[0].group_id)) if found[0].group_id else found[0]
        for found in folded.values()
    ]


def _fold_group(lines: Sequence[Line], record: GroupRecord | None) -> Line:
    newest, lines = lines[0], find_rows(lines, record)
    counts = Counter(line.stage for line in lines)
    models = sorted({line.model for line in lines})
    costs = [line.cost for line in lines if line.cost is not None]
    tokens = [line.tokens for line in lines if line.tokens is not None]
    rows = len({row for row in record.rows if row}) if record else len(lines)
    name = _cut(record.name) if record and record.name else lines[0].prompt
    return replace(
        newest,
        line_id=newest.group_id,
        stage=find_stage(counts),
        word=describe_counts(counts),
        prompt=f"{name} · {rows:,} {'row' if rows == 1 else 'rows'}",
        model=models[0] if len(models) == 1 else f"{len(models)} models",
        attempt=max(line.attempt for line in lines),
        tokens=sum(tokens) if tokens else None,
        rate=None,
        cost=sum(costs) if costs else None,
        error="",
        rows=rows,
    )


def find_rows(lines: Sequence[Line], record: GroupRecord | None) -> Sequence[Line]:
    """Return a group's tasks in the order of its rows: they were submitted in one moment.

    Mapped again with other rows, it has none of those of before.
    """
    places = {task_id: at for at, task_id in enumerate(record.rows)} if record else {}
    own = [line for line in lines if line.line_id in places]
    return sorted(own, key=lambda line: places[line.line_id]) or lines


def find_stage(counts: Mapping[str, int]) -> str:
    """Return what many tasks are doing, as one word."""
    return next((stage for stage in ("running", "waiting", "failed") if counts.get(stage)), "done")


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return how many are in which stage; the stage alone where all are."""
    told = [f"{n:,} {s}" for s in ("running", "waiting", "failed", "done") if (n := counts.get(s))]
    return told[0].partition(" ")[2] if len(told) == 1 else ", ".join(told)


def choose_lines(
    lines: Sequence[Line],
    groups: Mapping[str, GroupRecord | None],
    *,
    stage: str = "",
    word: str = "",
    group_id: str = "",
) -> list[Line]:
    """Return the lines that a view shows: groups folded, until one is opened or something sought.

    Args:
        lines: All tasks', newest first.
        groups: What is known of groups.
        stage: Only these; empty for all.
        word: Only those whose prompt, model, id or error has it.
        group_id: Only tasks of this group.
    """
    if not (stage or word or group_id):
        return fold_lines(lines, groups)
    word = word.casefold()
    if group_id:
        own = [line for line in lines if line.group_id == group_id]
        lines = find_rows(own, groups.get(group_id))
    return [
        line
        for line in lines
        if (not stage or line.stage == stage)
        and (
            not word
            or word in f"{line.prompt}\n{line.model}\n{line.error}\n{line.line_id}".casefold()
        )
    ]


def _cut(text: str) -> str:
    text = " ".join(make_printable(text[: 2 * _CELL_CHARS]).split())
    return text if len(text) <= _CELL_CHARS else text[: _CELL_CHARS - 1] + "…"
