"""The JSON forms of messages, events and dead letters, and the callbacks' bodies; pure.

Unset optionals are left out: the SDKs tell "absent" from "zero" (wire doc, section 0).
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from longtask_kit.local.qstash.message import (
    HeaderMap,
    Message,
    callback_headers,
    canonical,
    new_message_id,
    parse_message,
)
from longtask_kit.local.qstash.schedules import Schedule, delay_of

if TYPE_CHECKING:
    from longtask_kit.local.qstash.catalog import ScheduleState
    from longtask_kit.local.qstash.request import Attempt

# Events are many and are kept long; a body beyond this is left to the message itself.
MAX_EVENT_BODY_BYTES = 4096

View = dict[str, Any]


def message_view(message: Message) -> View:
    """Return the answer of `GET /v2/messages/{id}`."""
    return _described(message) | _body_fields("body", _shown_body(message))


def event_view(
    message: Message,
    state: str,
    *,
    time_ms: int,
    attempt: Attempt | None = None,
    next_delivery_ms: int | None = None,
) -> View:
    """Return one entry of the event log.

    Retry delay and labels are on every event, and some names twice: py reads one, the docs
    print the other.
    """
    described = _described(message)
    for name in ("callerIP", "notBefore", "createdAt", "callbackHeader", "failureCallbackHeader"):
        described.pop(name, None)
    view = described | {
        "time": time_ms,
        "state": state,
        "timeout": None if message.timeout_s is None else message.timeout_s * 1000,
        "retryDelayExpr": message.retry_delay,
        "callbackHeaders": _forwarded(message.callback_options),
        "failureCallbackHeaders": _forwarded(message.failure_callback_options),
        "nextDeliveryTime": next_delivery_ms,
    }
    if 0 < len(message.body) <= MAX_EVENT_BODY_BYTES:
        view["body"] = _base64(_shown_body(message))
    return _without_unset(view | _event_response(attempt))


def dead_letter_view(dead_letter_id: str, message: Message, attempt: Attempt) -> View:
    """Return a dead letter: the message, and the answer that ended it."""
    response = {
        "responseStatus": attempt.status,
        "responseHeader": attempt.headers or None,
        # Not on the hosted service's wire: why there is no answer, or what to do about it.
        "error": attempt.error,
    }
    return (
        message_view(message)
        | {"dlqId": dead_letter_id}
        | _without_unset(response)
        | _body_fields("responseBody", attempt.body)
    )


def schedule_view(schedule: Schedule, state: ScheduleState) -> View:
    """Return the answer of `GET /v2/schedules/{id}`."""
    message = schedule.example()
    view = _described(message)
    for name in ("messageId", "url", "notBefore", "maxRetries"):
        view.pop(name)
    own = {
        "scheduleId": schedule.schedule_id,
        "destination": schedule.destination,
        "cron": schedule.cron,
        "retries": message.max_retries,
        "delay": delay_of(message),
        "timeout": message.timeout_s,
        "isPaused": state.is_paused,
        "lastScheduleTime": state.last_ms,
        "nextScheduleTime": state.next_ms,
        "lastScheduleStates": state.last_states or None,
        "error": state.error,
    }
    return view | _without_unset(own) | _body_fields("body", _shown_body(message))


def callback_messages(
    source: Message,
    attempt: Attempt,
    *,
    retried: int,
    dead_letter_id: str | None,
    now_ms: int,
) -> list[Message]:
    """Return the messages an attempt's outcome sends: a callback, and one at the final failure."""
    body = _callback_body(source, attempt, retried)
    messages = []
    if source.callback is not None:
        messages.append(_callback(source, source.callback, source.callback_options, body, now_ms))
    if source.failure_callback is not None and dead_letter_id is not None:
        body = body | {"dlqId": dead_letter_id}
        options = source.failure_callback_options
        messages.append(_callback(source, source.failure_callback, options, body, now_ms))
    return messages


