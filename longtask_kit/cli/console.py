"""What several commands share: options, a console, how a command is left."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from longtask_kit.log.keys import is_task_id
from longtask_kit.log.text import make_printable

if TYPE_CHECKING:
    from pathlib import Path

    from longtask_kit.client.kit import Kit

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
MaxTokensOption = Annotated[
    str, typer.Option(metavar="TOKENS", help="Longest answer, in tokens, or none.")
]
TemperatureOption = Annotated[str, typer.Option(metavar="NUMBER", help="0 to 2, or none.")]
ApiOption = Annotated[
    str | None, typer.Option(help="Of the model service: chat (the default) or responses.")
]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Kept with the task; may be repeated."),
]


def _check_task_id(task_id: str | None) -> str | None:
    """Refuse what is no task's id: no stack is started to say so."""
    if task_id is not None and not is_task_id(task_id):
        from longtask_kit.log.subscribe import expired

        raise expired(task_id)
    return task_id


TaskArgument = Annotated[
    str, typer.Argument(metavar="ID", help="A task id: task_….", callback=_check_task_id)
]
OptionalTaskArgument = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="A task id.", callback=_check_task_id)
]

INTERRUPTED = 130
_PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell tells it


class OwnConsole(Console):
    """Rich's console, that leaves a closed pipe to us; its own exit code is 1, a failed task's."""

    def on_broken_pipe(self) -> None:
        """Leave."""
        leave_closed_pipe()


def tell(text: str, *, err: bool = False, style: str = "") -> None:
    """Print lines; a terminal breaks a long one between words, elsewhere it stays one."""
    console = OwnConsole(stderr=err, highlight=False)
    console.print(Text(make_printable(text), style=style), soft_wrap=not console.is_terminal)


def tell_error(exc: Exception) -> None:
    """Print an error as the one that ends a command, where others are still to come."""
    tell(f"{type(exc).__name__}: {exc}", err=True)


class ToldStream(io.TextIOBase):
    """Standard error for what is written as whole lines, or over a line: broken between words."""

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return sys.stderr.isatty()

    def write(self, text: str) -> int:
        """Take lines, or what goes over one."""
        if text.startswith("\r"):
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            tell(text.removesuffix("\n"), err=True)
        return len(text)


def leave(message: str, *commands: str, code: int) -> NoReturn:
    """End the command with a message on standard error, and lines to copy a command from."""
    tell(message, err=True)
    for line in commands:
        sys.stderr.write(f"{make_printable(line)}\n")
    sys.exit(code)


def leave_closed_pipe() -> NoReturn:
    """End the command as one whose reader has seen enough."""
    _drop_output()
    sys.exit(_PIPE_CLOSED)


def leave_full(exc: OSError) -> NoReturn:
    """End the command as one whose output finds no room."""
    _drop_output()
    leave(f"What this printed could not be written: {exc.strerror}.", code=1)


def _drop_output() -> None:
    # What is still in the buffer has to go somewhere: the interpreter flushes when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_closed_streams() -> None:
    """Have standard streams where a caller has closed them, before a socket gets their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - stays


def connect_quietly(
    *,
    say_where: bool = False,
    asks: bool = False,
    model: str | None = None,
    replay: Path | None = None,
) -> Kit:
    """Connect; where to is said on standard error, so that standard output is the text alone.

    Args:
        say_where: Say it.
        asks: A task will be submitted: else no model's service is looked for, nor a key given.
        model: What it asks, None for the default.
        replay: A cassette that answers it, None for what the environment says.
    """
    from longtask_kit.client.connect import connect

    console = OwnConsole(stderr=True)
    with console.status("connecting …"):  # shows only on a terminal
        kit = connect(model=model if asks else "demo", replay=replay, quiet=True)
    if say_where:
        tell(f"longtask_kit: {kit.description}", err=True, style="dim")
    return kit
