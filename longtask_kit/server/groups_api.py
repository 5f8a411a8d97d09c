"""`/api/groups`: many tasks at once."""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Query, params
from pydantic import BaseModel, ConfigDict, Field, model_validator

from longtask_kit.log.events import Cursor
from longtask_kit.server.api_key import check_bearer
from longtask_kit.server.guests import Guests
from longtask_kit.server.http_edge import (
    BadRequestError,
    StartRequest,
    make_keyed_route,
    refusals,
)
from longtask_kit.server.places import check_reuse, find_place
from longtask_kit.server.services import Services
from longtask_kit.settings import secret
from longtask_kit.submit.asked import DEFAULT_TTL_S, Asked
from longtask_kit.submit.fates import LEAST_TTL_S
from longtask_kit.submit.groups import Groups
from longtask_kit.submit.spec import TaskSpec

_MAX_ROWS = 100_000
_MAX_IDS = 1000


_Limit = Annotated[int | None, Field(ge=1, le=1_000_000_000)]
_BudgetTokens = Annotated[int | None, Field(ge=1, le=10**15)]
_BudgetCost = Annotated[float | None, Field(gt=0, le=10**15, allow_inf_nan=False)]
_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Prices = Annotated[list[_Price], Field(min_length=2, max_length=2)]  # of a million tokens: in, out


class GroupOptions(BaseModel):
    """How fast a group runs, what it may spend, and how it is looked at."""

    model_config = ConfigDict(strict=True, extra="forbid")

    samples: int = Field(1, ge=1, le=100, description="How many rows in turn ask the same.")
    parallelism: int | None = Field(None, ge=1, le=1000)
    rpm: _Limit = None
    tpm: _Limit = None
    budgetTokens: _BudgetTokens = None  # noqa: N815 - wire
    budgetCost: _BudgetCost = Field(None, description="Needs `prices`.")  # noqa: N815 - wire
    prices: _Prices | None = Field(None, description="Of a million tokens: in, out.")
    models: list[str] | None = Field(None, description="Of a comparison, in turn; so are the rest.")
    blind: bool | None = None
    ttlS: int | None = Field(None, ge=LEAST_TTL_S)  # noqa: N815 - wire
    modelPrices: dict[str, _Prices | None] | None = None  # noqa: N815 - wire
    place: dict[str, Any] | None = Field(None, description="As a group's answer has it.")

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if self.budgetTokens and self.budgetCost:
            raise ValueError("has both budgetTokens and budgetCost: expected one of them")
        if self.budgetCost and not self.prices:
            raise ValueError(
                "has budgetCost without prices: expected [in, out] of a million tokens"
            )
        return self


class MapRequest(BaseModel):
    """Rows, each as `POST /api/tasks/start` takes one; null where a row is left out."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rows: list[StartRequest | None] = Field(min_length=1, max_length=_MAX_ROWS)
    model: str = Field("", max_length=200, description="Of rows that name none.")
    name: str = Field("", max_length=200, description="Mapped again, it is the same group.")
    options: GroupOptions = GroupOptions.model_validate({})
    samples: list[int] | None = None
    reuse: bool = True
    ttlS: int = Field(DEFAULT_TTL_S, ge=LEAST_TTL_S, le=10 * 365 * 86_400)  # noqa: N815 - wire
    groupId: str = Field("", description="Of a group: these rows replace its own, `begin` on.")  # noqa: N815 - wire
    begin: int = Field(0, ge=0)


class TaskReferences(BaseModel):
    """Which tasks."""

    model_config = ConfigDict(strict=True, extra="forbid")

    taskIds: list[str] = Field(max_length=_MAX_IDS)  # noqa: N815 - wire


class VoteRequest(BaseModel):
    """Whose answer is the best."""

    model_config = ConfigDict(strict=True, extra="forbid")

    taskId: str = Field(description="The first task of the prompt.")  # noqa: N815 - wire
    winner: str | None = Field(description="The best answer's task, `tie`, or null for no vote.")


class ResumeRequest(BaseModel):
    """What a group may spend in all from now on."""

    model_config = ConfigDict(strict=True, extra="forbid")

    budgetTokens: _BudgetTokens = None  # noqa: N815 - wire
    budgetCost: _BudgetCost = None  # noqa: N815 - wire

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if (self.budgetTokens is None) is (self.budgetCost is None):
            raise ValueError("has both budgetTokens and budgetCost, or none: expected one of them")
        return self


def create_groups_router(
    services: Services, dependencies: Sequence[params.Depends], guests: Guests | None = None
) -> APIRouter:
    """Return the router of `/api/groups`, where nothing is a guest's."""
    key = guests.api_key if guests else secret(services.settings.api_key)
    api = _GroupsApi(services, key)
    router = APIRouter(
        prefix="/api/groups",
        tags=["groups"],
        route_class=make_keyed_route(key),
        responses=refusals(400, *([401] if key else [])),
        dependencies=[*([Depends(check_bearer(key))] if key else []), *dependencies],
    )
    router.post("", summary="Ask for many rows", responses=refusals(404, 413, 502))(api.map)
    router.get("", summary="List groups, those that ran last first")(api.list_groups)
    router.get("/changes", summary="What has become of tasks")(api.read_changes)
    router.post("/look", summary="Where tasks stand", responses=refusals(413))(api.look)
    router.post("/texts", summary="What tasks have answered", responses=refusals(413))(api.texts)
    router.post("/retry", summary="Run failed tasks again", responses=refusals(413, 502))(api.retry)
    router.post("/cancel", summary="Cancel tasks", responses=refusals(413))(api.cancel)
    router.get("/{group_id}", summary="A group", responses=refusals(404))(api.read)
    router.post(
        "/{group_id}/resume",
        summary="Go on with a group whose budget was spent",
        responses=refusals(404, 413, 502),
    )(api.resume)
    router.post(
        "/{group_id}/vote",
        summary="Note whose answer is the best",
        responses=refusals(404, 413),
    )(api.vote)
    return router


