"""`%load_ext longtask_kit`: `%%longtask`, `%longtask_status`, `%longtask_cancel`."""

from __future__ import annotations

import keyword
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.utils.text import FullEvalFormatter

from longtask_kit.client.connect import connect
from longtask_kit.client.kit import Kit
from longtask_kit.client.options import read_spec
from longtask_kit.client.task import Task, submit_spec
from longtask_kit.errors import (
    LongTaskError,
    TaskCancelledError,
    TaskFailedError,
)
from longtask_kit.widgets.display import display_task

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


_HANDED_ON = ("model", "max_tokens", "temperature", "system", "api", "handler", "retries")


@magics_class
class LongtaskMagics(Magics):
    """The magics; they use the kit named `kit` of the notebook, else connect by themselves."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._kit: Kit | None = None
        self._tasks: list[Task] = []

    @magic_arguments()
    @argument("--model", "-m", default=None, help="Model name.")
    @argument("--max-tokens", default="1000", help="Longest answer, in tokens, or none.")
    @argument("--temperature", "-t", default="0.7", help="0 to 2, or none.")
    @argument("--system", default=None, help="System message.")
    @argument("--param", action="append", default=[], metavar="NAME=VALUE", help="One more.")
    @argument("--metadata", action="append", default=[], metavar="NAME=VALUE", help="Kept with it.")
    @argument("--api", default=None, help="Of the model service: chat or responses.")
    @argument("--image", action="append", default=[], metavar="FILE", help="Show it, too.")
    @argument("--messages", type=Path, default=None, metavar="FILE", help="What was said, JSON.")
    @argument("--schema", type=Path, default=None, metavar="FILE", help="Of the answer, JSON.")
    @argument("--handler", default="openai", help="Name of the server-side handler.")
    @argument("--retries", type=int, default=None, help="Deliveries after the first that fails.")
    @argument("--timeout", type=float, default=None, help="Seconds until it ends as failed.")
    @argument("--name", "-n", default=None, help="Bind the task to this variable.")
    @argument("--no-wait", action="store_true", help="Return at once; the task streams on.")
    @argument("--format", "-f", action="store_true", help="Fill {expressions} from the notebook.")
    @argument("--help", "-h", action="store_true", help="Print this.")
    @line_cell_magic
    def longtask(self, line: str, cell: str | None = None) -> None:
        """Submit the cell as a prompt and watch its answer stream."""
        words = _split(line)
        if cell is None and not {"-h", "--help"}.intersection(words):
            raise UsageError("the prompt is the cell: begin it with %%longtask, and write below it")
        options = self.longtask.parser.parse_args(words)
        if cell is None or options.help:
            sys.stdout.write(self.longtask.parser.format_help())
            return
        if options.name is not None and not _is_name(options.name):
            raise UsageError(f"--name must be a variable's name, got {options.name!r}")
        prompt = self._fill(cell) if options.format else cell
        try:
            spec = read_spec(
                prompt=prompt.strip(),
                images=options.image,
                messages=options.messages,
                schema=options.schema,
                params=options.param,
                metadata=options.metadata,
                timeout=options.timeout,
                **{name: getattr(options, name) for name in _HANDED_ON},
            )
            task = submit_spec(self._find_kit()._door, spec)
        except LongTaskError as exc:
            raise UsageError(str(exc)) from exc
        self._tasks.append(task)
        if options.name is not None:
            self._names[options.name] = task
        display_task(task)
        if not options.no_wait:
            self._wait(task)

    def _wait(self, task: Task) -> None:
        """Wait in 0.1 s steps, so that an Interrupt ends it; of a failure the output tells."""
        try:
            task.result()
        except (TaskFailedError, TaskCancelledError) as exc:
            raise UsageError(f"{task.id} {task.snapshot().status}, as its output says") from exc

    @line_magic
    def longtask_status(self, line: str) -> None:
        """Show the tasks of these magics, or one: `%longtask_status [name or id]`."""
        tasks = [self._find_task(line)] if line.strip() else self._tasks[-10:]
        rows = [f"{task.id}  {_tell_status(task)}\n" for task in tasks]
        sys.stdout.write("".join(rows) or "no tasks yet\n")

    @line_magic
    def longtask_cancel(self, line: str) -> None:
        """Cancel the last task, or one: `%longtask_cancel [name or id]`."""
        status = self._find_task(line).cancel()
        sys.stdout.write("cancelling\n" if status == "cancelling" else f"{status}\n")

    @property
    def _names(self) -> dict[str, object]:
        assert self.shell is not None  # noqa: S101 - a magic has a shell
        names: dict[str, object] = self.shell.user_ns
        return names

    def _find_kit(self) -> Kit:
        named = self._names.get("kit")
        if isinstance(named, Kit):
            return named
        if self._kit is None:
            self._kit = connect()
        return self._kit

    def _find_task(self, line: str) -> Task:
        name = line.strip()
        if not name:
            if not self._tasks:
                raise UsageError("no task yet: run a %%longtask cell, or give a name or an id")
            return self._tasks[-1]
        named = self._names.get(name)
        if isinstance(named, Task):
            return named
        try:
            return self._find_kit().attach(name)
        except LongTaskError as exc:
            raise UsageError(str(exc)) from exc

    def _fill(self, cell: str) -> str:
        try:
            return str(FullEvalFormatter().format(cell, **self._names))
        except Exception as exc:
            raise UsageError(f"--format: {type(exc).__name__}: {exc}") from exc


def _split(line: str) -> list[str]:
    """Split a line of options as a shell does; IPython's own way leaves the quotes in them."""
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.commenters = True, ""
    if os.name == "nt":  # there it stands in paths
        words.escape = ""
    try:
        return [*words]
    except ValueError as exc:
        raise UsageError(
            f"the options can't be read, {str(exc).lower()}: quote a value as in a shell, "
            '--system "It\'s terse."'
        ) from exc


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _tell_status(task: Task) -> str:
    """Return the status as it is now, and what is to be said of an end."""
    status = task.status
    told = task._tell_state()
    return told if told.startswith(status) else status


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register the magics."""
    ipython.register_magics(LongtaskMagics)
