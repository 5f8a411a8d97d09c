"""The `longtask` command."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from longtask_kit.cli.bench import BENCH_HELP, bench
from longtask_kit.cli.console import JsonOption  # noqa: TC001 - typer reads the annotations
from longtask_kit.cli.model import describe_place, model_app
from longtask_kit.cli.queue import queue_app
from longtask_kit.cli.stack import down, up
from longtask_kit.client.terminal import STATUS_STYLES, print_json_events, print_stream
from longtask_kit.errors import LongTaskError
from longtask_kit.log.text import make_printable, to_json_line

if TYPE_CHECKING:
    from longtask_kit.client.kit import Kit
    from longtask_kit.client.task import Task
    from longtask_kit.log.record import TaskRecord

_INTERRUPTED = 130
_PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell tells it


class _Commands(TyperGroup):
    """Ends a command as a shell expects, before typer does it in its own way."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer brings a click of its own, or not
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _leave("interrupted", code=_INTERRUPTED)
        except BrokenPipeError:  # `longtask run … | head` has seen enough
            _leave_closed_pipe()


class _Console(Console):
    """Rich's console, that leaves a closed pipe to us; its own exit code is 1, a failed task's."""

    def on_broken_pipe(self) -> None:
        """Leave."""
        _leave_closed_pipe()


