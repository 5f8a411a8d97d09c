"""`longtask fill`: complete saved notebooks whose tasks ended after their page or kernel.

What an output says of its task stands in its metadata; of outputs without it, which earlier
versions left with the id of a widget alone, the task is found by what their cell says.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longtask_kit.cli.console import connect_quietly, tell, tell_error
from longtask_kit.cli.notebook_file import read_notebook
from longtask_kit.cli.saved_parts import Part, join_lines, list_parts
from longtask_kit.cli.spelled import list_texts
from longtask_kit.errors import ConfigError, LongTaskError
from longtask_kit.widgets.group_display import describe_group, read_facts
from longtask_kit.widgets.keeper import describe_now, make_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longtask_kit.client.kit import Kit
    from longtask_kit.client.task import Task

_VIEW = "application/vnd.jupyter.widget-view+json"
_STATE = "application/vnd.jupyter.widget-state+json"
_CARD = re.compile(r"TaskOutput\((?!idle)")  # no panel, picker, or card that never had a task
_FINAL = ("completed", "cancelled")  # a failed task may have been retried since
_WHOLE_GROUP = re.compile(r'<section class="[^"]*\blongtask-saved-group is-good\b')
_ID = re.compile(r"task_[A-Za-z0-9_-]{8,64}")
_BRIEF_CHARS = 200  # of a prompt, in a list of tasks
_MAY_WRITE = 0o222
_NAMED = 3  # of the tasks that it may be
_CURE = (
    "Write the task's id into the cell, as a comment (`longtask ls` lists them), and fill again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What waits for its task's end.

    Attributes:
        cell: Its cell's number, from 1, as one counts in a page.
        part: Where it stands.
        task_id: Empty if it names none; then `prompts` may find it.
        group_id: Of a group's output.
        prompts: What its cell, then cells before it, may have asked.
    """

    cell: int
    part: Part
    task_id: str = ""
    group_id: str = ""
    prompts: tuple[tuple[str, ...], ...] = field(default=())


def fill(
    notebooks: Annotated[list[Path], typer.Argument(metavar="NOTEBOOK…", help="Saved notebooks.")],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell; exit code 1 if any can be.")
    ] = False,
) -> None:
    """Complete saved notebooks: outputs that name a task or a group get what came of it."""
    can_fill, is_stuck = False, False
    with connect_quietly() as kit:
        for path in notebooks:
            try:
                lines, filled, failed = fill_notebook(path, kit, check=check)
            except ConfigError as exc:  # the other notebooks are no worse for it
                tell_error(exc)
                is_stuck = True
                continue
            for line in lines or [f"{path}: complete"]:
                tell(line)
            can_fill, is_stuck = can_fill or filled, is_stuck or failed
    if is_stuck or (check and can_fill):
        raise typer.Exit(1)


def find_outputs(notebook: dict[str, Any]) -> Iterator[Found]:
    """Yield the outputs of a notebook's JSON that show a task and are not its last word."""
    states = _dig(notebook, "metadata", "widgets", _STATE, "state")
    prompts: list[str] = []
    for number, cell in enumerate(notebook.get("cells", ()), 1):
        if cell.get("cell_type") != "code":
            continue
        source = join_lines(cell.get("source"))
        own = tuple(list_texts(source))
        outputs = cell.get("outputs", ())
        named_there = _find_id(json.dumps(outputs)) or _find_id(source)
        if len({_find_view(output) for output in outputs} - {""}) > 1:
            named_there = ""  # nobody knows of which card
        for output in outputs:
            parts = list_parts(output)
            yield from filter(None, (_find_named(number, part) for part in parts))
            is_noted = any(part.note.get("taskId") or part.note.get("groupId") for part in parts)
            if not is_noted and (view := _find_view(output)):
                task_id = _dig(states.get(view), "state", "snapshot", "meta").get("taskId")
                named, asked = task_id or named_there, (own, tuple(prompts))
                yield Found(cell=number, part=parts[0], task_id=named, prompts=asked)
        prompts += own


def _find_view(output: dict[str, Any]) -> str:
    """Return the id of the widget that an output shows a task by; empty if it does not."""
    data = output.get("data", {})
    is_card = _VIEW in data and _CARD.match(join_lines(data.get("text/plain")))
    return str(_dig(data, _VIEW).get("model_id")) if is_card else ""