def _callback(source: Message, url: str, options: HeaderMap, body: View, now_ms: int) -> Message:
    message = parse_message(
        callback_headers(options),
        message_id=new_message_id(),
        url=url,
        body=json.dumps(body, separators=(",", ":")).encode(),
        now_ms=now_ms,
        caller_ip=source.caller_ip,
        default_retries=source.max_retries,
    )
    # The queue's next message waits for this one too.
    return dataclasses.replace(
        message, source_message_id=source.message_id, source_queue=source.queue_name
    )


def _callback_body(source: Message, attempt: Attempt, retried: int) -> View:
    # Times as numbers and header maps of lists: the docs and the SDK disagree (section 6).
    # Without an answer the reason stands in the body, or the reader would have nothing.
    answer = attempt.body if attempt.status else (attempt.error or "").encode()
    return _without_unset(
        {
            "status": attempt.status,
            "header": attempt.headers,
            "body": _base64(answer),
            "retried": retried,
            "maxRetries": source.max_retries,
            "sourceMessageId": source.message_id,
            "topicName": source.topic_name,
            "endpointName": source.endpoint_name,
            "scheduleId": source.schedule_id,
            "url": source.url,
            "method": source.method,
            "sourceHeader": source.headers,
            "sourceBody": _base64(source.body),
            "notBefore": source.not_before_ms,
            "createdAt": source.created_at_ms,
            "callerIP": source.caller_ip,
        }
    )


def _described(message: Message) -> View:
    """Return the fields that messages, events and dead letters have in common."""
    return _without_unset(
        {
            "messageId": message.message_id,
            "url": message.url,
            "topicName": message.topic_name,
            "endpointName": message.endpoint_name,
            "queueName": message.queue_name,
            "scheduleId": message.schedule_id,
            "method": message.method,
            "header": _shown_headers(message) or None,
            "callbackHeader": _forwarded(message.callback_options),
            "failureCallbackHeader": _forwarded(message.failure_callback_options),
            "maxRetries": message.max_retries,
            "retryDelayExpression": message.retry_delay,
            "notBefore": message.not_before_ms,
            "createdAt": message.created_at_ms,
            "callback": message.callback,
            "failureCallback": message.failure_callback,
            "callerIP": message.caller_ip,
            "label": message.labels[0] if message.labels else None,
            "labels": message.labels or None,
            "flowControlKey": message.flow_key,
            "parallelism": message.parallelism,
            "rate": message.rate,
            # The one optional that is never left out when there is a key.
            "period": message.period_s,
        }
    )


def _shown_body(message: Message) -> bytes:
    if message.body and "body" in [field.lower() for field in message.redact]:
        return _redacted(message.body).encode()
    return message.body


def _shown_headers(message: Message) -> HeaderMap:
    hidden = [field.lower() for field in message.redact]
    return {
        name: [_redacted(value.encode()) for value in values]
        if "header" in hidden or f"header[{name.lower()}]" in hidden
        else values
        for name, values in message.headers.items()
    }


def _redacted(secret: bytes) -> str:
    return f"REDACTED:{hashlib.sha256(secret).hexdigest()}"


def _event_response(attempt: Attempt | None) -> View:
    if attempt is None:
        return {}
    return {
        "error": attempt.error,
        "responseStatus": attempt.status or None,
        "responseHeader": attempt.headers or None,
        "responseHeaders": attempt.headers or None,
        "responseBody": _base64(attempt.body[:MAX_EVENT_BODY_BYTES]) or None,
    }


def _forwarded(options: HeaderMap) -> HeaderMap | None:
    found = {
        canonical(name.removeprefix("forward-")): values
        for name, values in options.items()
        if name.startswith("forward-")
    }
    return found or None


def _body_fields(name: str, body: bytes) -> View:
    if not body:
        return {}
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": _base64(body)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _without_unset(view: View) -> View:
    return {name: value for name, value in view.items() if value is not None}
