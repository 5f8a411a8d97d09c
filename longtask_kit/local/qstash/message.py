"""A message, and how publish headers become one (wire doc, section 1); pure.

Batch items, enqueued and scheduled messages carry the same headers, so all of them come
through `parse_message`.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from longtask_kit.local.qstash.delays import evaluate_expression, parse_duration_s
from longtask_kit.local.qstash.destination import check_url
from longtask_kit.local.qstash.errors import DurationError, HeaderError
from longtask_kit.local.qstash.flow import FlowLimits, parse_flow_limits

HeaderMap = dict[str, list[str]]
HeaderPairs = Iterable[tuple[str, str]]

DEFAULT_RETRIES = 3
MAX_RETRIES = 10_000
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")

# Another product's: delivered as plain messages they would reach the workflow's endpoint broken.
_WORKFLOW = "upstash-workflow-"
_FORWARD = "forward-"
_CALLBACK = "callback-"
_FAILURE_CALLBACK = "failure-callback-"
# Hop-by-hop, or set by the client from the body: a forwarded value would break the request.
_NOT_FORWARDED = ("Connection", "Content-Length", "Host", "Transfer-Encoding")
# `Upstash-Header-Forward: true` means the publisher's own headers, not its key to the queue.
_NOT_FORWARDED_AS_ALL = ("authorization", "content-type")
_REDACTION = re.compile(r"body|headers?|headers?\[[^\[\],]{1,200}\]", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}", re.ASCII)
_FIELDS_OF_OPTION = {
    "callback": ("callback", "callback_options"),
    "failure-callback": ("failure_callback", "failure_callback_options"),
    "flow-control-key": ("flow_key", "parallelism", "rate", "period_s"),
    "label": ("labels",),
    "method": ("method",),
    "retries": ("max_retries",),
    "retry-delay": ("retry_delay",),
    "timeout": ("timeout_s",),
}
_count = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing to deliver, as published; it does not change while it is tried."""

    message_id: str
    url: str
    method: str
    headers: HeaderMap
    body: bytes
    max_retries: int
    retry_delay: str | None
    timeout_s: int | None
    created_at_ms: int
    not_before_ms: int
    callback: str | None
    failure_callback: str | None
    callback_options: HeaderMap
    failure_callback_options: HeaderMap
    labels: list[str]
    caller_ip: str | None
    dedup_key: str | None
    # Defaults, as records of an earlier version lack them.
    topic_name: str | None = None
    endpoint_name: str | None = None
    queue_name: str | None = None
    schedule_id: str | None = None
    flow_key: str | None = None
    parallelism: int | None = None
    rate: int | None = None
    period_s: int | None = None
    redact: list[str] = dataclasses.field(default_factory=list)
    # Of a callback: the message it tells about, and the queue that waits for it.
    source_message_id: str | None = None
    source_queue: str | None = None


@dataclass(slots=True)
class _Sorted:
    """Publish headers by what they are for; option names are lower case and unprefixed."""

    forwarded: HeaderMap
    callback: HeaderMap
    failure_callback: HeaderMap
    options: dict[str, str]


def parse_message(
    headers: HeaderPairs,
    *,
    message_id: str,
    url: str,
    body: bytes,
    now_ms: int,
    caller_ip: str | None = None,
    default_retries: int = DEFAULT_RETRIES,
    topic_name: str | None = None,
    endpoint_name: str | None = None,
    queue_name: str | None = None,
) -> Message:
    """Return the message that publish headers describe.

    Args:
        headers: Name and value pairs, names in any case.
        message_id: Id of the new message.
        url: Destination, already checked.
        body: What is delivered, byte for byte.
        now_ms: Unix time in milliseconds.
        caller_ip: Address of the publisher.
        default_retries: Used without `Upstash-Retries`; a callback takes its source's.
        topic_name: The URL group the destination is from.
        endpoint_name: The destination's name in that group.
        queue_name: The queue it is delivered through.

    Raises:
        MalformedRequestError: A header's value is out of range; the message names the header.
    """
    found = _sort(list(headers))
    options = found.options
    limits = _flow_limits(options)
    message = Message(
        message_id=message_id,
        url=url,
        method=_method(options.get("method", "POST")),
        headers=found.forwarded,
        body=body,
        max_retries=_retries(options.get("retries"), default_retries),
        retry_delay=_retry_delay(options.get("retry-delay")),
        timeout_s=_duration_s("Timeout", options.get("timeout")),
        created_at_ms=now_ms,
        not_before_ms=_not_before_ms(options, now_ms),
        callback=_callback_url(options, "callback"),
        failure_callback=_callback_url(options, "failure-callback"),
        callback_options=found.callback,
        failure_callback_options=found.failure_callback,
        labels=[label for part in options.get("label", "").split(",") if (label := part.strip())],
        caller_ip=caller_ip,
        dedup_key=_dedup_key(found, url, body, is_group=topic_name is not None),
        topic_name=topic_name,
        endpoint_name=endpoint_name,
        queue_name=queue_name,
        flow_key=limits.key if limits else None,
        parallelism=limits.parallelism if limits else None,
        rate=limits.rate if limits else None,
        period_s=limits.period_s if limits else None,
        redact=_redactions(options.get("redact-fields", "")),
    )
    _check_callbacks(message)
    return message


