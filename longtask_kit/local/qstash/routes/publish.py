"""The endpoints that send: publish, enqueue, batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from longtask_kit.local.qstash.controls import now_ms
from longtask_kit.local.qstash.destination import (
    check_destination,
    control_params,
    destination_of,
    is_url,
)
from longtask_kit.local.qstash.errors import MalformedRequestError
from longtask_kit.local.qstash.fan_out import messages_for
from longtask_kit.local.qstash.message import Message, check_name
from longtask_kit.local.qstash.routes.request import (
    caller_ip,
    catalog_of,
    json_of,
    queue_of,
    reach_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.requests import Request

MAX_BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One message of a batch, as it was asked for."""

    destination: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    queue_name: str | None


async def publish(request: Request) -> Response:
    """POST /v2/publish/{destination}: 201 once it is stored, 202 for a duplicate."""
    return await _publish(request, prefix=b"/v2/publish/", queue_name=None)


async def enqueue(request: Request) -> Response:
    """POST /v2/enqueue/{queue}/{destination}: as publish; a queue that is new is made."""
    raw_path: bytes = request.scope["raw_path"]
    name = raw_path.removeprefix(b"/v2/enqueue/").partition(b"/")[0]
    queue_name = check_name(name.decode("latin-1"), what="queue name")
    return await _publish(request, prefix=b"/v2/enqueue/" + name + b"/", queue_name=queue_name)


async def batch(request: Request) -> Response:
    """POST /v2/batch: all messages are stored in one step, or none is."""
    plan = queue_of(request).plan
    plan.check_size("batch too large", len(await request.body()), plan.batch_bytes, "bytes")
    time_ms, items = now_ms(), parse_batch(await json_of(request))
    sent = [
        await messages_for(
            catalog_of(request),
            reach_of(request),
            item.destination,
            item.headers,
            body=item.body,
            now_ms=time_ms,
            caller_ip=caller_ip(request),
            queue_name=item.queue_name,
        )
        for item in items
    ]
    ids = iter(await queue_of(request).publish([message for some in sent for message in some]))
    answers = []
    for item, messages in zip(items, sent, strict=True):
        views = [_answer(message, next(ids)) for message in messages]
        answers.append(views[0] if is_url(item.destination) else views)
    return JSONResponse(answers, 201)


def parse_batch(document: object) -> list[BatchItem]:
    """Return the messages of a batch; one that is malformed refuses all.

    The hosted service sends the others; but the py SDK fails on the error object in its answer.

    Raises:
        MalformedRequestError: Says which message, counted from 0.
    """
    if not isinstance(document, list) or len(document) > MAX_BATCH:
        raise MalformedRequestError(f"expected a JSON list of at most {MAX_BATCH} messages")
    items = []
    for at, fields in enumerate(document):
        try:
            items.append(_item(fields))
        except MalformedRequestError as exc:
            raise MalformedRequestError(f"message {at} of the batch: {exc}") from exc
    return items


def _item(fields: Any) -> BatchItem:  # noqa: ANN401 - JSON
    if not isinstance(fields, dict) or not isinstance(fields.get("destination"), str):
        raise MalformedRequestError("expected an object with a destination")
    headers = fields.get("headers") or {}
    if not isinstance(headers, dict):
        raise MalformedRequestError("expected headers to be an object of texts")
    body, queue_name = fields.get("body"), fields.get("queue")
    if not isinstance(body, str | None) or not isinstance(queue_name, str | None):
        raise MalformedRequestError("expected body and queue to be text or null")
    return BatchItem(
        destination=check_destination(fields["destination"]),
        headers=[(name, value) for name, given in headers.items() for value in _values(given)],
        body=_encoded(body or ""),
        queue_name=check_name(queue_name, what="queue name") if queue_name else None,
    )


def _values(given: object) -> Iterable[str]:
    """One header's values; the SDKs send a text, the docs show lists too."""
    values = given if isinstance(given, list) else [given]
    if not all(isinstance(value, str | int | float) for value in values):
        raise MalformedRequestError("expected headers to be an object of texts")
    for value in map(str, values):
        if not value.isprintable():
            raise MalformedRequestError("expected header values without control characters")
        yield value


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise MalformedRequestError("expected body to be text without lone surrogates") from exc


async def _publish(request: Request, *, prefix: bytes, queue_name: str | None) -> Response:
    query = request.scope["query_string"]
    destination = destination_of(request.scope["raw_path"], query, prefix=prefix)
    messages = await messages_for(
        catalog_of(request),
        reach_of(request),
        destination,
        [*request.headers.items(), *control_params(query)],
        body=await request.body(),
        now_ms=now_ms(),
        caller_ip=caller_ip(request),
        queue_name=queue_name,
    )
    ids = await queue_of(request).publish(messages)
    answers = [
        _answer(message, message_id) for message, message_id in zip(messages, ids, strict=True)
    ]
    status = 202 if all("deduplicated" in answer for answer in answers) else 201
    if is_url(destination):
        return JSONResponse(answers[0], status)
    # A bare list: the SDKs require it, whatever the OpenAPI file says.
    return JSONResponse(answers, status)


def _answer(message: Message, message_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"messageId": message_id}
    if message.topic_name is not None:
        answer["url"] = message.url
    if message_id != message.message_id:
        answer["deduplicated"] = True
    return answer


PUBLISH_ROUTES = [
    Route("/v2/publish/{destination:path}", publish, methods=["POST"]),
    Route("/v2/enqueue/{queue}/{destination:path}", enqueue, methods=["POST"]),
    Route("/v2/batch", batch, methods=["POST"]),
]
