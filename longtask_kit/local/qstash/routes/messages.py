"""The endpoints of what was sent: messages, cancelling, the event log, dead letters."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from longtask_kit.local.qstash.controls import now_ms
from longtask_kit.local.qstash.filters import (
    check_params,
    has_filter,
    is_oldest_first,
    matches,
    number_param,
    wanted,
)
from longtask_kit.local.qstash.message import Message, retry_message
from longtask_kit.local.qstash.routes.request import (
    Query,
    cursor_of,
    ids_in_body,
    query_of,
    queue_of,
    reach_of,
    store_of,
)
from longtask_kit.local.qstash.views import dead_letter_view, message_view

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from longtask_kit.local.qstash.store import DeadLetter

T = TypeVar("T")

_CANCELLED_AT_ONCE = 50


async def get_message(request: Request) -> Response:
    """GET /v2/messages/{id}: the message, for a while after it finished too."""
    message = await store_of(request).load(request.path_params["message_id"])
    if message is None:
        raise HTTPException(404, "message not found")
    return JSONResponse(message_view(message))


async def deliver_message_now(request: Request) -> Response:
    """POST /v2/messages/{id}/retry: skip the rest of a delay, or of the wait for the next retry."""
    message = await store_of(request).load(request.path_params["message_id"])
    if message is not None and message.queue_name is not None:
        raise HTTPException(400, "a message of a queue waits for its turn and can't be sent now")
    if message is None or not await queue_of(request).deliver_now(message):
        raise HTTPException(404, "message not found, or not waiting: under way or finished")
    return JSONResponse({"messageId": message.message_id})


async def cancel_message(request: Request) -> Response:
    """DELETE /v2/messages/{id}."""
    message = await store_of(request).load(request.path_params["message_id"])
    if message is None or not await queue_of(request).cancel(message):
        raise HTTPException(404, "message not found")
    return JSONResponse({"cancelled": 1})


async def cancel_messages(request: Request) -> Response:
    """DELETE /v2/messages: by ids in body or query, by filters, or all of them."""
    query = query_of(request)
    check_params(query)
    ids = await ids_in_body(request, "messageIds")
    if ids is None and "messageIds" in query:
        ids = wanted(query, "messageIds")
    if ids is None:
        cancelled = await cancel_where(request, query)
    else:
        messages = await _load_all(request, list(dict.fromkeys(ids)))
        cancelled = await _cancel_all(request, messages)
    return JSONResponse({"cancelled": cancelled})


async def cancel_where(request: Request, query: Query) -> int:
    """Cancel the messages that pass a query's filters; return how many."""
    return await _cancel_all(request, await _pending_messages(request, query))


async def _cancel_all(request: Request, messages: list[Message]) -> int:
    queue, cancelled = queue_of(request), 0
    for start in range(0, len(messages), _CANCELLED_AT_ONCE):
        part = messages[start : start + _CANCELLED_AT_ONCE]
        cancelled += sum(await asyncio.gather(*(queue.cancel(message) for message in part)))
    return cancelled


async def list_events(request: Request) -> Response:
    """GET /v2/events and /v2/logs: newest first."""
    query = query_of(request)
    count = number_param(query, "count", default=100, most=1000)
    ids = [message_id for name in ("messageId", "messageIds") for message_id in wanted(query, name)]
    found = store_of(request).events(
        message_ids=ids, after=cursor_of(query), oldest_first=is_oldest_first(query)
    )
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
    page, cursor = await _dead_letter_page(request, query_of(request))
    answer: dict[str, Any] = {"messages": [_dead_letter_view(dead) for dead in page]}
    return JSONResponse(answer | cursor)


async def get_dead_letter(request: Request) -> Response:
    """GET /v2/dlq/{id}."""
    return JSONResponse(_dead_letter_view(await _dead_letter(request)))


async def delete_dead_letter(request: Request) -> Response:
    """DELETE /v2/dlq/{id}: empty answer, 404 when it is gone already."""
    if not await store_of(request).delete_dead_letter(request.path_params["dead_letter_id"]):
        raise HTTPException(404, "dead letter not found")
    return Response(status_code=200)


async def delete_dead_letters(request: Request) -> Response:
    """DELETE /v2/dlq: by ids in body or query, or by filters."""
    page, cursor = await _selected_dead_letters(request)
    store = store_of(request)
    deleted = [await store.delete_dead_letter(dead.dead_letter_id) for dead in page]
    return JSONResponse({"deleted": sum(deleted)} | cursor)