def retry_message(message: Message, headers: list[tuple[str, str]], *, now_ms: int) -> Message:
    """Return a message as new, due now, with the options that `Upstash-*` headers change.

    Raises:
        MalformedRequestError: A header's value is out of range; the message names the header.
    """
    changes = parse_message(
        headers,
        message_id=new_message_id(),
        url=message.url,
        body=message.body,
        now_ms=now_ms,
    )
    names = {name.lower().removeprefix("upstash-") for name, _ in headers}
    fields = {field for name in names for field in _FIELDS_OF_OPTION.get(name, ())}
    return dataclasses.replace(
        message,
        message_id=changes.message_id,
        created_at_ms=now_ms,
        not_before_ms=changes.not_before_ms,
        # Its own deduplication id still stands for the dead message.
        dedup_key=None,
        # The callbacks of the dead message are over; this one keeps no slot of another.
        source_message_id=None,
        source_queue=None,
        **{field: getattr(changes, field) for field in fields},
    )


def callback_headers(options: HeaderMap) -> list[tuple[str, str]]:
    """Return `Upstash-Callback-*` options as the publish headers of the callback message."""
    return [("content-type", "application/json")] + [
        (f"upstash-{name}", value)
        for name, values in options.items()
        for value in values
        # A callback of a callback could go on for ever.
        if not name.startswith(("callback", "failure-callback"))
    ]


def new_message_id() -> str:
    """Return a fresh message id; ids sort in the order in which they were made.

    Messages that are due in the same millisecond keep their order over a restart by it.
    """
    return f"msg_{time.time_ns():016x}{next(_count) & 0xFFFF:04x}{secrets.token_hex(8)}"


def check_name(name: str, *, what: str) -> str:
    """Return the name of a queue, URL group or schedule, if it can be one.

    Raises:
        HeaderError: It has other characters than the hosted service allows.
    """
    if _NAME.fullmatch(name) is None:
        raise HeaderError(
            f"invalid {what}: expected 1 to 200 letters, digits, '-', '_' or '.', got {name[:80]!r}"
        )
    return name


