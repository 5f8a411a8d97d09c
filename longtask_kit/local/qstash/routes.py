"""The endpoints, thin: read the request, ask the queue, answer in the wire's JSON."""

import asyncio
import contextlib
import dataclasses
import json
import re
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from longtask_kit.local.qstash.delivery import DeliveryQueue, now_ms
from longtask_kit.local.qstash.destination import control_params, destination_of, is_loopback
from longtask_kit.local.qstash.errors import DestinationError, MalformedRequestError
from longtask_kit.local.qstash.filters import (
    check_params,
    has_filter,
    matches,
    number_param,
    wanted,
)
from longtask_kit.local.qstash.signing import SigningKeys
from longtask_kit.local.qstash.store import DeadLetter, QueueStore
from longtask_kit.local.qstash.views import dead_letter_view, message_view
from longtask_kit.local.qstash.wire import Message, new_message_id, parse_message

Query = dict[str, list[str]]
T = TypeVar("T")

# Requests of the hosted service that this queue doesn't know yet (wire doc, tier T2).
UNIMPLEMENTED = (
    "batch",
    "enqueue",
    "flowControl",
    "globalParallelism",
    "queues",
    "schedules",
    "topics",
    "workflows",
)

_CURSOR = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
_CANCELLED_AT_ONCE = 50


async def publish(request: Request) -> Response:
    """POST /v2/publish/{destination}: 201 once it is stored, 202 for a duplicate."""
    query = request.scope["query_string"]
    url = destination_of(request.scope["raw_path"], query)
    message = parse_message(
        [*request.headers.items(), *control_params(query)],
        message_id=new_message_id(),
        url=url,
        body=await request.body(),
        now_ms=now_ms(),
        caller_ip=request.client.host if request.client else None,
    )
    _check_reach(message, allow_remote=request.app.state.allow_remote)
    message_id = await _queue(request).publish(message)
    if message_id != message.message_id:
        return JSONResponse({"messageId": message_id, "deduplicated": True}, 202)
    return JSONResponse({"messageId": message_id}, 201)


async def get_message(request: Request) -> Response:
    """GET /v2/messages/{id}: the message, for a while after it finished too."""
    message = await _store(request).load(request.path_params["message_id"])
    if message is None:
        raise HTTPException(404, "message not found")
    return JSONResponse(message_view(message))


async def cancel_message(request: Request) -> Response:
    """DELETE /v2/messages/{id}."""
    message = await _store(request).load(request.path_params["message_id"])
    if message is None or not await _queue(request).cancel(message):
        raise HTTPException(404, "message not found")
    return JSONResponse({"cancelled": 1})


async def cancel_messages(request: Request) -> Response:
    """DELETE /v2/messages: by ids in body or query, by filters, or all of them."""
    query = _query(request)
    check_params(query)
    ids = await _ids_in_body(request, "messageIds")
    if ids is None and "messageIds" in query:
        ids = wanted(query, "messageIds")
    if ids is None:
        messages = await _pending_messages(request, query)
    else:
        messages = await _load_all(_store(request), list(dict.fromkeys(ids)))
    queue, cancelled = _queue(request), 0
    for start in range(0, len(messages), _CANCELLED_AT_ONCE):
        part = messages[start : start + _CANCELLED_AT_ONCE]
        cancelled += sum(await asyncio.gather(*(queue.cancel(message) for message in part)))
    return JSONResponse({"cancelled": cancelled})


async def list_events(request: Request) -> Response:
    """GET /v2/events and /v2/logs: newest first."""
    query = _query(request)
    count = number_param(query, "count", default=100, most=1000)
    ids = [message_id for name in ("messageId", "messageIds") for message_id in wanted(query, name)]
    found = _store(request).events(message_ids=ids, before=_cursor(query) or "+")
    selected = (pair async for pair in found if matches(pair[1], query, time_ms=pair[1]["time"]))
    page, has_more = await _take(selected, count)
    events = [view for _, view in page]
    # The SDKs read `events`, the docs print `logs`.
    answer: dict[str, Any] = {"events": events, "logs": events}
    if has_more and page:
        answer["cursor"] = page[-1][0]
    return JSONResponse(answer)


