"""Out of the services into a file that stays, and back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from longtask_kit.client.archive_file import open_archive
from longtask_kit.client.frame import make_plain, write_table
from longtask_kit.errors import ConfigError, StreamExpiredError, SubmitError
from longtask_kit.log.archive import Archived
from longtask_kit.log.keys import is_group_id, is_task_id
from longtask_kit.log.subscribe import follow
from longtask_kit.log.transcript import Transcript
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from longtask_kit.client.backend import Backend
    from longtask_kit.client.door import Door
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.log.groups import GroupRecord

_AT_ONCE = 16
_TABLES = (".jsonl", ".csv", ".parquet")


def is_archive(path: Path) -> bool:
    """Tell whether a file of this name is an archive: the others are tables of rows."""
    return path.suffix.lower() not in _TABLES


def export_groups(
    door: Door, path: Path, groups: Sequence[TaskGroup], *, events: bool = False
) -> int:
    """Write groups into a file of the kind that its name says; returns how many tasks or rows.

    Raises:
        ConfigError: It can't be written, or takes one group, or needs pandas.
    """
    for group in groups:
        if not hasattr(group, "_record"):
            raise ConfigError(
                f"export_archive() takes groups, got {type(group).__name__}: kit.attach_group(id) "
                "makes one of an id."
            )
    if not is_archive(path):
        if len(groups) != 1:
            raise ConfigError(f"A {path.suffix} file takes one group, got {len(groups)}.")
        return _export_table(path, groups[0])
    tasks: dict[str, Archived] = {}
    for group in groups:
        tasks |= door.ask(
            lambda backend: _read_tasks(backend, group._record, events=events),  # noqa: B023 - at once
            saying=f"reading {len(group._ids):,} rows",
        )
    with open_archive(path, writes=True) as archive:
        for group in groups:
            archive.write_group(group._record, group.rows if group._rows is not None else None)
        for task in tasks.values():
            archive.write_task(task)
    return len(tasks)


def _export_table(path: Path, group: TaskGroup) -> int:
    try:
        if (kind := path.suffix.lower()) in (".jsonl", ".csv"):
            text = write_table(group._list_columns(), is_csv=kind == ".csv")
            path.write_text(text, encoding="utf-8", newline="")
            return len(group)
        frame = group.to_frame()
        if hasattr(frame, "write_parquet"):  # of polars
            frame.write_parquet(path)
        else:
            for name, kind in frame.dtypes.items():
                if str(kind) == "object":
                    frame[name] = frame[name].map(make_plain)
            frame.to_parquet(path)
        return len(frame)
    except (OSError, ImportError, ValueError, TypeError) as exc:
        raise ConfigError(f"{str(path)!r} could not be written: {exc}") from exc


async def _read_tasks(backend: Backend, group: GroupRecord, *, events: bool) -> dict[str, Archived]:
    """Return the tasks of a group that are there, by their ids."""
    place, samples = group.options.get("place") or {}, int(group.options.get("samples", 1))
    found: dict[str, int] = {}
    for position, task_id in enumerate(group.rows):
        if task_id is not None:
            found.setdefault(task_id, position % samples)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def read(task_id: str, sample: int) -> Archived | None:
        async with turns:
            try:
                return await _read_task(backend, task_id, sample, place, events=events)
            except StreamExpiredError:  # deleted, or its time to live is over
                return None

    tasks = await asyncio.gather(*(read(*item) for item in found.items()))
    return {task.task_id: task for task in tasks if task is not None}


async def _read_task(
    backend: Backend, task_id: str, sample: int, place: dict[str, str], *, events: bool
) -> Archived:
    record, wire = await backend.read(task_id), await backend.read_input(task_id)
    log = [e async for e in follow(backend.source, task_id)] if record.is_over else []
    told = Transcript()
    for event in log:
        told.apply(event)
    return Archived(
        task_id=task_id,
        status=record.status,
        wire=wire,
        attempt=record.attempt,
        created=record.created,
        updated=record.updated,
        model=wire.get("model") or place.get("model", ""),
        endpoint=place.get("endpoint", ""),
        sample=sample,
        answer=told.text,
        reasoning=told.reasoning,
        refusal=told.refusal,
        tool_calls=told.tool_calls,
        data=told.data,
        tokens=max(told.tokens, 1),
        usage=record.usage,
        finish_reason=record.finish_reason,
        error=record.error,
        code=record.code,
        events=log if events else (),
    )


def import_groups(door: Door, path: Path, *, ttl_s: int) -> tuple[list[GroupRecord], int, int]:
    """Bring an archive's tasks and groups back; returns the groups, all tasks, and how many came.

    Raises:
        ConfigError: It is no archive, or holds what can't be.
    """
    if not is_archive(path):
        raise ConfigError(f"{str(path)!r} is a table of rows, for others to read: no archive.")
    with open_archive(path, writes=False) as archive:
        tasks, groups = list(archive.read_tasks()), archive.read_groups()
    _check(path, tasks, groups)
    new = door.ask(
        lambda backend: backend.groups.restore(tasks, groups, ttl_s=ttl_s),
        saying=f"bringing {len(tasks):,} tasks back",
    )
    return groups, len(tasks), new


def _check(path: Path, tasks: Sequence[Archived], groups: Sequence[GroupRecord]) -> None:
    """Raise for what must not get into the services: a file may come from anywhere."""
    ids: list[Any] = [task.task_id for task in tasks]
    ids += [task_id for group in groups for task_id in group.rows if task_id is not None]
    wrong = [i for i in ids if not is_task_id(str(i))]
    wrong += [g.group_id for g in groups if not is_group_id(str(g.group_id))]
    if wrong:
        raise ConfigError(f"{str(path)!r} holds {str(wrong[0])[:80]!r}, which is no id.")
    for task in tasks:
        try:
            TaskSpec.from_wire(task.wire)
        except SubmitError as exc:
            raise ConfigError(
                f"{str(path)!r} holds {task.task_id}, which nobody asks: {exc}"
            ) from exc
