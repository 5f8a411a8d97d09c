"""All tasks, followed while somebody looks: two Redis commands a second at most."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from longtask_kit.client.group_votes import was_replayed
from longtask_kit.client.group_watch import is_over
from longtask_kit.client.overview import Line, Side, make_line
from longtask_kit.client.overview_side import (
    HEALTH_COMMANDS,
    read_health,
    read_limits,
    read_queue,
)
from longtask_kit.client.watch import Watch
from longtask_kit.errors import LongTaskError, StreamExpiredError
from longtask_kit.log.changes import Change
from longtask_kit.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from longtask_kit.client.backend import Backend
    from longtask_kit.client.door import Door
    from longtask_kit.client.prices import Prices
    from longtask_kit.log.groups import GroupRecord
    from longtask_kit.log.record import TaskRecord

logger = logging.getLogger(__name__)

MOST_TASKS = 1000
_SIDES = 3
_TICK_S = 0.5
_LONGER_S = 1.0
_TURNS = 1.5  # times as long as what a turn sends must be rested for: so that a debt is paid
_LEAST_S = 0.1
_COMMANDS_PER_S = 2.0
_HEALTH_EVERY_S = 30.0
_QUEUE_EVERY_S = 3.0
_HOSTED_EVERY_S = 10.0  # whose log comes late, and whose calls are counted
_LIMITS_EVERY_S = 3.0
_NO_LIMITS_EVERY_S = 15.0
_LOOK_AGAIN_S = 30.0  # of silence, at those that are open: a change may be lost
_LOOKED_AT_ONCE = 50
_GROUPS_AT_FIRST = 8  # so that what is saved at once has their names


class OverviewWatch(Watch):
    """What a dashboard shows.

    Attributes:
        records: The newest tasks, as they were read, newest first.
        groups: Their groups; None where there is no record any more.
        side: What stands beside them.
        error: Why nothing is heard, or empty.
    """

    def __init__(self, door: Door, *, default_model: str = "") -> None:
        super().__init__(door)
        self.records: dict[str, TaskRecord] = {}
        self.groups: dict[str, GroupRecord | None] = {}
        self.side = Side()
        self.error = ""
        self._default_model = default_model
        self._states: dict[str, Change] = {}
        self._lines: dict[str, tuple[TaskRecord, Change | None, Line]] = {}
        self._place: str | None = None
        self._foreign: set[str] = set()  # older than what is listed
        self._outdated: set[str] = set()  # groups that have other rows than were read
        self._again: set[str] = set()  # to be looked at, whatever is known
        self._heard_at = 0.0
        self._is_read = False
        self._sides_read: set[str] = set()
        self._owed = 0.0  # commands that were sent since the last rest

    def read_lines(self) -> list[Line]:
        """Return all tasks as they are known, newest first; nothing is asked."""
        prices = self._door.aim.prices
        with self._changed:
            known, lines = self._lines, {}
            for task_id, record in self.records.items():
                state, before = self._states.get(task_id), known.get(task_id)
                if before is None or before[0] is not record or before[1] is not state:
                    group = self.groups.get(str(record.wire.get("groupId") or ""))
                    line = make_line(
                        record,
                        state,
                        default_model=self._default_model,
                        prices=find_own_prices(group, prices),
                    )
                    before = (record, state, line)
                lines[task_id] = before
            self._lines = lines
        return [line for _, _, line in lines.values()]

    def look_again(self, task_ids: Collection[str]) -> None:
        """Have tasks read anew, whatever was heard of them: somebody did something to them."""
        with self._changed:
            self._again |= set(task_ids)

    def catch_up(self, *, timeout_s: float) -> None:
        """Wait until all is known as of now; an error or the end of the time leave it as it is."""
        with self._changed:
            if not self.is_running:
                self._is_read, self._sides_read = False, set()
        self.hold(self, for_s=timeout_s)
        give_up_at = time.monotonic() + timeout_s
        with self._changed:
            while not (self._is_read and len(self._sides_read) == _SIDES):
                left_s = give_up_at - time.monotonic()
                if left_s <= 0 or not self.is_running:
                    break
                self._changed.wait(min(left_s, 0.1))  # an Interrupt comes between two steps
        self.release(self)

    async def _run(self) -> None:
        sides = {"health": self._read_health, "queue": self._read_queue}
        sides["limits"] = self._read_limits
        beside = [asyncio.create_task(self._keep_reading(*side)) for side in sides.items()]
        try:
            while self._goes_on():
                is_first, before = self._place is None, self._owed
                try:
                    await self._read_tasks(self._door.backend)
                    self.error = ""
                except LongTaskError as exc:
                    logger.info("the tasks could not be read: %s", exc)
                    self.error, self._place = str(exc), None
                self._is_read = True
                self._tell()
                await self._rest(0.0 if is_first else self._owed - before)
        except BaseException:
            self.is_running = False  # else `_goes_on` has said so, and another run may have begun
            raise
        finally:
            for reading in beside:
                reading.cancel()

    async def _rest(self, turn: float) -> None:
        """Rest for the commands that were sent, of which `turn` are those of one more turn."""
        rest_s = choose_rest_s(self._owed, turn)
        self._owed = max(0.0, self._owed - rest_s * _COMMANDS_PER_S)
        until = time.monotonic() + rest_s
        while time.monotonic() < until and self._readers:  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(_LEAST_S)

    async def _read_tasks(self, backend: Backend) -> None:
        groups_at_once = 1
        if self._place is None:
            groups_at_once = _GROUPS_AT_FIRST
            # Listen before look: what changes between the two is then in the stream.
            place = (await backend.groups.read_changes(None))[1]
            self._replace(await backend.list(limit=MOST_TASKS, status=None))
            self._place, self._heard_at = place, time.monotonic()
            self._owed += 3
        again, self._again = self._again, set()
        changes, self._place, is_torn = await backend.groups.read_changes(self._place)
        self._owed += 1 + len(changes) // 1000
        self._take(changes)
        if is_torn:
            self._place = None
        await self._read_new(backend, changes)
        await self._read_groups(backend, groups_at_once)
        if changes:
            self._heard_at = time.monotonic()
        elif time.monotonic() - self._heard_at > _LOOK_AGAIN_S:
            self._heard_at = time.monotonic()
            again |= set(self._find_open()[:_LOOKED_AT_ONCE])
        if again:
            self._owed += 1
            self._set(again, await backend.groups.look(sorted(again)))

    async def _read_new(self, backend: Backend, changes: Iterable[Change]) -> None:
        """Read the records of tasks that were submitted since."""
        known = self.records.keys() | self._foreign
        new = {c.task_id for c in changes if c.status is not None and c.task_id not in known}
        if not new:
            return
        fresh = await backend.groups.read_tasks(sorted(new))
        self._owed += -(-len(new) // 1000)
        with self._changed:
            found = [*fresh, *self.records.values()]
            found.sort(key=lambda record: record.created, reverse=True)
            self.records = {record.task_id: record for record in found[:MOST_TASKS]}
            self._foreign |= new - self.records.keys()
            self._outdated |= self._find_outdated(fresh)
            self._states = {i: s for i, s in self._states.items() if i in self.records}

    def _find_outdated(self, fresh: Iterable[TaskRecord]) -> set[str]:
        """Return groups that were mapped again or asked anew: a fresh task is no row of theirs."""
        rows = {group_id: set(group.rows) for group_id, group in self.groups.items() if group}
        owned = ((str(record.wire.get("groupId") or ""), record.task_id) for record in fresh)
        return {group_id for group_id, i in owned if i not in rows.get(group_id, {i})}

    async def _read_groups(self, backend: Backend, at_most: int) -> None:
        """Read some groups of which nothing is known: names, prices, rows in their order."""
        ids = (str(record.wire.get("groupId") or "") for record in self.records.values())
        known = self.groups.keys() - self._outdated
        new = [i for i in dict.fromkeys(ids) if i and i not in known][:at_most]
        if not new:
            return
        self._owed += 2 * len(new)
        found = await asyncio.gather(*(_read_group(backend, group_id) for group_id in new))
        with self._changed:
            self.groups = self.groups | dict(zip(new, found, strict=True))
            self._outdated -= set(new)
            self._lines = {}

    def _replace(self, records: Iterable[TaskRecord]) -> None:
        with self._changed:
            self.records = {record.task_id: record for record in records}
            self._states, self._foreign = {}, set()

    def _take(self, changes: Iterable[Change]) -> None:
        with self._changed:
            for change in changes:
                record = self.records.get(change.task_id)
                if record is None:
                    continue
                if change.status is None:
                    del self.records[change.task_id]
                elif change.supersedes(self._states.get(change.task_id) or Change.of(record)):
                    self._states[change.task_id] = replace(change, prompt=None)

    def _set(self, asked: Collection[str], found: Iterable[Change]) -> None:
        """Take what was looked at as it is; who is not there is gone."""
        states = {change.task_id: change for change in found}
        with self._changed:
            for task_id in asked:
                if task_id not in states:
                    self.records.pop(task_id, None)
                elif task_id in self.records:
                    self._states[task_id] = states[task_id]

    def _find_open(self) -> list[str]:
        return [
            task_id
            for task_id, record in self.records.items()
            if not is_over(self._states.get(task_id) or Change.of(record))
        ]

    async def _keep_reading(self, what: str, read: Callable[[Backend], Awaitable[float]]) -> None:
        """Read one thing beside the tasks, and again when it is due."""
        while True:
            every_s = await read(self._door.backend)
            self._sides_read.add(what)
            self._tell()
            await asyncio.sleep(every_s)

    async def _read_health(self, backend: Backend) -> float:
        self._owed += HEALTH_COMMANDS
        health = await read_health(backend, self._door.settings)
        self.side = replace(self.side, health=health)
        return _HEALTH_EVERY_S

    async def _read_queue(self, backend: Backend) -> float:
        settings = self._door.settings
        queue, notes, error = await read_queue(backend, settings)
        self.side = replace(self.side, queue=queue or self.side.queue, notes=notes, error=error)
        is_here = settings is not None and is_loopback(settings.qstash_url)
        return _QUEUE_EVERY_S if is_here else _HOSTED_EVERY_S

    async def _read_limits(self, backend: Backend) -> float:
        """Read the limiter's levels; returns in how many seconds to do so again."""
        while not self._is_read:  # noqa: ASYNC110 - whose models are asked for
            await asyncio.sleep(_LEAST_S)
        with self._changed:
            records = list(self.records.values())[:_LOOKED_AT_ONCE]
        if not records:
            return _LIMITS_EVERY_S
        try:
            limits = await read_limits(backend, self._door.settings, records)
        except LongTaskError as exc:
            logger.info("the limiter's level could not be read: %s", exc)
            return _NO_LIMITS_EVERY_S
        self._owed += 1
        self.side = replace(self.side, limits=limits)
        return _LIMITS_EVERY_S if limits else _NO_LIMITS_EVERY_S


def find_own_prices(group: GroupRecord | None, default: Prices | None) -> Prices | None:
    """Return the prices that a group was asked with, of a comparison those of each model.

    Without any they are the default ones; a replay has none, as nobody pays for it again.
    """
    if group is None:
        return default
    own: Prices | None = group.options.get("prices") or group.options.get("modelPrices")
    return None if was_replayed(group) else own or default


def choose_rest_s(owed: float, turn: float) -> float:
    """Tell how long to rest: after many commands at once, for a while a little longer.

    Args:
        owed: Commands that were sent and not yet rested for.
        turn: As many as the next turn may send, if it is like this one.
    """
    most_s = max(_LONGER_S, _TURNS * turn / _COMMANDS_PER_S)
    return max(_TICK_S, min(owed / _COMMANDS_PER_S, most_s))


async def _read_group(backend: Backend, group_id: str) -> GroupRecord | None:
    try:
        return await backend.groups.read(group_id)
    except StreamExpiredError:
        return None
