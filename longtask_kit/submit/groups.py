"""Many tasks as one group: what is there is kept or joined, and only the rest is queued.

Order of writes: pointer, record, message. Each can be made again, and a crash between two of them
is made up for by the next call: a pointer without a record gets one, a record without a message is
published with the same deduplication id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import LongTaskError, StreamExpiredError, SubmitError
from longtask_kit.log.budgets import find_budget
from longtask_kit.log.changes import Change
from longtask_kit.log.groups import TIE, Claim, GroupRecord
from longtask_kit.log.keys import is_group_id, new_group_id, new_task_id
from longtask_kit.stages import tell
from longtask_kit.submit.asked import DEFAULT_TTL_S, Asked, Mapped, Place, replace_rows
from longtask_kit.submit.fates import Fate, decide_fate
from longtask_kit.submit.identity import name_content, name_group
from longtask_kit.submit.queue import find_flow
from longtask_kit.submit.restore import restore
from longtask_kit.submit.tasks import try_for_a_moment
from longtask_kit.traces import trace_submit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from longtask_kit.log.archive import Archived
    from longtask_kit.log.many import ManyStore
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.submit.queue import Flow, Queue
    from longtask_kit.submit.spec import TaskSpec
    from longtask_kit.submit.tasks import Tasks

_AT_ONCE = 16  # tasks that are retried
_OF_TASKS = ("parallelism", "rpm", "tpm")  # what each task of a group has on record


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The task of each content, by the contents' names."""

    contents: Sequence[str | None]  # of the rows
    ids: Mapping[str, str]
    fates: Mapping[str, Fate]
    asked: Mapping[str, TaskSpec]
    samples: Mapping[str, int]
    kept_since: datetime | None
    is_secret_lost: bool
    is_reused: bool  # the names are the contents'
    versions: Mapping[str, str]  # of handlers
    own: frozenset[str]  # tasks that nobody else can have been given

    def describe(self, content: str) -> dict[str, Any]:
        """Return what the record of a content's task says besides."""
        told: dict[str, Any] = {"content": content} if self.is_reused else {}
        return told | ({"sample": self.samples[content]} if content in self.samples else {})