app = typer.Typer(
    cls=_Commands,
    help="Run LLM tasks that outlive their caller, and watch them stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(queue_app, name="queue")
app.add_typer(model_app, name="model")
_TaskArgument = Annotated[str, typer.Argument(metavar="ID", help="A task id: task_….")]


def main() -> None:
    """Run the command; errors of ours are one line, Ctrl-C is exit code 130, never a traceback."""
    try:
        app()
    except LongTaskError as exc:
        _leave(f"{type(exc).__name__}: {exc}", code=1)
    finally:
        _flush()


def _leave(message: str, *, code: int) -> NoReturn:
    sys.stderr.write(make_printable(message) + "\n")
    sys.exit(code)


def _leave_closed_pipe() -> NoReturn:
    # What is still in the buffer has to go somewhere: the interpreter flushes when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_PIPE_CLOSED)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_closed_pipe()


@app.command()
def run(
    prompt: Annotated[str, typer.Argument(help="What to ask the model; - reads standard input.")],
    *,
    model: Annotated[str | None, typer.Option(help="Model name; default LONGTASK_MODEL.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 1000,
    temperature: Annotated[float, typer.Option(help="0 to 2.")] = 0.7,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a task and stream it; it runs on when you leave."""
    text = sys.stdin.read() if prompt == "-" else prompt
    with _connect(as_json, model) as kit:
        task = kit.submit(
            text, model=model, max_tokens=max_tokens, temperature=temperature, system=system
        )
        _show(task, as_json=as_json)


@app.command()
def tail(task_id: _TaskArgument, *, as_json: JsonOption = False) -> None:
    """Follow a task from its first token on, whether it runs or ended long ago."""
    with _connect(as_json) as kit:
        _show(kit.attach(task_id), as_json=as_json)


@app.command()
def cancel(task_id: _TaskArgument) -> None:
    """Cancel a task: at once while it waits, else at its next token."""
    with _connect(quiet=True) as kit:
        status = kit.attach(task_id).cancel()
    sys.stdout.write("asked to stop\n" if status == "running" else f"{status}\n")


@app.command("ls")
def list_tasks(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first."""
    with _connect(quiet=True) as kit:
        records = kit._door.ask(lambda backend: backend.list(limit=limit, status=None))
    if as_json:
        for record in records:
            sys.stdout.write(to_json_line(record.to_wire()))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for column, width in (("task", 27), ("status", 9), ("age", 6), ("attempt", 7)):
        table.add_column(column, no_wrap=True, min_width=width)
    table.add_column("prompt", overflow="ellipsis", no_wrap=True, ratio=1)
    for record in records:
        status = Text(record.status, style=STATUS_STYLES[record.status])
        prompt = make_printable(" ".join(str(record.wire.get("prompt", "")).split()))
        table.add_row(record.task_id, status, _age(record), str(record.attempt), Text(prompt))
    _Console().print(table if records else Text("no tasks yet", style="dim"))


@app.command()
def status(
    task_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A task id.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show a task's record; without an id, where tasks go and whether a local stack runs."""
    if task_id is None:
        _show_place(as_json=as_json)
        return
    with _connect(quiet=True) as kit:
        wire = kit._door.ask(lambda backend: backend.read(task_id)).to_wire()
    if as_json:
        sys.stdout.write(to_json_line(wire))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in wire.items():
        shown = _format_time(value) if name.endswith("At") else value
        if shown is not None:
            table.add_row(Text(name, style="dim"), Text(make_printable(str(shown))))
    _Console().print(table)


def _connect(quiet: bool = False, model: str | None = None) -> Kit:
    """Connect, saying where to on standard error, so that standard output is the text alone."""
    from longtask_kit.client.connect import connect

    console = _Console(stderr=True)
    with console.status("connecting …"):  # shows only on a terminal
        kit = connect(quiet=True)
    if not quiet:
        place = describe_place(kit.description, model)
        console.print(Text(f"longtask_kit: {place}", style="dim"), soft_wrap=True)
    return kit


def _show(task: Task, *, as_json: bool) -> None:
    """Stream a task; exit code 0 when it completed, 1 when not, 130 when the reader left."""
    try:
        if as_json:
            print_json_events(task)
            state = task.snapshot()
        else:
            state = print_stream(task)
    except KeyboardInterrupt:
        _leave(
            f"\n{task.id} goes on. Come back: longtask tail {task.id}   "
            f"End it: longtask cancel {task.id}",
            code=_INTERRUPTED,
        )
    if state.status != "completed":
        reason = f": {state.error}" if state.error else ""
        _leave(f"{task.id} {state.status}{reason}", code=1)


def _age(record: TaskRecord) -> str:
    seconds = (datetime.now(UTC) - record.created).total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _format_time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _show_place(*, as_json: bool) -> None:
    from longtask_kit.client.connect import describe, is_hosted
    from longtask_kit.local.stack import LocalStack
    from longtask_kit.settings import Settings

    settings = Settings()
    stack = LocalStack.find()
    place = describe(settings) if is_hosted(settings) else LocalStack.DESCRIPTION
    if as_json:
        pid = stack.pid if stack else None
        sys.stdout.write(json.dumps({"place": place, "localStackPid": pid}) + "\n")
        return
    state = f"runs, process {stack.pid}, log {stack.log_path}" if stack else "does not run"
    sys.stdout.write(f"tasks go to    {place}\nlocal stack    {state}\n")


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve the webhook app from the environment; its public URL is LONGTASK_BASE_URL."""
    import uvicorn

    from longtask_kit.server.app import create_app
    from longtask_kit.server.openai import warm_up
    from longtask_kit.server.serve import STOP_GRACE_S, bind, guard_host
    from longtask_kit.settings import Settings

    settings = Settings()
    asgi_app = guard_host(create_app(settings), settings, host)
    listener = bind(host, port)
    address = f"http://{host}:{listener.getsockname()[1]}"
    sys.stderr.write(f"webhook app on {address}, public URL {settings.base_url}; docs at /docs\n")
    config = uvicorn.Config(
        asgi_app, log_level="info", ws="none", timeout_graceful_shutdown=STOP_GRACE_S
    )
    warming = threading.Timer(1.0, warm_up)  # not before it listens
    warming.daemon = True
    warming.start()
    uvicorn.Server(config).run(sockets=[listener])


@app.command()
def lab(
    folder: Annotated[Path, typer.Argument(help="Where the lessons are copied to.")] = Path(
        "longtask-lessons"
    ),
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of JupyterLab.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on a copy of the lesson notebooks, with the local stack up."""
    from longtask_kit.cli.lab import open_lab

    raise typer.Exit(open_lab(folder, port=port, browser=browser))


@app.command("app")
def open_app_page(
    *,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Serve the panel as a web page."""
    from longtask_kit.cli.lab import open_app

    raise typer.Exit(open_app(host=host, port=port, browser=browser))


@app.command()
def doctor() -> None:
    """Check every environment name and every service by a live call; exit code 1 if one fails."""
    from longtask_kit.cli.doctor import examine
    from longtask_kit.client.connect import is_hosted
    from longtask_kit.settings import Settings

    console = _Console()
    settings = Settings()
    if not is_hosted(settings):
        from longtask_kit.local.stack import LocalStack

        console.print(Text("No Upstash variable is set, so tasks go to the local stack:"))
        settings = LocalStack.join_or_start().settings
    with console.status("asking every service …"):
        findings = asyncio.run(examine(settings))
    marks = {"ok": ("✓", "green"), "fails": ("✗", "red"), "note": ("·", "dim")}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = marks[finding.verdict]
        detail = Text(make_printable(finding.detail), style="" if style == "red" else "dim")
        table.add_row(Text(mark, style=style), Text(finding.subject), detail)
    console.print(table)
    failed = sum(finding.verdict == "fails" for finding in findings)
    console.print(f"{failed} of {len(findings)} fail" if failed else "everything answers")
    if failed:
        raise typer.Exit(1)


app.command(help=BENCH_HELP)(bench)
app.command()(up)
app.command()(down)
