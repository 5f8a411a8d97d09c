"""The endpoints that set things up: queues, URL groups, flow control."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from longtask_kit.local.qstash.controls import now_ms
from longtask_kit.local.qstash.errors import MalformedRequestError
from longtask_kit.local.qstash.flow import MAX_LIMIT, parse_limit, parse_period_s
from longtask_kit.local.qstash.groups import (
    Endpoint,
    UrlGroup,
    parse_endpoints,
    parse_group_headers,
)
from longtask_kit.local.qstash.message import check_name
from longtask_kit.local.qstash.routes.messages import cancel_where
from longtask_kit.local.qstash.routes.request import catalog_of, found, json_of, query_of, queue_of

if TYPE_CHECKING:
    from starlette.requests import Request


async def upsert_queue(request: Request) -> Response:
    """POST /v2/queues."""
    fields = await json_of(request)
    if not isinstance(fields, dict) or not isinstance(fields.get("queueName"), str):
        raise MalformedRequestError('expected a JSON body {"queueName": ..., "parallelism": 1}')
    name = check_name(fields["queueName"], what="queue name")
    parallelism, is_paused = fields.get("parallelism"), fields.get("paused")
    is_number = isinstance(parallelism, int) and not isinstance(parallelism, bool)
    if parallelism is not None and not (is_number and 1 <= parallelism <= MAX_LIMIT):
        raise MalformedRequestError(
            f"invalid parallelism: expected 1 to {MAX_LIMIT}, got {str(parallelism)[:80]!r}"
        )
    if not isinstance(is_paused, bool | None):
        raise MalformedRequestError("invalid paused: expected true or false")
    controls, plan = queue_of(request).controls, queue_of(request).plan
    plan.check_size("too many queues", len(controls.queues.keys() | {name}), plan.queues)
    await controls.set_queue(name, parallelism=parallelism, is_paused=is_paused)
    return JSONResponse(controls.queue_view(name))


async def list_queues(request: Request) -> Response:
    """GET /v2/queues."""
    controls = queue_of(request).controls
    return JSONResponse([controls.queue_view(name) for name in sorted(controls.queues)])


async def get_queue(request: Request) -> Response:
    """GET /v2/queues/{name}."""
    name = request.path_params["name"]
    return JSONResponse(found(queue_of(request).controls.queue_view(name), "queue"))


async def delete_queue(request: Request) -> Response:
    """DELETE /v2/queues/{name}: its messages are cancelled, which their events tell."""
    name = request.path_params["name"]
    if name in queue_of(request).controls.queues:
        await cancel_where(request, {"queueName": [name]})
        await queue_of(request).controls.delete_queue(name)
    return Response(status_code=200)


async def pause_queue(request: Request) -> Response:
    """POST /v2/queues/{name}/pause and /resume: in force at once."""
    controls, name = queue_of(request).controls, request.path_params["name"]
    found(controls.queue_view(name), "queue")
    await controls.set_queue(name, is_paused=request.url.path.endswith("/pause"))
    return JSONResponse(controls.queue_view(name))


async def list_groups(request: Request) -> Response:
    """GET /v2/topics."""
    return JSONResponse([group.to_wire() for group in await catalog_of(request).groups()])


async def get_group(request: Request) -> Response:
    """GET /v2/topics/{name}."""
    group = await catalog_of(request).group(request.path_params["name"])
    return JSONResponse(found(group, "url group").to_wire())


async def add_endpoints(request: Request) -> Response:
    """POST /v2/topics/{name}/endpoints: the group is made if it is new."""
    name, time_ms = check_name(request.path_params["name"], what="url group name"), now_ms()
    parsed = parse_endpoints(await json_of(request), need_url=True)
    added = [Endpoint(url=one["url"] or "", name=one["name"] or None) for one in parsed]
    catalog, plan = catalog_of(request), queue_of(request).plan
    async with catalog.group_lock:
        names = {group.name for group in await catalog.groups()} if plan.groups else set()
        plan.check_size("too many url groups", len(names | {name}), plan.groups)
        group = await catalog.group(name)
        group = group or UrlGroup(name=name, created_at_ms=time_ms, updated_at_ms=time_ms)
        group = group.with_endpoints(added, time_ms=time_ms)
        plan.check_size("too many endpoints", len(group.endpoints), plan.group_endpoints)
        await catalog.save_group(group)
    return JSONResponse(group.to_wire())


async def remove_endpoints(request: Request) -> Response:
    """DELETE /v2/topics/{name}/endpoints: a group without endpoints is deleted."""
    removed = parse_endpoints(await json_of(request), need_url=False)
    catalog = catalog_of(request)
    async with catalog.group_lock:
        group: UrlGroup = found(
            await catalog.group(request.path_params["name"]), "url group"
        ).without_endpoints(removed, time_ms=now_ms())
        await catalog.save_group(group)
    return JSONResponse(group.to_wire())


async def patch_group(request: Request) -> Response:
    """PATCH /v2/topics/{name}: headers for messages that don't set them."""
    headers = parse_group_headers(await json_of(request))
    catalog = catalog_of(request)
    async with catalog.group_lock:
        group = found(await catalog.group(request.path_params["name"]), "url group")
        group = dataclasses.replace(group, headers=headers, updated_at_ms=now_ms())
        await catalog.save_group(group)
    return JSONResponse(group.to_wire())


