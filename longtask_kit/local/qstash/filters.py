"""Query filters over messages, events and dead letters; pure (wire doc, section 2)."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from longtask_kit.local.qstash.errors import MalformedRequestError

Params = Mapping[str, Sequence[str]]

IN_PROGRESS = ("ACTIVE", "RETRY", "ERROR")

# Each filter's own name, and how a view answers it.
_FIELDS: dict[str, Callable[[Mapping[str, Any]], Sequence[Any]]] = {
    "messageId": lambda view: [view["messageId"]],
    "messageIds": lambda view: [view["messageId"]],
    "dlqIds": lambda view: [view.get("dlqId")],
    "url": lambda view: [view["url"]],
    "host": lambda view: [urllib.parse.urlsplit(view["url"]).hostname],
    "path": lambda view: [urllib.parse.urlsplit(view["url"]).path],
    "state": lambda view: [view.get("state")],
    "label": lambda view: view.get("labels", []),
    "responseStatus": lambda view: [str(view.get("responseStatus"))],
    "topicName": lambda view: [view.get("topicName")],
    "queueName": lambda view: [view.get("queueName")],
    "scheduleId": lambda view: [view.get("scheduleId")],
    "flowControlKey": lambda view: [view.get("flowControlKey")],
    "callerIp": lambda view: [view.get("callerIP")],
    "callerIP": lambda view: [view.get("callerIP")],
}
# URLs and labels keep their commas; a list of them is given by repeating the parameter.
_VERBATIM = ("url", "path")
_PAGING = ("cursor", "count", "order", "groupBy", "qstash_token")
_DATES = ("fromDate", "toDate")


def check_params(params: Params, *, without: Sequence[str] = ()) -> None:
    """Refuse a parameter nobody knows: a misspelt filter would delete everything.

    Raises:
        MalformedRequestError: Names the parameter.
    """
    for name in params:
        if name in without or name not in (*_FIELDS, *_PAGING, *_DATES):
            raise MalformedRequestError(f"unknown query parameter {name[:80]!r}")
    for name in _DATES:
        number_param(params, name, default=0, most=10**15)


def is_oldest_first(params: Params) -> bool:
    """Tell whether a list is asked for the other way round, by `order=earliestFirst`.

    Raises:
        MalformedRequestError: The order has another name.
    """
    order = next(iter(params.get("order", ())), "latestFirst")
    if order not in ("latestFirst", "earliestFirst"):
        raise MalformedRequestError(
            f"invalid order: expected latestFirst or earliestFirst, got {order[:80]!r}"
        )
    return order == "earliestFirst"


def has_filter(params: Params) -> bool:
    """Tell whether any parameter narrows the selection."""
    return any(name in params for name in (*_FIELDS, *_DATES))


def number_param(params: Params, name: str, *, default: int, most: int) -> int:
    """Return a whole number from the query, at most `most`.

    Raises:
        MalformedRequestError: It isn't a whole number.
    """
    text = next(iter(params.get(name, ())), None)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise MalformedRequestError(f"invalid {name}: expected a number, got {text[:80]!r}")
    return min(int(text), most)


def matches(view: Mapping[str, Any], params: Params, *, time_ms: int) -> bool:
    """Tell whether a view passes every filter; several values of one filter are alternatives.

    Args:
        view: The JSON form of a message, event or dead letter.
        params: The query; parameters that are no filters are not looked at.
        time_ms: The moment that `fromDate` and `toDate` compare with.
    """
    earliest = number_param(params, "fromDate", default=0, most=10**15)
    latest = number_param(params, "toDate", default=10**15, most=10**15)
    if not earliest <= time_ms <= latest:
        return False
    return all(
        any(value in wanted(params, name) for value in values_of(view))
        for name, values_of in _FIELDS.items()
        if name in params
    )


def wanted(params: Params, name: str) -> list[str]:
    """Return the values asked for under a filter's name, repeated or comma-separated."""
    given = params.get(name, ())
    values = list(given) if name in _VERBATIM else [v for text in given for v in text.split(",")]
    return [*values, *IN_PROGRESS] if "IN_PROGRESS" in values else values