async def retry_dead_letter(request: Request) -> Response:
    """POST /v2/dlq/retry/{id}: send it again as a new message."""
    message_id = await _send_again(request, await _dead_letter(request))
    if message_id is None:
        raise HTTPException(404, "dead letter not found")
    return JSONResponse({"messageId": message_id}, 201)


async def retry_dead_letters(request: Request) -> Response:
    """POST /v2/dlq/retry: send several again, chosen as for deletion."""
    page, cursor = await _selected_dead_letters(request)
    ids = [await _send_again(request, dead) for dead in page]
    responses = [{"messageId": message_id} for message_id in ids if message_id is not None]
    return JSONResponse({"responses": responses} | cursor, 201)


MESSAGE_ROUTES = [
    Route("/v2/messages", cancel_messages, methods=["DELETE"]),
    Route("/v2/messages/{message_id}", get_message, methods=["GET"]),
    Route("/v2/messages/{message_id}", cancel_message, methods=["DELETE"]),
    Route("/v2/messages/{message_id}/retry", deliver_message_now, methods=["POST"]),
    Route("/v2/events", list_events, methods=["GET"]),
    Route("/v2/logs", list_events, methods=["GET"]),
    Route("/v2/dlq", list_dead_letters, methods=["GET"]),
    Route("/v2/dlq", delete_dead_letters, methods=["DELETE"]),
    Route("/v2/dlq/retry", retry_dead_letters, methods=["POST"]),
    Route("/v2/dlq/retry/{dead_letter_id}", retry_dead_letter, methods=["POST"]),
    Route("/v2/dlq/{dead_letter_id}", get_dead_letter, methods=["GET"]),
    Route("/v2/dlq/{dead_letter_id}", delete_dead_letter, methods=["DELETE"]),
]


async def _pending_messages(request: Request, query: Query) -> list[Message]:
    ids = [message_id for message_id, _ in await store_of(request).pending()]
    messages = await _load_all(request, ids)
    if has_filter(query):
        messages = [
            message
            for message in messages
            if matches(message_view(message), query, time_ms=message.created_at_ms)
        ]
    return messages[: number_param(query, "count", default=len(messages), most=500)]


async def _load_all(request: Request, ids: list[str]) -> list[Message]:
    found = [await store_of(request).load(message_id) for message_id in ids]
    return [message for message in found if message is not None]


async def _dead_letter(request: Request) -> DeadLetter:
    dead = await store_of(request).dead_letter(request.path_params["dead_letter_id"])
    if dead is None:
        raise HTTPException(404, "dead letter not found")
    return dead


def _dead_letter_view(dead: DeadLetter) -> dict[str, Any]:
    return dead_letter_view(dead.dead_letter_id, dead.message, dead.attempt)


async def _selected_dead_letters(request: Request) -> tuple[list[DeadLetter], dict[str, str]]:
    """The dead letters that a bulk request names; a misspelt filter is refused."""
    query = query_of(request)
    check_params(query, without=("host", "path", "state"))
    ids = await ids_in_body(request, "dlqIds")
    if ids is None and "dlqIds" in query:
        ids = wanted(query, "dlqIds")
    if ids is None:
        return await _dead_letter_page(request, query)
    found = [await store_of(request).dead_letter(one) for one in dict.fromkeys(ids)]
    return [dead for dead in found if dead is not None], {}


async def _dead_letter_page(
    request: Request, query: Query
) -> tuple[list[DeadLetter], dict[str, str]]:
    count = number_param(query, "count", default=100, most=100)
    found = store_of(request).dead_letters(
        after=cursor_of(query), oldest_first=is_oldest_first(query)
    )
    selected = (
        dead
        async for dead in found
        if matches(_dead_letter_view(dead), query, time_ms=dead.time_ms)
    )
    page, has_more = await _take(selected, count)
    # The cursor is left out on the last page; an empty one breaks the js SDK.
    return page, {"cursor": page[-1].dead_letter_id} if has_more and page else {}


async def _send_again(request: Request, dead: DeadLetter) -> str | None:
    """Send a dead letter's message anew; `Upstash-*` headers of the request change its options."""
    again = retry_message(dead.message, list(request.headers.items()), now_ms=now_ms())
    for url in (again.callback, again.failure_callback):
        if url is not None:
            reach_of(request).check(url)
    ids = await queue_of(request).publish([again], dead_letter_id=dead.dead_letter_id)
    return ids[0] if ids else None


async def _take(items: AsyncGenerator[T, None], count: int) -> tuple[list[T], bool]:
    """Return the first `count` items, and whether there is another one."""
    taken: list[T] = []
    async with contextlib.aclosing(items):
        async for item in items:
            if len(taken) == count:
                return taken, True
            taken.append(item)
    return taken, False
