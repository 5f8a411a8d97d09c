"""`TaskList`: what `kit.tasks()` returns, a list that a notebook shows as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex, overload

from rich.cells import cell_len

from longtask_kit.client.task import Task
from longtask_kit.log.finish import note_record
from longtask_kit.log.text import make_printable

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from IPython.lib.pretty import PrettyPrinter

    from longtask_kit.client.backend import Backend
    from longtask_kit.log.record import TaskRecord

_PROMPT_CHARS = 60
_MOST = 1000  # tasks, of one list
_COLUMNS = ("prompt", "model", "status", "age", "tokens", "seconds", "task")
_NUMBERS = {"age", "tokens", "seconds"}
_LINE = "border-bottom:1px solid rgba(127,127,127,.28)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTask:
    """A task as one line of a list.

    Attributes:
        prompt: The first words, on one line.
        word: The status; of an answer that was cut off, filtered or refused that.
        seconds: From submit to its end, or until now.
        tokens: Of the answer, once it has ended.
    """

    task: str
    prompt: str
    model: str
    status: str
    word: str
    created: datetime
    seconds: float
    tokens: int | None


def describe_listed(
    record: TaskRecord, *, default_model: str = "", now: datetime | None = None
) -> ListedTask:
    """Return a task's line; `default_model` is that of tasks which named none."""
    wire = record.wire
    finish = note_record(record, max_tokens=wire.get("maxTokens"))
    until = record.updated if record.is_over else now or datetime.now(UTC)
    return ListedTask(
        task=record.task_id,
        prompt=make_printable(" ".join(str(wire.get("prompt") or "").split())),
        model=make_printable(str(wire.get("model") or default_model)),
        status=record.status,
        word=make_printable(finish) if finish else record.status,
        created=record.created,
        seconds=max(0.0, (until - record.created).total_seconds()),
        tokens=record.usage.completion_tokens if record.usage else None,
    )


def describe_folded(line: Folded, *, default_model: str, now: datetime) -> ListedTask:
    """Return a line of `fold_groups` as a list shows it."""
    listed = describe_listed(line.record, default_model=default_model, now=now)
    if not line.group_id:
        return listed
    return replace(listed, task=line.group_id, prompt=line.prompt, word=line.word, tokens=None)


class Folded(NamedTuple):
    """A line of a list: a task, or all those of a group that stand in it.

    Attributes:
        record: The task's, of a group's the newest.
        group_id: Empty for a task alone.
        states: How many of the group are in each state.
    """

    record: TaskRecord
    group_id: str
    states: Counter[str]

    @property
    def prompt(self) -> str:
        """What was asked, of a group the newest one's."""
        prompt = make_printable(" ".join(str(self.record.wire.get("prompt") or "").split()))
        return f"{self.states.total():,} rows: {prompt}" if self.group_id else prompt

    @property
    def word(self) -> str:
        """How many of a group are in which state; the one they are all in."""
        if len(self.states) == 1:
            return next(iter(self.states))
        return ", ".join(f"{count:,} {state}" for state, count in self.states.most_common())


def fold_groups(records: Iterable[TaskRecord]) -> list[Folded]:
    """Return lines in which each group is one, where its newest task stands."""
    lines: dict[str, Folded] = {}
    for record in records:
        group_id = str(record.wire.get("groupId") or "")
        name = group_id or record.task_id
        lines.setdefault(name, Folded(record, group_id, Counter())).states[record.status] += 1
    return list(lines.values())


async def list_lines(backend: Backend, *, limit: int) -> tuple[list[Folded], str]:
    """Return the newest `limit` lines, and what is to be said of those that are left out."""
    records = await backend.list(limit=limit, status=None)
    lines, read = fold_groups(records), limit
    if len(records) == limit and any(line.group_id for line in lines):
        # A group may have taken the place of other lines, and have more rows than were read.
        records, read = await backend.list(limit=_MOST, status=None), _MOST
        lines = fold_groups(records)
    if lines[limit:]:
        return lines[:limit], f"{len(lines) - limit:,} more: --limit"
    if len(records) < read:
        return lines, ""
    if read == _MOST:
        return lines, f"of the newest {_MOST:,} tasks; older ones are left out"
    return lines, "there may be more: --limit"


