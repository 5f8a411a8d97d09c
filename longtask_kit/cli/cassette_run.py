"""Run notebooks with a cassette's answers, on a stack of their own, and see what they ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from longtask_kit.cassettes import Question  # noqa: TC001 - of a dataclass
from longtask_kit.client.cassette import load_cassette, make_question
from longtask_kit.client.replay import ALONE
from longtask_kit.errors import ConfigError, StreamExpiredError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from longtask_kit.client.backend import Backend

_MOST_TASKS = 1000
_CELL_TIMEOUT_S = 600
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run has shown.

    Attributes:
        used: The keys of what was asked.
        misses: What was asked and is not recorded, with the nearest that is.
        errors: Cells that failed, with their errors.
    """

    used: frozenset[str]
    misses: list[str]
    errors: list[str]


@contextlib.contextmanager
def open_replay(cassette: Path) -> Iterator[Callable[[Path], Seen]]:
    """Yield what runs a notebook in its folder, in a kernel of its own; the file is left as it is.

    Raises:
        ConfigError: It can't be run here, or asks more than can be looked through.
    """
    if find_spec("nbclient") is None:
        raise ConfigError(
            'Running a notebook needs nbclient: pip install "longtask_kit[lab]", or leave out '
            "--replay."
        )
    from longtask_kit.cli.notebooks import lesson_environment, open_home
    from longtask_kit.local.model.installed import models_folder

    load_cassette(cassette)
    known: set[str] = set()
    with open_home(models_folder()) as home, lesson_environment(home):
        os.environ |= {"LONGTASK_REPLAY": str(cassette), "LONGTASK_REPLAY_SPEED": "0", ALONE: "1"}
        yield lambda notebook: _look(_execute(notebook), known)


def _execute(path: Path) -> list[str]:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as exc:
        raise ConfigError(f"{path.name} can't be read as a notebook: {exc}.") from exc
    client = NotebookClient(
        notebook,
        timeout=_CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        allow_errors=True,
    )
    ended: list[str] = []
    try:
        client.execute()
    except (CellTimeoutError, DeadKernelError) as exc:
        why = f"a cell took more than {_CELL_TIMEOUT_S} s"
        ended = [why if isinstance(exc, CellTimeoutError) else "its kernel died"]
    told = [error for i, cell in enumerate(notebook.cells, 1) for error in _list_errors(i, cell)]
    return told + ended


def _list_errors(number: int, cell: Any) -> list[str]:  # noqa: ANN401 - nbformat has no types
    if "raises-exception" in cell.metadata.get("tags", ()):
        return []
    return [
        f"cell {number} fails: {output.ename}: {output.evalue}"
        for output in cell.get("outputs", ())
        if output.output_type == "error"
    ]


def _look(errors: list[str], known: set[str]) -> Seen:
    """Return what has been asked of this home's stack; not by what is known, to which it adds."""
    from longtask_kit.client.connect import connect
    from longtask_kit.local.stack import LocalStack

    if (stack := LocalStack.find()) is None:  # it has asked nothing
        return Seen(frozenset(), [], errors)
    with connect(settings=stack.settings.model_copy(update={"replay": None}), quiet=True) as kit:
        tasks = kit.tasks(limit=_MOST_TASKS)
        groups = [group for group in kit.groups(limit=100) if group.id not in known]
        listed = {task.id for task in tasks}
        if len(tasks) == _MOST_TASKS and not groups and not listed & known:
            raise ConfigError(f"The notebook submits more than {_MOST_TASKS:,} tasks by itself.")
        # A row may be a task that an earlier notebook has asked already.
        rows = {task_id for group in groups for task_id in group._record.rows if task_id}
        told = kit._door.ask(lambda backend: _read_all(backend, listed - known | rows))
        known |= listed | rows | {group.id for group in groups}
    misses = sorted({error for _, code, error in told if code == "not_recorded"})
    # A miss is told by what is nearest; the error that it is at its cell would be the same twice.
    own = [e for e in errors if "holds no answer to this" not in e and "holds no answer." not in e]
    return Seen(frozenset(question.key for question, _, _ in told), misses, own)


async def _read_all(
    backend: Backend, task_ids: Collection[str]
) -> list[tuple[Question, str | None, str]]:
    """Return what each task of the built-in handler asks, and how it failed."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def read(task_id: str) -> tuple[Question, str | None, str] | None:
        async with turns:
            try:
                record = await backend.read(task_id)
                wire = await backend.read_input(task_id)
            except StreamExpiredError:  # the notebook has deleted it
                return None
        if wire.get("handler", "openai") != "openai":
            return None
        sample = int(record.wire.get("sample") or 0)
        question = make_question(wire, model="", sample=sample)
        return question, record.code, record.error or ""

    found = await asyncio.gather(*map(read, sorted(task_ids)))
    return [told for told in found if told is not None]