def _find_named(cell: int, part: Part) -> Found | None:
    """Return a part that names its task or group; None if it is that one's last word."""
    note, data = part.note, part.output.get("data", {})
    if note.get("groupId"):
        # Among several its own lines may not be found, which is told when it is filled.
        is_whole = part.at is None and _WHOLE_GROUP.search(join_lines(data.get("text/html")))
        if _VIEW in data or not is_whole:
            return Found(cell=cell, part=part, group_id=str(note["groupId"]))
    elif note.get("taskId") and (note.get("status") not in _FINAL or _VIEW in data):
        return Found(cell=cell, part=part, task_id=str(note["taskId"]))
    return None


def fill_notebook(path: Path, kit: Kit, *, check: bool) -> tuple[list[str], bool, bool]:
    """Complete a notebook's outputs.

    Returns:
        A line for each output that was not up to date; whether any could be (or was) filled;
        whether any could not.

    Raises:
        ConfigError: It is no notebook, or can't be read or written.
    """
    notebook, text = read_notebook(path)
    saved = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    lines, has_filled, has_failed = [], False, False
    for found in find_outputs(notebook):
        where = f"{path}, cell {found.cell}"
        try:
            shown = found.part.read()
            now = _read_now(found, kit, saved)
        except LongTaskError as exc:
            lines.append(f"{where}: {exc}")
            has_failed = True
            continue
        if now.bundle == shown:
            continue
        has_filled = True
        verb = "would be" if check else "is"
        lines.append(f"{where}: {verb} filled from {now.source}")
        found.part.write(now.bundle, now.note)
    if has_filled and not check:
        _write(path, notebook, "\n" if text.endswith("\n") else "")
    return lines, has_filled, has_failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Now:
    """How it reads now: its forms, what is noted of it, and from what."""

    bundle: dict[str, str]
    note: dict[str, Any]
    source: str


def _read_now(found: Found, kit: Kit, saved: datetime) -> _Now:
    if found.group_id:
        group = kit.attach_group(found.group_id)
        group._look()
        facts = read_facts(group)
        return _Now(
            bundle=describe_group(group),
            note={"groupId": group.id},
            source=f"{group.id}, {facts.word}",
        )
    task, remark = _find_task(found, kit, saved)
    state = task.snapshot()
    return _Now(
        bundle=describe_now(task, state),
        note=make_metadata(task.id, state.status)["longtask"],
        source=f"{task.id}, {state.status}{remark}",
    )


def _find_task(found: Found, kit: Kit, saved: datetime) -> tuple[Task, str]:
    """Return an output's task, and what is to be said of how it was found."""
    if found.task_id:
        return kit.attach(found.task_id), ""
    tasks = kit.tasks(limit=1000) if any(found.prompts) else []
    for prompts in found.prompts:
        asked = {prompt[:_BRIEF_CHARS] for prompt in prompts}
        matching = [task for task in tasks if task._brief.prompt[:_BRIEF_CHARS] in asked]
        earlier = [task for task in matching if task._record and task._record.created <= saved]
        if earlier[1:]:  # one of them may be a stranger's: to choose is the reader's
            named = ", ".join(task.id for task in earlier[:_NAMED])
            more = f" and {len(earlier) - _NAMED:,} more" if earlier[_NAMED:] else ""
            raise LongTaskError(
                f"its output names no task, and {len(earlier):,} have a prompt of its cells: "
                f"{named}{more}. {_CURE}"
            )
        if earlier:
            return kit.attach(earlier[0].id), ", by its prompt"
    raise LongTaskError(
        f"its output names no task, and none with a prompt of its cells is there. {_CURE}"
    )


def _find_id(text: str) -> str:
    """Return the one task that a text names; empty if none or several."""
    ids = set(_ID.findall(text))
    return ids.pop() if len(ids) == 1 else ""


def _write(path: Path, notebook: dict[str, Any], end: str) -> None:
    """Write as Jupyter does, whole or not at all."""
    path = path.resolve()  # a link stays one: what it leads to is replaced
    if not path.stat().st_mode & _MAY_WRITE:  # which replacing it does not ask
        raise ConfigError(f"{path} can't be written: it is read-only.")
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + end
    fresh = path.with_name(f".{path.name}.filling")
    try:
        # Half a sign of UTF-16, which JSON may hold, stays the escape that it was.
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
        fresh.chmod(path.stat().st_mode)
        os.replace(fresh, path)
    except OSError as exc:
        fresh.unlink(missing_ok=True)
        raise ConfigError(f"{path} can't be written: {exc}") from exc


def _dig(value: Any, *names: str) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return the object at a path of names; an empty one where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