def describe_age(seconds: float) -> str:
    """Return an age in its largest whole unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def align_rows(rows: Sequence[Sequence[str]], *, right: Container[int]) -> list[str]:
    """Return rows as lines, their columns below each other as a terminal draws them.

    Args:
        rows: Cells, some of which may be two places wide, as Chinese and emoji are.
        right: Columns that end below each other.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            " " * (width - cell_len(cell)) + cell
            if at in right
            else cell + " " * (width - cell_len(cell))
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


class TaskList(list[Task]):
    """Tasks, newest first: a list; as the last line of a cell a table.

    The table is as of when they were listed: `kit.tasks()` again for now.
    """

    def __init__(self, tasks: list[Task], *, default_model: str = "", is_cut: bool = False) -> None:
        super().__init__(tasks)
        self._default_model = default_model
        self._rest = f"of the newest {len(tasks):,} tasks; older ones: limit=…" if is_cut else ""

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Task: ...
    @overload
    def __getitem__(self, key: slice, /) -> TaskList: ...
    def __getitem__(self, key: SupportsIndex | slice, /) -> Task | TaskList:
        """Return a task, or of a slice a table again."""
        if isinstance(key, slice):
            return TaskList(super().__getitem__(key), default_model=self._default_model)
        return super().__getitem__(key)

    def _repr_pretty_(self, printer: PrettyPrinter, cycle: bool) -> None:
        printer.text(self._format())  # type: ignore[no-untyped-call]

    def _format(self) -> str:
        if not self:
            return "no tasks"
        rows = [list(_COLUMNS), *self._read_cells()]
        numbers = {at for at, name in enumerate(_COLUMNS) if name in _NUMBERS}
        shown = "\n".join(align_rows(rows, right=numbers))
        return f"{shown}\n({self._rest})" if self._rest else shown

    def _repr_html_(self) -> str:
        if not self:
            return "<p>no tasks</p>"
        head = "".join(_make_cell("th", name, name) for name in _COLUMNS)
        rows = [
            "".join(_make_cell("td", name, cell) for name, cell in zip(_COLUMNS, line, strict=True))
            for line in self._read_cells()
        ]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        rest = f"<small>({escape(self._rest)})</small>" if self._rest else ""
        style = "border-collapse:collapse;font-variant-numeric:tabular-nums;margin:6px 0"
        return (
            '<div style="overflow-x:auto">'
            f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
            f"{rest}</div>"
        )

    def _read_cells(self) -> list[list[str]]:
        now = datetime.now(UTC)
        return [
            _format_line(describe_folded(line, default_model=self._default_model, now=now), now)
            for line in fold_groups(task._find_record() for task in self)
        ]


def _format_line(line: ListedTask, now: datetime) -> list[str]:
    prompt = line.prompt
    if len(prompt) > _PROMPT_CHARS:
        prompt = prompt[: _PROMPT_CHARS - 1] + "…"
    age = describe_age((now - line.created).total_seconds())
    tokens = "" if line.tokens is None else f"{line.tokens:,}"
    return [prompt, line.model, line.word, age, tokens, f"{line.seconds:.1f}", line.task]


def _make_cell(tag: str, name: str, text: str) -> str:
    align = "right" if name in _NUMBERS else "left"
    style = f"text-align:{align};padding:4px 14px 4px 0;{_LINE}"
    if name == "prompt":
        style += ";white-space:normal;min-width:12em;max-width:34em;overflow-wrap:anywhere"
    else:
        style += ";white-space:nowrap"
    if name == "task" and tag == "td":
        return f'<td style="{style}"><code style="user-select:all">{escape(text)}</code></td>'
    scope = ' scope="col"' if tag == "th" else ""
    return f'<{tag}{scope} style="{style}">{escape(text)}</{tag}>'
