"""The `longtask` command."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from longtask_kit import __version__
from longtask_kit.cli import archive, groups, run, tasks
from longtask_kit.cli.bench import BENCH_HELP, bench
from longtask_kit.cli.cassette import cassette_app
from longtask_kit.cli.console import (
    INTERRUPTED,
    OwnConsole,
    leave,
    leave_closed_pipe,
    leave_full,
    open_closed_streams,
    tell,
)
from longtask_kit.cli.fill import fill
from longtask_kit.cli.keys import keys_app
from longtask_kit.cli.model import model_app
from longtask_kit.cli.queue import queue_app
from longtask_kit.cli.stack import down, up
from longtask_kit.cli.watch import watch
from longtask_kit.client.terminal import take_any_text
from longtask_kit.errors import ConfigError, LongTaskError
from longtask_kit.log.text import make_printable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # the last: a terminal that is gone


class _Commands(TyperGroup):
    """Ends a command as a shell expects, before typer does it in its own way."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer brings a click of its own, or not
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            leave("interrupted", code=INTERRUPTED)
        except BrokenPipeError:  # `longtask run … | head` has seen enough
            leave_closed_pipe()


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
app.add_typer(keys_app, name="keys")
app.add_typer(cassette_app, name="cassette")
for command, name in (
    (run.run, "run"),
    (run.tail, "tail"),
    (groups.map_rows, "map"),
    (groups.list_groups, "groups"),
    (tasks.list_tasks, "ls"),
    (watch, "watch"),
    (tasks.show_status, "status"),
    (tasks.cancel, "cancel"),
    (tasks.retry, "retry"),
    (tasks.delete, "delete"),
    (fill, "fill"),
    (archive.export_groups, "export"),
    (archive.import_groups, "import"),
):
    app.command(name)(command)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        sys.stdout.write(f"longtask_kit {__version__}\n")
        raise typer.Exit


@app.callback()
def _read_common_options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print it.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; errors of ours are one line, Ctrl-C is exit code 130, never a traceback."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        take_any_text(stream)
    try:
        _run()
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        leave_full(exc)


def _run() -> None:
    try:
        app()
    except LongTaskError as exc:
        leave(f"{type(exc).__name__}: {exc}", code=1)
    finally:
        _flush()


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        leave_closed_pipe()


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    front_end: Annotated[
        list[str] | None,
        typer.Option(help="A protocol of existing clients, e.g. responses; give it repeatedly."),
    ] = None,
) -> None:
    """Serve the webhook app from the environment; its public URL is LONGTASK_BASE_URL."""
    import uvicorn

    from longtask_kit.server.app import create_app
    from longtask_kit.server.openai import warm_up
    from longtask_kit.server.serve import STOP_GRACE_S, bind, find_url, guard_host
    from longtask_kit.settings import Settings

    settings = Settings()
    asgi_app = guard_host(create_app(settings, front_ends=front_end or ()), settings, host)
    listener = bind(host, port)
    address = find_url(listener, host)
    tell(f"webhook app on {address}, public URL {settings.base_url}; docs at /docs", err=True)
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
    """Serve the panel as a web page, and the dashboard at its /?view=dashboard."""
    from longtask_kit.cli.lab import open_app

    raise typer.Exit(open_app(host=host, port=port, browser=browser))


@app.command()
def doctor() -> None:
    """Check every environment name and every service by a live call; exit code 1 if one fails."""
    from longtask_kit.cli.doctor import examine, examine_local, list_names
    from longtask_kit.cli.doctor_names import examine_spelling, examine_values, examine_wrong
    from longtask_kit.client.connect import is_hosted
    from longtask_kit.settings import Settings

    console = OwnConsole()
    findings = [*examine_values(os.environ), *examine_spelling(list_names())]
    try:
        settings = Settings()
    except ConfigError as exc:
        findings += examine_wrong(exc)
    else:
        if not is_hosted(settings):
            from longtask_kit.local.stack import LocalStack

            console.print(Text("No Upstash variable is set, so tasks go to the local stack:"))
            asking = examine_local(settings, LocalStack.join_or_start())
        else:
            asking = examine(settings)
        with console.status("asking every service …"):
            findings += asyncio.run(asking)
    marks = {
        "ok": ("✓", "green"),
        "fails": ("✗", "red"),
        "note": ("·", "dim"),
        "doubt": ("!", "yellow"),
    }
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
