"""A message, and how publish headers become one (wire doc, section 1); pure.

Batch items, enqueued and scheduled messages carry the same headers, so all of them come
through `parse_message`.
"""

import base64
import dataclasses
import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from longtask_kit.local.qstash.destination import check_url
from longtask_kit.local.qstash.durations import parse_duration_s
from longtask_kit.local.qstash.errors import DurationError, HeaderError
from longtask_kit.local.qstash.expression import evaluate_expression

HeaderMap = dict[str, list[str]]
HeaderPairs = Iterable[tuple[str, str]]

DEFAULT_RETRIES = 3
MAX_RETRIES = 10_000
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")

_FORWARD = "forward-"
_CALLBACK = "callback-"
_FAILURE_CALLBACK = "failure-callback-"
# Hop-by-hop, or set by the client from the body: a forwarded value would break the request.
_NOT_FORWARDED = ("Connection", "Content-Length", "Host", "Transfer-Encoding")


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

    Raises:
        MalformedRequestError: A header's value is out of range; the message names the header.
    """
    found = _sort(headers)
    options = found.options
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
        dedup_key=_dedup_key(found, url, body),
    )
    _check_callbacks(message)
    return message


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
    """Return a fresh message id."""
    return f"msg_{secrets.token_hex(16)}"


def canonical(name: str) -> str:
    """Return a header name in Go's canonical case, which the wire's JSON uses."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def dump_message(message: Message) -> dict[str, Any]:
    """Return a message as plain JSON values, for storage."""
    record = dataclasses.asdict(message)
    record["body"] = base64.b64encode(message.body).decode()
    return record


def load_message(record: str | dict[str, Any]) -> Message:
    """Return the message that `dump_message` wrote."""
    fields = dict(json.loads(record) if isinstance(record, str) else record)
    fields["body"] = base64.b64decode(fields["body"])
    return Message(**fields)


def _sort(headers: HeaderPairs) -> _Sorted:
    found = _Sorted({}, {}, {}, {})
    content_type: list[str] = []
    for raw_name, value in headers:
        name = raw_name.lower()
        if name == "content-type":
            content_type.append(value)
        elif name.startswith("upstash-"):
            _sort_option(found, name.removeprefix("upstash-"), value)
    if content_type:
        # py's `headers={"content-type": …}` arrives as a forwarded header and wins.
        found.forwarded.setdefault("Content-Type", content_type)
    return found


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


def _dedup_key(found: _Sorted, url: str, body: bytes) -> str | None:
    """An explicit id wins over the content's hash (destination, body, forwarded headers)."""
    explicit = found.options.get("deduplication-id")
    if explicit:
        return hashlib.sha256(b"id:" + explicit.encode()).hexdigest()
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
