"""A store for many tasks at once: a few round trips, however many there are."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StoreError
from longtask_kit.log.budgets import BudgetStore
from longtask_kit.log.changes import Change
from longtask_kit.log.chats import ChatStore
from longtask_kit.log.events import START, to_ms
from longtask_kit.log.groups import GroupStore
from longtask_kit.log.index import make_listing_of_ended, make_listing_of_many
from longtask_kit.log.keys import log_key
from longtask_kit.log.limits import LimitStore
from longtask_kit.log.record import CANCELLED, find_timeout_ms, make_brief
from longtask_kit.log.store import Store, describe_end, expand_page
from longtask_kit.log.transcript import Transcript
from longtask_kit.log.versions import VersionStore
from longtask_kit.stages import tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from longtask_kit.log.archive import Archived
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.redis import RedisClient

_AT_ONCE = 100  # tasks a request
_MAX_REQUEST_CHARS = 1_000_000
_PAGE = 1000


class ManyStore(Store):
    """Redis, seen as tasks and groups of them."""

    def __init__(self, redis: RedisClient, *, ttl_s: int, lease_s: float) -> None:
        super().__init__(redis, ttl_s=ttl_s, lease_s=lease_s)
        self.groups = GroupStore(redis)
        self.limits = LimitStore(redis)
        self.budgets = BudgetStore(redis)
        self.versions = VersionStore(redis)
        self.chats = ChatStore(redis, ttl_s=ttl_s)

    async def create_many(
        self,
        tasks: Sequence[tuple[str, dict[str, Any], dict[str, Any]]],
        *,
        ttl_s: int,
    ) -> None:
        """Record tasks as pending, and list them; recording one twice is recording it once.

        Args:
            tasks: Id and wire of each, and what its record says besides: `groupId`, `content`, …
            ttl_s: How long each lives after its last event.
        """
        calls: list[tuple[str, list[Any]]] = []
        size = 0
        for task_id, wire, besides in tasks:
            first, parts = await self._write_input(task_id, wire, ttl_s=ttl_s)
            brief = json.dumps(make_brief(wire) | besides, ensure_ascii=False)
            content = besides.get("content", "")
            limit = find_timeout_ms(wire)
            calls.append((task_id, [first, parts, brief, content, limit]))
            size += len(first)
            if len(calls) >= _AT_ONCE or size > _MAX_REQUEST_CHARS:
                await self._create_all(calls, ttl_s=ttl_s)
                calls, size = [], 0
        await self._create_all(calls, ttl_s=ttl_s)

    async def _create_all(self, calls: Sequence[tuple[str, list[Any]]], *, ttl_s: int) -> None:
        if not calls:
            return
        ids = [task_id for task_id, _ in calls]
        await self._run_scripts("create", calls, also=make_listing_of_many(ids), ttl_s=ttl_s)
        for task_id in ids:
            self.changes.tell(Change(task_id=task_id, status="pending"))

    async def restore_many(self, tasks: Sequence[tuple[Archived, str]], *, ttl_s: int) -> list[str]:
        """Bring ended tasks back, each with the name of its content; return the ids of the new.

        They are listed by the time when they were submitted; what is here already stands.
        """
        new: list[str] = []
        calls: list[tuple[str, list[Any]]] = []
        listed: list[Any] = []
        size = 0
        for task, content in tasks:
            first, parts = await self._write_input(task.task_id, task.wire, ttl_s=ttl_s)
            sample = {"sample": task.sample} if task.sample else {}
            brief = json.dumps(make_brief(task.wire) | sample, ensure_ascii=False)
            told = [json.dumps(part, ensure_ascii=False) for part in _list_parts(task)]
            calls.append((task.task_id, [first, parts, brief, content, *told]))
            listed += [to_ms(task.created), task.task_id]
            size += len(first) + sum(map(len, told))
            if len(calls) >= _AT_ONCE or size > _MAX_REQUEST_CHARS:
                new += await self._restore_all(calls, listed, ttl_s=ttl_s)
                calls, listed, size = [], [], 0
        return new + await self._restore_all(calls, listed, ttl_s=ttl_s)

    async def _restore_all(
        self, calls: Sequence[tuple[str, list[Any]]], listed: Sequence[Any], *, ttl_s: int
    ) -> list[str]:
        if not calls:
            return []
        listing = make_listing_of_ended(listed)
        replies = await self._run_scripts("restore", calls, also=listing, ttl_s=ttl_s)
        pairs = zip(calls, replies[: len(calls)], strict=True)
        return [task_id for (task_id, _), reply in pairs if reply == ["restored"]]

    async def read_tasks(self, task_ids: Collection[str]) -> list[TaskRecord]:
        """Return the records of those that are there, their specs brief."""
        ids = list(task_ids)
        found: list[TaskRecord] = []
        for at in range(0, len(ids), _PAGE):
            found += await self.index.read_records(ids[at : at + _PAGE])
        return found

    async def cancel_many(self, task_ids: Sequence[str]) -> AsyncIterator[list[str]]:
        """Cancel tasks: what nobody runs at once, the attempts of others at their next flush.

        Yields:
            The ids of messages that have nothing left to deliver, of a hundred tasks at a time.
        """
        await self.notes.write_all()
        fields, ending = describe_end("cancelled", CANCELLED)
        for at in range(0, len(task_ids), _AT_ONCE):
            ids = task_ids[at : at + _AT_ONCE]
            replies = await self._run_scripts("settle", [(i, [*ending, 1, "", 0, ""]) for i in ids])
            messages: list[str] = []
            lines: dict[str, str | None] = {}
            for task_id, reply in zip(ids, replies, strict=True):
                match reply:
                    case ["settled", attempt, message_id, line]:
                        lines[task_id] = line
                        self.changes.tell(Change.of_fields(task_id, int(attempt), fields))
                        tell("end", task_id, message_id=message_id, status="cancelled")
                        messages += [message_id] if message_id else []
                        if int(attempt) > 1:  # an attempt had begun
                            with contextlib.suppress(StoreError):
                                await self.compact(task_id)
            await self._leave_lines(lines)
            yield messages

    async def regroup(
        self, task_ids: Sequence[str], besides: Mapping[str, Any], names: Sequence[str]
    ) -> None:
        """Have tasks that wait belong to the group that asks for them now.

        Args:
            task_ids: The tasks.
            besides: What their records say of it.
            names: All that records say of groups: what is not in `besides` is taken out.
        """
        told = [json.dumps(besides), json.dumps(list(names))]
        for at in range(0, len(task_ids), _AT_ONCE):
            ids = task_ids[at : at + _AT_ONCE]
            await self._run_scripts("regroup", [(i, told) for i in ids])

    async def read_texts(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Return the text of each task that has completed and is there."""
        texts: dict[str, str] = {}
        for at in range(0, len(task_ids), _AT_ONCE):
            ids = task_ids[at : at + _AT_ONCE]
            logs = await self._redis.run(
                [["XRANGE", log_key(i), "-", "+", "COUNT", _PAGE] for i in ids]
            )
            for task_id, log in zip(ids, logs, strict=True):
                transcript = Transcript()
                if len(log) == _PAGE:
                    events = await self.read_log(task_id, after=START)
                else:
                    events = expand_page(task_id, log, after=START)
                for event in events:
                    transcript.apply(event)
                if transcript.status == "completed":
                    texts[task_id] = transcript.text
        return texts


def _list_parts(task: Archived) -> list[list[Any]]:
    return [task.list_fields(), task.list_entries()]
