"""Tasks into a cassette: those that are named, or each that a kit submits, once it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from longtask_kit.client.cassette import (
    add_answers,
    check_redact,
    find_file,
    make_answer,
    make_question,
)
from longtask_kit.client.group import TaskGroup
from longtask_kit.client.progress import say
from longtask_kit.client.scrub import hide, scrub
from longtask_kit.client.task import Task
from longtask_kit.errors import ConfigError, LongTaskError, StreamExpiredError
from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.log.subscribe import follow
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from longtask_kit.cassettes import Answer
    from longtask_kit.client.backend import Backend
    from longtask_kit.client.cassette import Redact
    from longtask_kit.client.door import Door
    from longtask_kit.log.record import TaskRecord

logger = logging.getLogger(__name__)

_TICK_S = 0.5
_LOOK_AGAIN_TICKS = 60  # of silence: a change may be lost
_AT_ONCE = 16
_LEFT_OUT = {
    "open": "not ended yet",
    "handler": "of a handler of one's own, which is not recorded",
    "gone": "not there any more",
    "nameless": "without a model's name: give it as connect(model=…)",
    "redact": "for which redact=… returned no messages",
    "unanswered": "that no model ended: cancelled, out of time, or not in what was replayed",
}


class CassetteCalls:
    """What a kit does with cassettes."""

    _door: Door

    def save_cassette(
        self,
        path: str | os.PathLike[str],
        tasks: Task | TaskGroup | Iterable[Task | TaskGroup],
        *,
        redact: Redact | None = None,
    ) -> None:
        """Write what tasks were answered into a file, for `connect(replay=…)` anywhere.

        Prompts and answers are in it, failed attempts and the pace too; no key, host or path. What
        the file holds already stays, to the byte where the answer is the same.

        Args:
            path: The file, `answers.jsonl`.
            tasks: A task, a group, or several of both.
            redact: From a task's messages to those that are stored, by which it is found again;
                `connect(replay=…)` takes the same function.

        Raises:
            ConfigError: It could not be written; or `redact` returned no messages.
        """
        check_redact(redact)
        file, ids = find_file(path), _list_ids(tasks)
        answers, left_out = self._door.ask(
            lambda backend: read_answers(backend, ids, _read_terms(self._door, redact))
        )
        cassette = add_answers(file, answers)
        notes = [f"; {count} {_LEFT_OUT[why]}" for why, count in left_out.items()]
        say(
            f"{file.name}: {len(answers)} of {len(ids)} saved, {len(cassette.answers)} in it"
            f"{''.join(notes)}\n"
        )

    def record(self, path: str | os.PathLike[str], *, redact: Redact | None = None) -> Recorder:
        """Record what is submitted or retried in a `with` block, each task when it has ended.

        A task that ends after the block is recorded, too, while the kit is open.

        Args:
            path: The file, `answers.jsonl`.
            redact: As in `save_cassette`.

        Raises:
            ConfigError: The file can't be written to.
        """
        return Recorder(self._door, find_file(path), redact=redact)


class Recorder:
    """Records what a kit submits or retries while its block is open; made by `kit.record()`."""

    def __init__(self, door: Door, path: Path, *, redact: Redact | None = None) -> None:
        check_redact(redact)
        self._door, self._path, self._redact = door, path, redact
        self._open: set[str] = set()
        self._fresh: set[str] = set()  # heard of since the last look: a change may lie before that
        self._gate = threading.Lock()
        self._is_following = False
        self._turn = asyncio.Lock()
        add_answers(path, ())  # that it can be written is known now, not at the first answer

    def __repr__(self) -> str:
        return f"<Recorder into {self._path.name}, {len(self._open)} tasks not ended>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._door.listen_to_submits(self.note, is_on=False)
        self.flush()

    def start(self) -> None:
        """Hear of each task that is submitted from now on."""
        self._door.listen_to_submits(self.note)
        self._door.call_before_close(self.flush)

    def note(self, task_ids: Collection[str]) -> None:
        """Record these when they have ended."""
        with self._gate:
            self._open.update(task_ids)
            self._fresh.update(task_ids)
            if self._is_following or not self._open:
                return
            self._is_following = True
        self._door.start(self._follow())

    def flush(self) -> None:
        """Record now what has ended.

        Raises:
            ConfigError: The file can't be written.
        """
        if self._open:
            self._door.ask(lambda backend: self._record(backend, set(self._open)))

    async def _follow(self) -> None:
        """Look at what has changed, twice a second, until everything has ended."""
        place: str | None = None
        ticks, told = 0, ""
        while self._goes_on():
            backend = self._door.backend
            try:
                # Listen before look: what ends between the two is then among the changes.
                known = place or (await backend.groups.read_changes(None))[1]
                changes, place, is_torn = await backend.groups.read_changes(known)
                ended = {c.task_id for c in changes if c.status in (None, *TERMINAL_STATUSES)}
                ended |= self._take_fresh()
                ticks = 0 if is_torn else ticks + 1
                if ticks % _LOOK_AGAIN_TICKS < 2:
                    ended |= self._open
                await self._record(backend, ended & self._open)
                told = ""
            except LongTaskError as exc:
                ticks = 0  # what was heard of is looked for once more
                if told != (told := str(exc)):  # once, not twice a second
                    logger.warning("%s is not recorded for now: %s", self._path.name, exc)
            await asyncio.sleep(_TICK_S)

    def _take_fresh(self) -> set[str]:
        with self._gate:
            fresh, self._fresh = self._fresh, set()
            return fresh

    def _goes_on(self) -> bool:
        with self._gate:
            self._is_following = bool(self._open)
            return self._is_following

    async def _record(self, backend: Backend, task_ids: Collection[str]) -> None:
        """Record those of some tasks that have ended."""
        if not task_ids:
            return
        async with self._turn:
            wanted = sorted(self._open.intersection(task_ids))
            states = {c.task_id: c for c in await backend.groups.look(wanted)}
            over = [i for i in wanted if i not in states or states[i].status in TERMINAL_STATUSES]
            if not over:
                return
            terms = replace(_read_terms(self._door, self._redact), goes_on=True)
            answers, left_out = await read_answers(backend, over, terms)
            await asyncio.get_running_loop().run_in_executor(None, add_answers, self._path, answers)
            self._open.difference_update(over)
        for why, count in left_out.items():
            logger.warning("%s: %d left out, %s", self._path.name, count, _LEFT_OUT[why])


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How answers are read.

    Attributes:
        model: Of tasks that name none.
        hosts: Names of machines that no error keeps.
        redact: From messages to those that are kept.
        goes_on: Whether a task for which `redact` fails is left out, instead of costing them all.
    """

    model: str
    hosts: Collection[str]
    redact: Redact | None
    goes_on: bool = False


