"""All endpoints; each module holds those of one part, thin: read, ask the queue, answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from longtask_kit.local.qstash.routes.messages import MESSAGE_ROUTES
from longtask_kit.local.qstash.routes.publish import PUBLISH_ROUTES
from longtask_kit.local.qstash.routes.request import queue_of
from longtask_kit.local.qstash.routes.schedules import SCHEDULE_ROUTES
from longtask_kit.local.qstash.routes.setup import SETUP_ROUTES

if TYPE_CHECKING:
    from starlette.requests import Request

    from longtask_kit.local.qstash.request import SigningKeys

# Requests of the hosted service that this queue doesn't know (wire doc, tier T3).
UNIMPLEMENTED = ("notify", "trigger", "waiters", "workflows")


async def get_keys(request: Request) -> Response:
    """GET /v2/keys."""
    return _keys_answer(queue_of(request).keys)


async def rotate_keys(request: Request) -> Response:
    """POST /v2/keys/rotate."""
    return _keys_answer(await queue_of(request).rotate_keys())


async def refuse_unimplemented(request: Request) -> Response:
    """Any endpoint of UNIMPLEMENTED: say so, rather than a bare 404."""
    name = request.url.path.split("/")[2]
    raise HTTPException(404, f"{name} is not implemented in the local queue")


def _keys_answer(keys: SigningKeys) -> Response:
    return JSONResponse({"current": keys.current, "next": keys.next})


ROUTES = [
    *PUBLISH_ROUTES,
    *MESSAGE_ROUTES,
    *SETUP_ROUTES,
    *SCHEDULE_ROUTES,
    Route("/v2/keys", get_keys, methods=["GET"]),
    Route("/v2/keys/rotate", rotate_keys, methods=["POST"]),
    *(
        Route(path, refuse_unimplemented, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        for name in UNIMPLEMENTED
        for path in (f"/v2/{name}", f"/v2/{name}/{{rest:path}}")
    ),
]