async def list_dead_letters(request: Request) -> Response:
    """GET /v2/dlq: newest first."""
    page, cursor = await _dead_letter_page(request, _query(request))
    answer: dict[str, Any] = {"messages": [_dead_letter_view(dead) for dead in page]}
    return JSONResponse(answer | cursor)


async def get_dead_letter(request: Request) -> Response:
    """GET /v2/dlq/{id}."""
    return JSONResponse(_dead_letter_view(await _dead_letter(request)))


async def delete_dead_letter(request: Request) -> Response:
    """DELETE /v2/dlq/{id}: empty answer, 404 when it is gone already."""
    if not await _store(request).delete_dead_letter(request.path_params["dead_letter_id"]):
        raise HTTPException(404, "dead letter not found")
    return Response(status_code=200)


async def delete_dead_letters(request: Request) -> Response:
    """DELETE /v2/dlq: by ids in body or query, or by filters."""
    page, cursor = await _selected_dead_letters(request)
    store = _store(request)
    deleted = [await store.delete_dead_letter(dead.dead_letter_id) for dead in page]
    return JSONResponse({"deleted": sum(deleted)} | cursor)


async def retry_dead_letter(request: Request) -> Response:
    """POST /v2/dlq/retry/{id}: send it again as a new message."""
    message_id = await _send_again(_queue(request), await _dead_letter(request))
    if message_id is None:
        raise HTTPException(404, "dead letter not found")
    return JSONResponse({"messageId": message_id}, 201)


async def retry_dead_letters(request: Request) -> Response:
    """POST /v2/dlq/retry: send several again, chosen as for deletion."""
    page, cursor = await _selected_dead_letters(request)
    ids = [await _send_again(_queue(request), dead) for dead in page]
    responses = [{"messageId": message_id} for message_id in ids if message_id is not None]
    return JSONResponse({"responses": responses} | cursor, 201)


async def get_keys(request: Request) -> Response:
    """GET /v2/keys."""
    return _keys_answer(_queue(request).keys)


async def rotate_keys(request: Request) -> Response:
    """POST /v2/keys/rotate."""
    return _keys_answer(await _queue(request).rotate_keys())


async def refuse_unimplemented(request: Request) -> Response:
    """Any endpoint of UNIMPLEMENTED: say so, rather than a bare 404."""
    name = request.url.path.split("/")[2]
    raise HTTPException(404, f"{name} is not implemented in the local queue yet")


