"""`%load_ext longtask_kit`: `%%longtask`, `%longtask_status`, `%longtask_cancel`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.utils.text import FullEvalFormatter

from longtask_kit.client.connect import connect
from longtask_kit.client.kit import Kit
from longtask_kit.client.task import Task
from longtask_kit.errors import LongTaskError, SubmitError
from longtask_kit.widgets.display import display_task

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


@magics_class
class LongtaskMagics(Magics):
    """The magics; they use the kit named `kit` of the notebook, else connect by themselves."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._kit: Kit | None = None
        self._tasks: list[Task] = []

    @magic_arguments()
    @argument("--model", "-m", default=None, help="Model name.")
    @argument("--max-tokens", type=int, default=1000, help="Longest answer, in tokens.")
    @argument("--temperature", "-t", type=float, default=0.7, help="0 to 2.")
    @argument("--name", "-n", default=None, help="Bind the task to this variable.")
    @argument("--no-wait", action="store_true", help="Return at once; the task streams on.")
    @argument("--format", "-f", action="store_true", help="Fill {expressions} from the notebook.")
    @cell_magic
    def longtask(self, line: str, cell: str) -> None:
        """Submit the cell as a prompt and watch its answer stream."""
        options = parse_argstring(self.longtask, line)
        if options.name is not None and not options.name.isidentifier():
            raise UsageError(f"--name must be a variable's name, got {options.name!r}")
        prompt = self._fill(cell) if options.format else cell
        try:
            task = self._find_kit().submit(
                prompt.strip(),
                model=options.model,
                max_tokens=options.max_tokens,
                temperature=options.temperature,
            )
        except SubmitError as exc:
            raise UsageError(str(exc)) from exc
        self._tasks.append(task)
        if options.name is not None:
            self._names[options.name] = task
        display_task(task)
        if not options.no_wait:
            task.result()  # in 0.1 s steps, so that an Interrupt ends the wait at once

    @line_magic
    def longtask_status(self, line: str) -> None:
        """Show the tasks of these magics, or one: `%longtask_status [name or id]`."""
        tasks = [self._find_task(line)] if line.strip() else self._tasks[-10:]
        rows = [f"{task.id}  {task.status}\n" for task in tasks]
        sys.stdout.write("".join(rows) or "no tasks yet\n")

    @line_magic
    def longtask_cancel(self, line: str) -> None:
        """Cancel the last task, or one: `%longtask_cancel [name or id]`."""
        status = self._find_task(line).cancel()
        sys.stdout.write("asked to stop\n" if status == "running" else f"{status}\n")

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


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register the magics."""
    ipython.register_magics(LongtaskMagics)
