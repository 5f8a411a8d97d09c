"""The endpoints of schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from longtask_kit.local.qstash.controls import now_ms
from longtask_kit.local.qstash.destination import control_params, destination_of, is_url
from longtask_kit.local.qstash.errors import MalformedRequestError
from longtask_kit.local.qstash.routes.request import (
    caller_ip,
    catalog_of,
    found,
    queue_of,
    reach_of,
    scheduler_of,
)
from longtask_kit.local.qstash.schedules import Schedule, parse_schedule
from longtask_kit.local.qstash.views import schedule_view

if TYPE_CHECKING:
    from starlette.requests import Request

_PREFIX = b"/v2/schedules/"


async def create_schedule(request: Request) -> Response:
    """POST /v2/schedules/{destination}: one with the same id is replaced wholly."""
    query = request.scope["query_string"]
    destination = destination_of(request.scope["raw_path"], query, prefix=_PREFIX)
    schedule = parse_schedule(
        [*request.headers.items(), *control_params(query)],
        destination=destination,
        body=await request.body(),
        time_ms=now_ms(),
        caller_ip=caller_ip(request),
    )
    await _check(request, schedule)
    await _check_plan(request, schedule)
    await scheduler_of(request).save(schedule)
    return JSONResponse({"scheduleId": schedule.schedule_id}, 201)


async def list_schedules(request: Request) -> Response:
    """GET /v2/schedules."""
    catalog = catalog_of(request)
    return JSONResponse(
        [
            schedule_view(one, await catalog.schedule_state(one.schedule_id))
            for one in await catalog.schedules()
        ]
    )


async def get_schedule(request: Request) -> Response:
    """GET /v2/schedules/{id}."""
    schedule = await _schedule(request)
    state = await catalog_of(request).schedule_state(schedule.schedule_id)
    return JSONResponse(schedule_view(schedule, state))


async def delete_schedule(request: Request) -> Response:
    """DELETE /v2/schedules/{id}."""
    was_there = await catalog_of(request).delete_schedule(request.path_params["schedule_id"])
    found(was_there or None, "schedule")
    return Response(status_code=200)


async def pause_schedule(request: Request) -> Response:
    """PATCH or POST /v2/schedules/{id}/pause and /resume."""
    schedule = await _schedule(request)
    if request.url.path.endswith("/pause"):
        await catalog_of(request).pause_schedule(schedule.schedule_id)
    else:
        await scheduler_of(request).resume(schedule)
    return Response(status_code=200)


async def _schedule(request: Request) -> Schedule:
    schedule: Schedule = found(
        await catalog_of(request).schedule(request.path_params["schedule_id"]), "schedule"
    )
    return schedule


async def _check(request: Request, schedule: Schedule) -> None:
    """Refuse now what could never be delivered; a group may change until its turn."""
    if not is_url(schedule.destination):
        if await catalog_of(request).group(schedule.destination) is None:
            raise MalformedRequestError(
                "invalid destination url: endpoint has invalid scheme, add http:// or https:// "
                f"(and there is no url group {schedule.destination[:80]!r})"
            )
    else:
        reach_of(request).check(schedule.destination)
    message = schedule.example()
    for url in (message.callback, message.failure_callback):
        if url is not None:
            reach_of(request).check(url)


async def _check_plan(request: Request, schedule: Schedule) -> None:
    plan, message = queue_of(request).plan, schedule.example()
    plan.check_messages([message], time_ms=message.created_at_ms)
    if plan.schedules is not None:
        ids = {one.schedule_id for one in await catalog_of(request).schedules()}
        count = len(ids | {schedule.schedule_id})
        plan.check_size("too many schedules", count, plan.schedules)


SCHEDULE_ROUTES = [
    Route("/v2/schedules", list_schedules, methods=["GET"]),
    # Both SDKs use PATCH, the docs POST; before the destinations, of which none looks like it.
    Route("/v2/schedules/{schedule_id}/pause", pause_schedule, methods=["PATCH", "POST"]),
    Route("/v2/schedules/{schedule_id}/resume", pause_schedule, methods=["PATCH", "POST"]),
    Route("/v2/schedules/{schedule_id}", get_schedule, methods=["GET"]),
    Route("/v2/schedules/{schedule_id}", delete_schedule, methods=["DELETE"]),
    Route("/v2/schedules/{destination:path}", create_schedule, methods=["POST"]),
]
