"""`longtask ls`, `status`, `cancel`, `retry`, `delete`: the tasks there are."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from longtask_kit.cli.console import (
    JsonOption,
    OptionalTaskArgument,
    OwnConsole,
    TaskArgument,
    connect_quietly,
    tell,
)
from longtask_kit.cli.table import print_table
from longtask_kit.client.listed import describe_age, list_lines
from longtask_kit.client.terminal import NOTE_STYLE, STATUS_STYLES, print_json_line
from longtask_kit.log.finish import note_record
from longtask_kit.log.text import make_printable

if TYPE_CHECKING:
    from longtask_kit.log.record import TaskRecord


def list_tasks(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many lines.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first; those of a group are one line, but for --json."""
    with connect_quietly() as kit:
        if as_json:
            for record in kit._door.ask(lambda backend: backend.list(limit=limit, status=None)):
                print_json_line(record.to_wire())
            return
        lines, rest = kit._door.ask(lambda backend: list_lines(backend, limit=limit))
    console = OwnConsole(highlight=False)
    if not lines:
        console.print(Text("no tasks yet", style="dim"))
        return
    rows = [
        (
            line.group_id or line.record.task_id,
            Text(line.word) if line.group_id else _tell_status(line.record),
            _age(line.record),
            line.prompt,
        )
        for line in lines
    ]
    print_table(console, ("task", "status", "age", "prompt"), rows, caps=(28, 11))
    if rest:
        tell(f"({rest})", style="dim")


def show_status(
    task_id: OptionalTaskArgument = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show a task's record; without an id, where tasks go and whether a local stack runs."""
    if task_id is None:
        _show_place(as_json=as_json)
        return
    with connect_quietly() as kit:
        record = kit._door.ask(lambda backend: backend.read(task_id))
    wire = record.to_wire()
    if as_json:
        print_json_line(wire)
        return
    if note := note_record(record, max_tokens=record.wire.get("maxTokens")):
        wire["status"] = f"{record.status}, {note}"
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in wire.items():
        shown = _format_time(value) if name.endswith("At") else value
        if shown is not None:
            table.add_row(Text(name, style="dim"), Text(make_printable(str(shown))))
    OwnConsole().print(table)


def cancel(task_id: TaskArgument) -> None:
    """Cancel a task: at once while it waits, else at its next token."""
    with connect_quietly() as kit:
        answer = kit.attach(task_id).cancel()
    is_ours = answer in ("cancelled", "cancelling")
    sys.stdout.write(f"{answer if is_ours else f'had already {answer}; nothing to cancel'}\n")


def retry(task_id: TaskArgument) -> None:
    """Run a failed or cancelled task again; its text starts over."""
    with connect_quietly() as kit:
        kit.attach(task_id).retry()
    sys.stdout.write(f"queued again; watch it: longtask tail {task_id}\n")


def delete(task_id: TaskArgument) -> None:
    """Delete a task's record and text; an attempt under way stops."""
    with connect_quietly() as kit:
        kit.attach(task_id).delete()
    sys.stdout.write("deleted\n")


def _tell_status(record: TaskRecord) -> Text:
    if note := note_record(record, max_tokens=record.wire.get("maxTokens")):
        return Text(make_printable(note), style=NOTE_STYLE)
    attempt = f", attempt {record.attempt}" if record.attempt > 1 else ""
    return Text(f"{record.status}{attempt}", style=STATUS_STYLES[record.status])


def _age(record: TaskRecord) -> str:
    return describe_age((datetime.now(UTC) - record.created).total_seconds())


def _format_time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _show_place(*, as_json: bool) -> None:
    from longtask_kit.client.connect import describe, describe_local, is_hosted
    from longtask_kit.local.stack import LocalStack
    from longtask_kit.settings import Settings

    settings = Settings()
    stack = LocalStack.find()
    place = describe(settings) if is_hosted(settings) else describe_local(settings)
    if as_json:
        pid = stack.pid if stack else None
        sys.stdout.write(json.dumps({"place": place, "localStackPid": pid}) + "\n")
        return
    state = f"runs, process {stack.pid}, log {stack.log_path}" if stack else "does not run"
    tell(f"tasks go to    {place}\nlocal stack    {state}")