def _read_terms(door: Door, redact: Redact | None) -> Terms:
    settings = door.settings
    model = door.aim.model or (settings.model if settings is not None else "")
    own = settings.openai_base_url if settings is not None else None
    hosts = {urlsplit(url).hostname for url in (door.aim.service, own or "")}
    return Terms(model=model, hosts={host for host in hosts if host}, redact=redact)


def _list_ids(tasks: Task | TaskGroup | Iterable[Task | TaskGroup]) -> list[str]:
    several = [tasks] if isinstance(tasks, Task | TaskGroup) else list(tasks)
    ids: dict[str, None] = {}
    for one in several:
        if isinstance(one, TaskGroup):
            ids |= dict.fromkeys(task_id for task_id in one._record.rows if task_id)
        elif isinstance(one, Task):
            ids[one.id] = None
        else:
            raise ConfigError(
                f"save_cassette() takes tasks and groups, got {type(one).__name__}: `kit.tasks()` "
                "and `kit.groups()` list them."
            )
    return list(ids)


async def read_answers(
    backend: Backend, task_ids: Collection[str], terms: Terms
) -> tuple[list[Answer], Counter[str]]:
    """Return what tasks were answered, and how many were left out, by why."""
    turns = asyncio.Semaphore(_AT_ONCE)
    answers: list[tuple[datetime, Answer]] = []
    left_out: Counter[str] = Counter()

    async def read(task_id: str) -> None:
        async with turns:
            try:
                record = await backend.read(task_id)
                found = _why_not(record, terms.model) or await _read_answer(backend, record, terms)
            except StreamExpiredError:  # deleted, or its time to live is over
                found = "gone"
        if isinstance(found, str):
            left_out[found] += 1
        else:
            answers.append((record.since or record.created, found))

    await asyncio.gather(*map(read, task_ids))
    answers.sort(key=lambda one: one[0])  # of two answers to one question the later stands
    return [answer for _, answer in answers], left_out


def _why_not(record: TaskRecord, model: str) -> str | None:
    if record.wire.get("handler", "openai") != "openai":
        return "handler"
    if not record.is_over:
        return "open"
    return None if record.wire.get("model") or model else "nameless"


async def _read_answer(backend: Backend, record: TaskRecord, terms: Terms) -> Answer | str:
    wire = await backend.read_input(record.task_id)
    sample = int(record.wire.get("sample") or 0)
    try:
        question = make_question(wire, model=terms.model, sample=sample, redact=terms.redact)
    except Exception as exc:
        if not terms.goes_on:
            raise
        logger.warning("redact=… failed for %s: %r", record.task_id, exc)
        return "redact"
    async with contextlib.aclosing(follow(backend.source, record.task_id)) as events:  # type: ignore[type-var]
        log = [event async for event in events]

    def clean(text: str) -> str:
        if terms.redact is not None:
            said = TaskSpec.recall(wire).to_messages()
            text = hide(text, said=said, kept=question.messages)
        return scrub(text, task_id=record.task_id, hosts=terms.hosts)

    return make_answer(question, log, clean=clean) or "unanswered"