class Groups:
    """Maps rows to tasks, over the same store and queue as `Tasks`."""

    def __init__(self, tasks: Tasks, store: ManyStore, queue: Queue) -> None:
        self._tasks = tasks
        self.store = store
        self._queue = queue

    async def map(self, asked: Asked) -> Mapped:
        """Have a task for each row, on record and in the queue; returns when they all are.

        Raises:
            QuotaError: A plan's limit was reached half-way; map again to go on.
            SubmitError: The queue refused.
            StreamExpiredError: The group, whose rows are replaced, is not there.
            StoreError: Redis did not answer; map again.
        """
        name, place, ttl_s = asked.name, asked.place, asked.ttl_s
        before = await self.read(asked.group_id) if asked.group_id else None
        pointer = name_group(name, owner=place.owner) if name else ""
        group_id = before.group_id if before else await self._find_group(asked, pointer)
        found = await self._find_tasks(asked)
        # An archive needs to know, too, what its rows were asked of.
        named = {"model": place.model, "endpoint": place.endpoint, "versions": found.versions}
        options = dict(asked.options) | {"place": named}
        rows = [found.ids[content] if content else None for content in found.contents]
        if before is not None:
            rows = replace_rows(before.rows, rows, begin=asked.begin)
            name, options = before.name, before.options
        # The group before its tasks: whoever attaches after a crash finds all of its rows.
        group = await self.store.groups.save(
            group_id, name=name, rows=rows, options=options, ttl_s=ttl_s, pointer=pointer
        )
        await self._queue_all(
            found, group_id=group_id, options=options, ttl_s=ttl_s, request_id=asked.request_id
        )
        return Mapped(
            group=group,
            fates=Counter(found.fates.values()),
            kept_since=found.kept_since,
            is_secret_lost=found.is_secret_lost,
        )

    async def vote(self, group_id: str, task_id: str, winner: str | None) -> None:
        """Note whose answer is the best of those to a prompt, or that none is known to be.

        Args:
            group_id: The group.
            task_id: The first task of that prompt's.
            winner: The best one's task, `tie`, or None to take a vote back.

        Raises:
            StreamExpiredError: The group is not there.
            SubmitError: They are no tasks of it.
        """
        group = await self.read(group_id)
        if not {task_id, winner or TIE} - {TIE} <= set(group.rows):
            raise SubmitError(
                f"A vote is for a task of {group_id}, or {TIE!r}; got {winner!r:.80}."
            )
        await self.store.groups.set_vote(group_id, task_id, winner)

    async def submit(self, spec: TaskSpec, *, place: Place, ttl_s: int = DEFAULT_TTL_S) -> str:
        """Return the task of a content: the one that there is, or a new one.

        Raises:
            SubmitError, StoreError: As `map`.
        """
        found = await self._find_tasks(Asked(specs=[spec], place=place))
        await self._queue_all(found, group_id="", options={}, ttl_s=ttl_s)
        [task_id] = found.ids.values()
        return task_id

    async def read(self, group_id: str) -> GroupRecord:
        """Return a group.

        Raises:
            StreamExpiredError: It is unknown, or older than its time to live.
        """
        group = await self.store.groups.read(group_id) if is_group_id(group_id) else None
        if group is None:
            raise no_group(group_id)
        return group

    async def list_groups(self, *, limit: int) -> list[GroupRecord]:
        """Return groups, those that ran last first."""
        return await self.store.groups.read_newest(limit=limit)

    async def look(self, task_ids: Sequence[str]) -> list[Change]:
        """Return where tasks stand; those that are not there any more are left out."""
        return [Change.of(record) for record in await self.store.read_tasks(task_ids)]

    async def read_tasks(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Return the records of tasks; those that are not there any more are left out."""
        return await self.store.read_tasks(task_ids)

    async def read_changes(self, after: str | None) -> tuple[list[Change], str, bool]:
        """Return what has changed after a place (None: from now on), and the new place.

        The third says whether some is missing: then look at all again.
        """
        if after is None:
            return [], await self.store.changes.find_end(), False
        return await self.store.changes.read(after)

    async def read_texts(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Return the text of each task that has completed and is there."""
        return await self.store.read_texts(task_ids)

    async def restore(
        self, tasks: Sequence[Archived], groups: Sequence[GroupRecord], *, ttl_s: int
    ) -> int:
        """Bring back what an archive holds; returns how many tasks were not here."""
        return await restore(self.store, tasks, groups, ttl_s=ttl_s)

    async def _find_group(self, asked: Asked, pointer: str) -> str:
        proposed = new_group_id(f"{asked.request_id} group")
        if not pointer:
            return proposed
        return await self.store.groups.find_group(pointer, proposed, ttl_s=asked.ttl_s)

    async def _find_tasks(self, asked_for: Asked) -> _Found:
        """Return the task of each content, what it needs, and what is asked."""
        specs, samples, place = asked_for.specs, asked_for.samples, asked_for.place
        reuse = asked_for.reuse
        (secret, is_secret_lost, now_ms), versions = await asyncio.gather(
            self.store.groups.read_secret(), self.store.versions.read(self._queue.webhook_url)
        )
        if reuse:
            secret += place.owner
            contents = _name_all(specs, samples, secret=secret, place=place, versions=versions)
            wanted = {content: new_task_id() for content in contents if content}
            claims = await self.store.groups.claim(wanted, now_ms=now_ms)
        else:
            contents = [None if spec is None else str(i) for i, spec in enumerate(specs)]
            seed = asked_for.request_id  # what no content leads to is the same when asked again
            wanted = {content: new_task_id(f"{seed} {content}") for content in contents if content}
            claims = {content: Claim(task_id, now_ms) for content, task_id in wanted.items()}
        known = [claim.task_id for c, claim in claims.items() if wanted[c] != claim.task_id]
        records = {r.task_id: r for r in await self.store.read_tasks(known)}
        asked = {c: spec for c, spec in zip(contents, specs, strict=True) if c and spec}
        fates = {
            c: decide_fate(
                records.get(claim.task_id),
                age_s=(now_ms - claim.at_ms) / 1000,
                endpoint=asked[c].endpoint,
            )
            for c, claim in claims.items()
        }
        kept = [records[claims[c].task_id].created for c, f in fates.items() if f == "keep"]
        wanted |= {content: new_task_id() for content, fate in fates.items() if fate == "renew"}
        ids = await self._renew(claims, fates, wanted, now_ms=now_ms)
        return _Found(
            contents=contents,
            ids=ids,
            fates=fates,
            asked=asked,
            samples={c: s for c, s in zip(contents, samples or (), strict=False) if c and s},
            kept_since=min(kept, default=None),
            is_secret_lost=reuse and is_secret_lost,
            is_reused=reuse,
            versions=versions,
            own=frozenset(wanted.values()) & frozenset(ids.values()),
        )

    async def _renew(
        self,
        claims: Mapping[str, Claim],
        fates: Mapping[str, Fate],
        wanted: Mapping[str, str],
        *,
        now_ms: int,
    ) -> dict[str, str]:
        """Return the task of each content, a new one where it was cancelled or is gone."""
        old = [content for content, fate in fates.items() if fate == "renew"]
        moves = [(content, claims[content], Claim(wanted[content], now_ms)) for content in old]
        moved = dict(zip(old, await self.store.groups.move(moves), strict=True))
        return {content: moved.get(content, claim).task_id for content, claim in claims.items()}

    async def _queue_all(
        self,
        found: _Found,
        *,
        group_id: str,
        options: Mapping[str, Any],
        ttl_s: int,
        request_id: str = "",
    ) -> None:
        ids, asked = found.ids, found.asked
        new = [c for c, fate in found.fates.items() if fate in ("run", "renew")]
        of_group: dict[str, Any] = {"groupId": group_id} if group_id else {}
        of_group |= {name: options[name] for name in _OF_TASKS if options.get(name)}
        if find_budget(options):
            of_group["budget"] = True
        fresh = [(ids[c], asked[c].to_wire(), of_group | found.describe(c)) for c in new]
        again = [ids[c] for c, fate in found.fates.items() if fate in ("retry", "resume")]
        waiting = [c for c, fate in found.fates.items() if fate == "publish"]
        try:
            await self.store.create_many(fresh, ttl_s=ttl_s)
            if group_id:
                names = ("groupId", "budget", *_OF_TASKS)
                await self.store.regroup([*again, *(ids[c] for c in waiting)], of_group, names)
            to_publish = [(ids[c], asked[c].retries) for c in [*new, *waiting]]
            await self._publish_all(to_publish, flow=find_flow(of_group))
            await self.retry(again, retry_id=request_id)
        except asyncio.CancelledError:
            # Whoever asked is gone: what is new must neither wait for ever nor run, unless somebody
            # else has asked for the same meanwhile.
            await try_for_a_moment(self.cancel([ids[c] for c in new if ids[c] in found.own]))
            raise

    async def _publish_all(
        self, tasks: Sequence[tuple[str, int | None]], *, flow: Flow | None
    ) -> None:
        done = 0
        try:
            with trace_submit(*(task_id for task_id, _ in tasks)):
                async for message_ids in self._queue.publish_many(tasks, flow=flow):
                    done += len(message_ids)
                    for task_id, message_id in message_ids.items():
                        tell("submit", task_id, message_id=message_id)
                    await self.store.set_message_ids(message_ids)
        except SubmitError as exc:  # or one of quota
            raise type(exc)(
                f"{done} of {len(tasks)} tasks are queued: {exc} Run the cell again: it goes on."
            ) from exc

    async def resume(
        self,
        group_id: str,
        *,
        budget_tokens: int | None = None,
        budget_cost: float | None = None,
    ) -> GroupRecord:
        """Go on with a group whose budget was spent; what is answered is not asked again.

        Raises:
            StreamExpiredError: It is unknown.
            SubmitError: The group has no budget or has spent as much, or a cost was given and it
                has no prices.
        """
        await self.store.groups.prolong(group_id)
        group = await self.read(group_id)
        if not find_budget(group.options):  # its rows would not heed one that came later
            raise SubmitError(
                "This group has no budget, so nothing waits for one: map() its rows with "
                "budget_tokens or budget_cost."
            )
        options = group.options | {"budgetTokens": budget_tokens, "budgetCost": budget_cost}
        await self.store.budgets.check_more(group_id, options)
        await self.store.groups.set_options(group_id, options)
        ids = list(dict.fromkeys(task_id for task_id in group.rows if task_id))
        # Again while some are: what was on its way to be parked is so a moment later.
        while parked := [r.task_id for r in await self.store.read_tasks(ids) if r.is_parked]:
            await self.retry(parked)
            resumed = set(parked)
            ids = [task_id for task_id in ids if task_id not in resumed]
        return replace(group, options=options, code=None)

    async def retry(self, task_ids: Sequence[str], *, retry_id: str = "") -> None:
        """Run failed tasks again; those that were retried meanwhile, or are gone, are left alone.

        Raises:
            SubmitError: The queue refused; retry again.
            StoreError: Redis did not answer; retry again.
        """

        async def retry_one(task_id: str) -> None:
            with contextlib.suppress(StreamExpiredError):
                await self._tasks.retry_if_ended(task_id, retry_id=retry_id)

        await _do_for_all(retry_one, task_ids)

    async def cancel(self, task_ids: Sequence[str]) -> None:
        """Cancel tasks, those that wait at once."""
        # The last first: a place that is free would be taken by one that is yet to be cancelled.
        async for message_ids in self.store.cancel_many(task_ids[::-1]):
            await self._queue.cancel_many(message_ids)


async def _do_for_all(do: Callable[[str], Awaitable[None]], task_ids: Sequence[str]) -> None:
    """Do something for each task, for a few at once; after an error no more are begun."""
    turns = asyncio.Semaphore(_AT_ONCE)
    errors: list[LongTaskError] = []

    async def take_turn(task_id: str) -> None:
        async with turns:
            if errors:
                return
            try:
                await do(task_id)
            except LongTaskError as exc:  # those under way come to their end
                errors.append(exc)

    await asyncio.gather(*map(take_turn, task_ids))
    if errors:
        raise errors[0]


def _name_all(
    specs: Sequence[TaskSpec | None],
    samples: Sequence[int] | None,
    *,
    secret: str,
    place: Place,
    versions: Mapping[str, str],
) -> list[str | None]:
    return [
        None
        if spec is None
        else name_content(
            spec,
            secret=secret,
            model=spec.model or place.model,
            endpoint=place.endpoint,
            handler_version=versions.get(spec.handler, ""),
            sample=samples[i] if samples else 0,
        )
        for i, spec in enumerate(specs)
    ]


def no_group(group_id: str) -> StreamExpiredError:
    """Return the error of an id that no group has, or none can have."""
    return StreamExpiredError(
        f"No group {group_id[:80]!r}: expected an id of `kit.map()`'s or `kit.groups()`'. "
        "It outlived its time to live, or was never here; map its rows again.",
        task_id="",
    )
