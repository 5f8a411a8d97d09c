"""What the endpoints read off a request, and where they find the queue."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from longtask_kit.local.qstash.errors import MalformedRequestError

if TYPE_CHECKING:
    from starlette.requests import Request

    from longtask_kit.local.qstash.catalog import Catalog
    from longtask_kit.local.qstash.delivery import DeliveryQueue
    from longtask_kit.local.qstash.destination import Reach
    from longtask_kit.local.qstash.scheduler import Scheduler
    from longtask_kit.local.qstash.store import QueueStore

Query = dict[str, list[str]]

_CURSOR = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)


def queue_of(request: Request) -> DeliveryQueue:
    """Return the delivery engine."""
    queue: DeliveryQueue = request.app.state.queue
    return queue


def store_of(request: Request) -> QueueStore:
    """Return the store."""
    store: QueueStore = request.app.state.store
    return store


def catalog_of(request: Request) -> Catalog:
    """Return the records of what has a name."""
    return store_of(request).catalog


def scheduler_of(request: Request) -> Scheduler:
    """Return the schedules' clock."""
    scheduler: Scheduler = request.app.state.scheduler
    return scheduler


def reach_of(request: Request) -> Reach:
    """Return how far the queue may deliver."""
    reach: Reach = request.app.state.reach
    return reach


def caller_ip(request: Request) -> str | None:
    """Return the address of whoever asks."""
    return request.client.host if request.client else None


def query_of(request: Request) -> Query:
    """Return every value of every query parameter."""
    return {name: request.query_params.getlist(name) for name in request.query_params}


def cursor_of(query: Query) -> str | None:
    """Return where a page begins, None for the first.

    Raises:
        MalformedRequestError: It is no cursor of ours.
    """
    cursor = next(iter(query.get("cursor", ())), "")
    if cursor and _CURSOR.fullmatch(cursor) is None:
        raise MalformedRequestError(f"invalid cursor: {cursor[:80]!r}")
    return cursor or None


async def json_of(request: Request, *, like: str = "") -> Any:  # noqa: ANN401 - whatever was sent
    """Return the JSON document that is the body; `like` shows the caller one.

    Raises:
        MalformedRequestError: It is none.
    """
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as exc:
        raise MalformedRequestError(f"expected a JSON body {like}: {str(exc)[:80]}") from exc


async def ids_in_body(request: Request, name: str) -> list[str] | None:
    """Return the ids a JSON body lists, None without a body; anything else is refused.

    A body with a misspelt name must not be read as "no ids, hence all".
    """
    if not await request.body():
        return None
    like = f'{{"{name}": [...]}}'
    document = await json_of(request, like=like)
    ids = document.get(name) if isinstance(document, dict) else None
    if not isinstance(ids, list) or not all(isinstance(found, str) for found in ids):
        raise MalformedRequestError(f"expected a JSON body {like} with a list of ids")
    return ids


def found(thing: Any, what: str) -> Any:  # noqa: ANN401 - as given
    """Return what was looked up.

    Raises:
        HTTPException: 404, if there is none.
    """
    if thing is None:
        raise HTTPException(404, f"{what} not found")
    return thing
