"""Tasks out of an archive, back where the next who asks the same finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longtask_kit.log.groups import Claim
from longtask_kit.submit.identity import name_content, name_group
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.log.archive import Archived
    from longtask_kit.log.groups import GroupRecord
    from longtask_kit.log.many import ManyStore


async def restore(
    store: ManyStore, tasks: Sequence[Archived], groups: Sequence[GroupRecord], *, ttl_s: int
) -> int:
    """Write records and logs, lead contents to their tasks, and write the groups.

    Each step can be made again, and what is here already stands: a content that has an answer, or
    may still get one, keeps its own task.

    Returns:
        How many tasks were not here.
    """
    secret, _, now_ms = await store.groups.read_secret()
    places = {i: group.options.get("place") or {} for group in groups for i in group.rows if i}
    named = [
        (task, _name(task, secret, places.get(task.task_id, {}).get("versions", {})))
        for task in tasks
    ]
    # Records before pointers: who meets a pointer without a record would ask the same again.
    new = await store.restore_many(named, ttl_s=ttl_s)
    answers = {name: task.task_id for task, name in named if task.status == "completed"}
    # One that failed can be retried: whoever asks the same then finds its answer, or retries it.
    failed = {name: task.task_id for task, name in named if task.status == "failed"}
    await _claim(store, answers, now_ms=now_ms)
    await store.groups.claim(
        {name: task_id for name, task_id in failed.items() if name not in answers}, now_ms=now_ms
    )
    for group in groups:
        if await store.groups.read(group.group_id) is not None:
            continue
        pointer = name_group(group.name, owner="") if group.name else ""
        if pointer:
            await store.groups.find_group(pointer, group.group_id, ttl_s=ttl_s)
        await store.groups.save(
            group.group_id,
            name=group.name,
            rows=group.rows,
            options=group.options,
            ttl_s=ttl_s,
            pointer=pointer,
            created=group.created,
            votes=group.votes,
        )
    return len(new)


def _name(task: Archived, secret: str, versions: Mapping[str, str]) -> str:
    spec = TaskSpec.from_wire(task.wire)
    return name_content(
        spec,
        secret=secret,
        model=task.model,
        endpoint=task.endpoint,
        handler_version=versions.get(spec.handler, ""),
        sample=task.sample,
    )


async def _claim(store: ManyStore, answers: Mapping[str, str], *, now_ms: int) -> None:
    claims = await store.groups.claim(answers, now_ms=now_ms)
    others = {name: claim for name, claim in claims.items() if claim.task_id != answers[name]}
    records = await store.read_tasks({claim.task_id for claim in others.values()})
    standing = {r.task_id for r in records if r.status not in ("failed", "cancelled")}
    await store.groups.move(
        [
            (name, claim, Claim(answers[name], now_ms))
            for name, claim in others.items()
            if claim.task_id not in standing
        ]
    )
