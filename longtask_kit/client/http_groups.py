"""Groups over the HTTP API of a webhook app."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import ConfigError, StoreError, SubmitError
from longtask_kit.log.changes import Change
from longtask_kit.log.groups import GroupRecord
from longtask_kit.log.keys import is_group_id
from longtask_kit.log.record import TaskRecord
from longtask_kit.submit.asked import DEFAULT_TTL_S, Mapped, split
from longtask_kit.submit.groups import no_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from longtask_kit.log.archive import Archived
    from longtask_kit.submit.asked import Asked, Place
    from longtask_kit.submit.spec import TaskSpec

_AT_ONCE = 500  # ids a request
_MAP_TIMEOUT_S = 120.0
_LISTED_AT_MOST = 1000
_MORE = 20  # listed beside those that are asked for: others come meanwhile


class HttpGroups:
    """See `GroupBackend`; the app names contents itself, for whoever has its key."""

    def __init__(self, call: Callable[..., Awaitable[dict[str, Any]]]) -> None:
        self._call = call

    async def map(self, asked: Asked) -> Mapped:
        """See `GroupBackend`."""
        mapped: Mapped | None = None
        for part in split(asked):
            if mapped is not None:
                part = replace(part, group_id=mapped.group.group_id)
            try:
                mapped = (await self._map(part)).after(mapped)
            except (SubmitError, StoreError) as exc:
                if mapped is None:
                    raise
                done = f"The first {part.begin - asked.begin:,} rows are queued."
                group = f'kit.attach_group("{mapped.group.group_id}") has them'
                cure = "Run the cell again: it goes on." if asked.reuse else f"{group}."
                raise type(exc)(f"{done} {exc} {cure}") from exc
        assert mapped is not None  # noqa: S101 - for mypy: there are rows
        return mapped

    async def _map(self, part: Asked) -> Mapped:
        answer = await self._call(
            "POST", "/api/groups", holds="group", json=part.to_wire(), timeout=_MAP_TIMEOUT_S
        )
        return Mapped.from_wire(answer)

    async def submit(self, spec: TaskSpec, *, place: Place, ttl_s: int = DEFAULT_TTL_S) -> str:
        """See `GroupBackend`."""
        body = spec.to_wire() | {"reuse": True}
        return str((await self._call("POST", "/api/tasks/start", json=body))["taskId"])

    async def read(self, group_id: str) -> GroupRecord:
        """See `GroupBackend`."""
        if not is_group_id(group_id):  # it may be no part of a path
            raise no_group(group_id)
        answer = await self._call("GET", f"/api/groups/{group_id}", holds="groupId")
        return GroupRecord.from_wire(answer)

    async def list_groups(self, *, limit: int) -> list[GroupRecord]:
        """See `GroupBackend`."""
        answer = await self._call("GET", "/api/groups", holds="groups", params={"limit": limit})
        return [GroupRecord.from_wire(wire) for wire in answer["groups"]]

    async def look(self, task_ids: Sequence[str]) -> list[Change]:
        """See `GroupBackend`."""
        found: list[Change] = []
        for body in _list_bodies(task_ids):
            answer = await self._call("POST", "/api/groups/look", holds="changes", json=body)
            found += map(Change.from_wire, answer["changes"])
        return found

    async def read_tasks(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """See `GroupBackend`: an app lists the newest, with those that came meanwhile."""
        params = {"limit": min(_LISTED_AT_MOST, len(task_ids) + _MORE)}
        answer = await self._call("GET", "/api/tasks", holds="tasks", params=params)
        found = [TaskRecord.from_wire(wire) for wire in answer["tasks"]]
        return [record for record in found if record.task_id in task_ids]

    async def read_changes(self, after: str | None) -> tuple[list[Change], str, bool]:
        """See `GroupBackend`."""
        params = {} if after is None else {"after": after}
        answer = await self._call("GET", "/api/groups/changes", holds="changes", params=params)
        changes = [Change.from_wire(wire) for wire in answer["changes"]]
        return changes, answer["place"], answer["isTorn"]

    async def read_texts(self, task_ids: Sequence[str]) -> dict[str, str]:
        """See `GroupBackend`."""
        texts: dict[str, str] = {}
        for body in _list_bodies(task_ids):
            answer = await self._call("POST", "/api/groups/texts", holds="texts", json=body)
            texts |= answer["texts"]
        return texts

    async def retry(self, task_ids: Sequence[str], *, retry_id: str = "") -> None:
        """See `GroupBackend`."""
        for body in _list_bodies(task_ids):
            await self._call("POST", "/api/groups/retry", holds="done", json=body)

    async def cancel(self, task_ids: Sequence[str]) -> None:
        """See `GroupBackend`."""
        # The last first: a place that is free would be taken by one that is yet to be cancelled.
        for body in _list_bodies(task_ids)[::-1]:
            await self._call("POST", "/api/groups/cancel", holds="done", json=body)

    async def resume(
        self,
        group_id: str,
        *,
        budget_tokens: int | None = None,
        budget_cost: float | None = None,
    ) -> GroupRecord:
        """See `GroupBackend`."""
        body = {"budgetTokens": budget_tokens, "budgetCost": budget_cost}
        path = f"/api/groups/{group_id}/resume"
        return GroupRecord.from_wire(await self._call("POST", path, holds="groupId", json=body))

    async def vote(self, group_id: str, task_id: str, winner: str | None) -> None:
        """See `GroupBackend`."""
        body = {"taskId": task_id, "winner": winner}
        await self._call("POST", f"/api/groups/{group_id}/vote", holds="done", json=body)

    async def restore(
        self, tasks: Sequence[Archived], groups: Sequence[GroupRecord], *, ttl_s: int
    ) -> int:
        """Refuse: nobody writes answers into an app's Redis from outside."""
        raise ConfigError(
            "An archive is imported with the services' own settings: connect() without a URL."
        )


def _list_bodies(task_ids: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"taskIds": list(task_ids[at : at + _AT_ONCE])} for at in range(0, len(task_ids), _AT_ONCE)
    ]