class _GroupsApi:
    def __init__(self, services: Services, key: str) -> None:
        self._services = services
        self._key = key

    async def map(self, body: MapRequest) -> dict[str, Any]:
        """Have a task for each row, on record and in the queue, when this answers."""
        if body.reuse:
            check_reuse(self._key)
        specs = [
            None if row is None else TaskSpec.from_wire(row.model_dump(exclude_unset=True))
            for row in body.rows
        ]
        if body.samples is not None and len(body.samples) != len(specs):
            raise BadRequestError('"samples" must have a number for each row.')
        asked = Asked(
            specs=specs,
            place=find_place(self._services.settings, self._key, specs, model=body.model),
            name=body.name,
            options=body.options.model_dump(exclude_unset=True),
            samples=body.samples,
            reuse=body.reuse,
            ttl_s=body.ttlS,
            group_id=body.groupId,
            begin=body.begin,
        )
        mapped = await (await self._open()).map(asked)
        return mapped.to_wire()

    async def list_groups(self, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> dict[str, Any]:
        """Return groups."""
        groups = await (await self._open()).list_groups(limit=limit)
        return {"groups": [group.to_wire() for group in groups]}

    async def read(self, group_id: str) -> dict[str, Any]:
        """Return a group; 404 for an unknown id."""
        return (await (await self._open()).read(group_id)).to_wire()

    async def read_changes(
        self, after: Annotated[str | None, Query(max_length=40)] = None
    ) -> dict[str, Any]:
        """Return what has changed after a place; without one, the place where the stream ends."""
        try:
            begin = None if after is None else str(Cursor.parse(after))
        except ValueError as exc:
            message = '"after" must be a `place` that was answered before.'
            raise BadRequestError(message) from exc
        changes, place, is_torn = await (await self._open()).read_changes(begin)
        told = [change.to_wire() for change in changes]
        return {"changes": told, "place": place, "isTorn": is_torn}

    async def look(self, body: TaskReferences) -> dict[str, Any]:
        """Return the state of each task that is there."""
        changes = await (await self._open()).look(body.taskIds)
        return {"changes": [change.to_wire() for change in changes]}

    async def texts(self, body: TaskReferences) -> dict[str, Any]:
        """Return the text of each task that has completed."""
        return {"texts": await (await self._open()).read_texts(body.taskIds)}

    async def retry(self, body: TaskReferences) -> dict[str, Any]:
        """Queue failed and cancelled tasks once more."""
        await (await self._open()).retry(body.taskIds)
        return {"done": True}

    async def cancel(self, body: TaskReferences) -> dict[str, Any]:
        """Cancel tasks."""
        await (await self._open()).cancel(body.taskIds)
        return {"done": True}

    async def resume(self, group_id: str, body: ResumeRequest) -> dict[str, Any]:
        """Return the group, which goes on."""
        group = await (await self._open()).resume(
            group_id, budget_tokens=body.budgetTokens, budget_cost=body.budgetCost
        )
        return group.to_wire()

    async def vote(self, group_id: str, body: VoteRequest) -> dict[str, Any]:
        """Keep a vote with the group."""
        await (await self._open()).vote(group_id, body.taskId, body.winner)
        return {"done": True}

    async def _open(self) -> Groups:
        return (await self._services.open()).groups