ROUTES = [
    Route("/v2/publish/{destination:path}", publish, methods=["POST"]),
    Route("/v2/messages", cancel_messages, methods=["DELETE"]),
    Route("/v2/messages/{message_id}", get_message, methods=["GET"]),
    Route("/v2/messages/{message_id}", cancel_message, methods=["DELETE"]),
    Route("/v2/events", list_events, methods=["GET"]),
    Route("/v2/logs", list_events, methods=["GET"]),
    Route("/v2/dlq", list_dead_letters, methods=["GET"]),
    Route("/v2/dlq", delete_dead_letters, methods=["DELETE"]),
    Route("/v2/dlq/retry", retry_dead_letters, methods=["POST"]),
    Route("/v2/dlq/retry/{dead_letter_id}", retry_dead_letter, methods=["POST"]),
    Route("/v2/dlq/{dead_letter_id}", get_dead_letter, methods=["GET"]),
    Route("/v2/dlq/{dead_letter_id}", delete_dead_letter, methods=["DELETE"]),
    Route("/v2/keys", get_keys, methods=["GET"]),
    Route("/v2/keys/rotate", rotate_keys, methods=["POST"]),
    *(
        Route(path, refuse_unimplemented, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        for name in UNIMPLEMENTED
        for path in (f"/v2/{name}", f"/v2/{name}/{{rest:path}}")
    ),
]


def _queue(request: Request) -> DeliveryQueue:
    queue: DeliveryQueue = request.app.state.queue
    return queue


def _store(request: Request) -> QueueStore:
    store: QueueStore = request.app.state.store
    return store


def _query(request: Request) -> Query:
    return {name: request.query_params.getlist(name) for name in request.query_params}


def _cursor(query: Query) -> str | None:
    cursor = next(iter(query.get("cursor", ())), "")
    if cursor and _CURSOR.fullmatch(cursor) is None:
        raise MalformedRequestError(f"invalid cursor: {cursor[:80]!r}")
    return cursor or None


def _check_reach(message: Message, *, allow_remote: bool) -> None:
    for url in (message.url, message.callback, message.failure_callback):
        if url is not None and not allow_remote and not is_loopback(url):
            raise DestinationError(
                f"invalid destination url: {url[:200]} is not on this machine; the local queue "
                "only delivers to 127.0.0.1, ::1 and localhost unless started with --allow-remote"
            )


def _keys_answer(keys: SigningKeys) -> Response:
    return JSONResponse({"current": keys.current, "next": keys.next})


async def _ids_in_body(request: Request, name: str) -> list[str] | None:
    """Return the ids a JSON body lists, None without a body; anything else is refused.

    A body with a misspelt name must not be read as "no ids, hence all".
    """
    body = await request.body()
    if not body:
        return None
    try:
        ids = json.loads(body)[name]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise MalformedRequestError(f'expected a JSON body {{"{name}": [...]}}') from exc
    if not isinstance(ids, list) or not all(isinstance(found, str) for found in ids):
        raise MalformedRequestError(f"expected {name} to be a list of strings")
    return ids


async def _pending_messages(request: Request, query: Query) -> list[Message]:
    store = _store(request)
    ids = [message_id for message_id, _ in await store.pending()]
    messages = await _load_all(store, ids)
    if has_filter(query):
        messages = [
            message
            for message in messages
            if matches(message_view(message), query, time_ms=message.created_at_ms)
        ]
    return messages[: number_param(query, "count", default=len(messages), most=500)]


async def _load_all(store: QueueStore, ids: list[str]) -> list[Message]:
    found = [await store.load(message_id) for message_id in ids]
    return [message for message in found if message is not None]


async def _dead_letter(request: Request) -> DeadLetter:
    dead = await _store(request).dead_letter(request.path_params["dead_letter_id"])
    if dead is None:
        raise HTTPException(404, "dead letter not found")
    return dead


def _dead_letter_view(dead: DeadLetter) -> dict[str, Any]:
    return dead_letter_view(dead.dead_letter_id, dead.message, dead.attempt)


async def _selected_dead_letters(request: Request) -> tuple[list[DeadLetter], dict[str, str]]:
    """The dead letters that a bulk request names; a misspelt filter is refused."""
    query = _query(request)
    check_params(query, without=("host", "path", "state"))
    ids = await _ids_in_body(request, "dlqIds")
    if ids is None and "dlqIds" in query:
        ids = wanted(query, "dlqIds")
    if ids is None:
        return await _dead_letter_page(request, query)
    found = [await _store(request).dead_letter(one) for one in dict.fromkeys(ids)]
    return [dead for dead in found if dead is not None], {}


async def _dead_letter_page(
    request: Request, query: Query
) -> tuple[list[DeadLetter], dict[str, str]]:
    count = number_param(query, "count", default=100, most=100)
    found = _store(request).dead_letters(before=_cursor(query))
    selected = (
        dead
        async for dead in found
        if matches(_dead_letter_view(dead), query, time_ms=dead.time_ms)
    )
    page, has_more = await _take(selected, count)
    # The cursor is left out on the last page; an empty one breaks the js SDK.
    return page, {"cursor": page[-1].dead_letter_id} if has_more and page else {}


async def _send_again(queue: DeliveryQueue, dead: DeadLetter) -> str | None:
    time_ms = now_ms()
    again = dataclasses.replace(
        dead.message,
        message_id=new_message_id(),
        created_at_ms=time_ms,
        not_before_ms=time_ms,
        # Its own deduplication id still stands for the dead message.
        dedup_key=None,
    )
    return await queue.publish(again, dead_letter_id=dead.dead_letter_id)


async def _take(items: AsyncGenerator[T, None], count: int) -> tuple[list[T], bool]:
    """Return the first `count` items, and whether there is another one."""
    taken: list[T] = []
    async with contextlib.aclosing(items):
        async for item in items:
            if len(taken) == count:
                return taken, True
            taken.append(item)
    return taken, False