def canonical(name: str) -> str:
    """Return a header name in Go's canonical case, which the wire's JSON uses."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def dump_message(message: Message) -> dict[str, Any]:
    """Return a message as plain JSON values, for storage."""
    # Not dataclasses.asdict, whose deep copy costs more than all else at a publish.
    record = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    record["body"] = base64.b64encode(message.body).decode()
    return record


def load_message(record: str | dict[str, Any]) -> Message:
    """Return the message that `dump_message` wrote."""
    fields = dict(json.loads(record) if isinstance(record, str) else record)
    fields["body"] = base64.b64decode(fields["body"])
    return Message(**fields)


def _sort(headers: list[tuple[str, str]]) -> _Sorted:
    found = _Sorted({}, {}, {}, {})
    content_type: list[str] = []
    for raw_name, value in headers:
        name = raw_name.lower()
        if name == "content-type":
            content_type.append(value)
        elif name.startswith(_WORKFLOW):
            raise HeaderError(
                f"{canonical(name)[:80]} makes this a message of Upstash Workflow, which the local "
                "queue does not run: send it to the hosted service, or without Upstash-Workflow-*"
            )
        elif name.startswith("upstash-"):
            _sort_option(found, name.removeprefix("upstash-"), value)
    if found.options.get("header-forward", "").lower() == "true":
        _forward_all(found, headers)
    if content_type:
        # py's `headers={"content-type": …}` arrives as a forwarded header and wins.
        found.forwarded.setdefault("Content-Type", content_type)
    return found


def _forward_all(found: _Sorted, headers: list[tuple[str, str]]) -> None:
    explicit = set(found.forwarded)
    for name, value in headers:
        is_own = name.lower().startswith("upstash-") or name.lower() in _NOT_FORWARDED_AS_ALL
        if not is_own and canonical(name) not in explicit:
            _sort_option(found, _FORWARD + name.lower(), value)


def _flow_limits(options: dict[str, str]) -> FlowLimits | None:
    return parse_flow_limits(
        options.get("flow-control-key", ""), options.get("flow-control-value", "")
    )


def _redactions(text: str) -> list[str]:
    """The fields to hide, as `body`, `header` or `header[Name]`."""
    fields = [field for part in text.split(",") if (field := part.strip())]
    for field in fields:
        if _REDACTION.fullmatch(field) is None:
            raise HeaderError(
                "invalid Upstash-Redact-Fields: expected body, header or header[Name], "
                f"got {field[:80]!r}"
            )
    # The docs say `headers`, the SDKs `header`.
    return [re.sub("^headers", "header", field, flags=re.IGNORECASE) for field in fields]


def _sort_option(found: _Sorted, name: str, value: str) -> None:
    # Failure first: neither prefix is a prefix of the other, but `forward-` may follow both.
    if name.startswith(_FAILURE_CALLBACK):
        found.failure_callback.setdefault(name.removeprefix(_FAILURE_CALLBACK), []).append(value)
    elif name.startswith(_CALLBACK):
        found.callback.setdefault(name.removeprefix(_CALLBACK), []).append(value)
    elif name.startswith(_FORWARD):
        forwarded = canonical(name.removeprefix(_FORWARD))
        if forwarded and forwarded not in _NOT_FORWARDED:
            found.forwarded.setdefault(forwarded, []).append(value)
    else:
        found.options[name] = value.strip()


def _method(text: str) -> str:
    if text.upper() not in METHODS:
        raise HeaderError(f"invalid Upstash-Method: expected one of {METHODS}, got {text[:80]!r}")
    return text.upper()


def _retries(text: str | None, default: int) -> int:
    if text is None:
        return default
    retries = _whole_number(text)
    if retries is None or retries > MAX_RETRIES:
        raise HeaderError(
            f"invalid Upstash-Retries: expected a number from 0 to {MAX_RETRIES}, got {text[:80]!r}"
        )
    return retries


def _retry_delay(text: str | None) -> str | None:
    if text is not None:
        evaluate_expression(text, retried=0)
    return text


def _duration_s(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_duration_s(text)
    except DurationError as exc:
        raise DurationError(f"invalid Upstash-{option}: {exc}") from exc


def _not_before_ms(options: dict[str, str], now_ms: int) -> int:
    """Unix seconds of Not-Before, which overrides Delay; never before now."""
    delay_s = _duration_s("Delay", options.get("delay")) or 0
    text = options.get("not-before")
    if text is None:
        return now_ms + delay_s * 1000
    seconds = _whole_number(text)
    if seconds is None or seconds > now_ms // 1000 + 10 * 366 * 86_400:
        raise HeaderError(
            f"invalid Upstash-Not-Before: expected unix seconds within ten years, got {text[:80]!r}"
        )
    return max(now_ms, seconds * 1000)


def _whole_number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= 15
    return int(text) if is_number else None


def _callback_url(options: dict[str, str], name: str) -> str | None:
    # As for the destination, a fragment isn't sent.
    url = options.get(name, "").partition("#")[0]
    if url:
        check_url(url, what=name)
    return url or None


def _dedup_key(found: _Sorted, url: str, body: bytes, *, is_group: bool) -> str | None:
    """An explicit id wins over the content's hash (destination, body, forwarded headers).

    In a URL group the id counts for each endpoint, or only the first would get the message.
    """
    explicit = found.options.get("deduplication-id")
    if explicit:
        of_endpoint = f"{explicit}\n{url}" if is_group else explicit
        return hashlib.sha256(b"id:" + of_endpoint.encode()).hexdigest()
    # py sends Python's `True`, js `true`.
    if found.options.get("content-based-deduplication", "").lower() != "true":
        return None
    about = json.dumps([url, sorted(found.forwarded.items())])
    return hashlib.sha256(b"content:" + about.encode() + b"\0" + body).hexdigest()


def _check_callbacks(message: Message) -> None:
    """Read the callbacks' options now: at the first attempt nobody could be told."""
    both = (message.callback_options, message.failure_callback_options)
    for url, options in zip((message.callback, message.failure_callback), both, strict=True):
        if url is not None:
            parse_message(callback_headers(options), message_id="", url=url, body=b"", now_ms=0)