async def delete_group(request: Request) -> Response:
    """DELETE /v2/topics/{name}: no error if there is none, which SDK tests rely on."""
    catalog = catalog_of(request)
    async with catalog.group_lock:
        await catalog.delete_group(request.path_params["name"])
    return Response(status_code=200)


async def list_flows(request: Request) -> Response:
    """GET /v2/flowControl: every key, or those with `search` in them."""
    controls = queue_of(request).controls
    part = request.query_params.get("search", "")
    keys = [key for key in sorted(controls.admission.flows) if part in key]
    return JSONResponse([controls.flow_view(key) for key in keys])


async def get_flow(request: Request) -> Response:
    """GET /v2/flowControl/{key}."""
    return _flow_answer(request)


async def pause_flow(request: Request) -> Response:
    """POST /v2/flowControl/{key}/pause and /resume."""
    return await _set_flow(request, is_paused=request.url.path.endswith("/pause"))


async def pin_flow(request: Request) -> Response:
    """POST /v2/flowControl/{key}/pin: these limits instead of the messages' own."""
    query = {name: values[0] for name, values in query_of(request).items()}
    changes: dict[str, Any] = {}
    if "parallelism" in query:
        limit = parse_limit("parallelism", query["parallelism"])
        changes |= {"parallelism": limit, "is_pinned_parallelism": True}
    if "rate" in query or "period" in query:
        changes["is_pinned_rate"] = True
        changes["period_s"] = parse_period_s(query.get("period"))
        changes["reset_rate"] = True
    if "rate" in query:
        changes["rate"] = parse_limit("rate", query["rate"])
    if not changes:
        raise MalformedRequestError("expected parallelism, rate or period in the query")
    # A key may be pinned before its first message.
    return await _set_flow(request, must_exist=False, **changes)


async def unpin_flow(request: Request) -> Response:
    """POST /v2/flowControl/{key}/unpin: the last limits stay until the next message."""
    flags = {"parallelism": "is_pinned_parallelism", "rate": "is_pinned_rate"}
    query = request.query_params
    changes = {flag: False for name, flag in flags.items() if query.get(name) == "true"}
    return await _set_flow(request, **changes)


async def reset_flow_rate(request: Request) -> Response:
    """POST /v2/flowControl/{key}/resetRate."""
    return await _set_flow(request, reset_rate=True)


async def get_global_parallelism(request: Request) -> Response:
    """GET /v2/globalParallelism."""
    queue = queue_of(request)
    return JSONResponse(
        {"parallelismMax": queue.max_in_flight, "parallelismCount": queue.count_in_flight}
    )


async def _set_flow(request: Request, *, must_exist: bool = True, **changes: Any) -> Response:  # noqa: ANN401
    key = request.path_params["key"]
    if must_exist:
        found(queue_of(request).controls.flow_view(key), "flow control key")
    await queue_of(request).controls.set_flow(key, **changes)
    return _flow_answer(request)


def _flow_answer(request: Request) -> Response:
    view = queue_of(request).controls.flow_view(request.path_params["key"])
    return JSONResponse(found(view, "flow control key"))


SETUP_ROUTES = [
    Route("/v2/queues", upsert_queue, methods=["POST"]),
    Route("/v2/queues", list_queues, methods=["GET"]),
    Route("/v2/queues/{name}", get_queue, methods=["GET"]),
    Route("/v2/queues/{name}", delete_queue, methods=["DELETE"]),
    Route("/v2/queues/{name}/pause", pause_queue, methods=["POST"]),
    Route("/v2/queues/{name}/resume", pause_queue, methods=["POST"]),
    Route("/v2/topics", list_groups, methods=["GET"]),
    Route("/v2/topics/{name}", get_group, methods=["GET"]),
    Route("/v2/topics/{name}", patch_group, methods=["PATCH"]),
    Route("/v2/topics/{name}", delete_group, methods=["DELETE"]),
    Route("/v2/topics/{name}/endpoints", add_endpoints, methods=["POST"]),
    Route("/v2/topics/{name}/endpoints", remove_endpoints, methods=["DELETE"]),
    Route("/v2/flowControl", list_flows, methods=["GET"]),
    Route("/v2/flowControl/{key}", get_flow, methods=["GET"]),
    Route("/v2/flowControl/{key}/pause", pause_flow, methods=["POST"]),
    Route("/v2/flowControl/{key}/resume", pause_flow, methods=["POST"]),
    Route("/v2/flowControl/{key}/pin", pin_flow, methods=["POST"]),
    Route("/v2/flowControl/{key}/unpin", unpin_flow, methods=["POST"]),
    Route("/v2/flowControl/{key}/resetRate", reset_flow_rate, methods=["POST"]),
    Route("/v2/flowControl/{key}/reset", reset_flow_rate, methods=["POST"]),
    Route("/v2/globalParallelism", get_global_parallelism, methods=["GET"]),
]
