"""When a failed attempt is tried again, or not (wire doc, section 5); no I/O, no clock."""

from __future__ import annotations

import datetime
import email.utils
import math
import re
from typing import TYPE_CHECKING

from longtask_kit.local.qstash.delays import evaluate_expression
from longtask_kit.local.qstash.durations import parse_go_duration_s
from longtask_kit.local.qstash.errors import DurationError, ExpressionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_DELAY_S = 86_400.0
HINT_HEADERS = (
    "Retry-After",
    "X-Ratelimit-Reset",
    "X-Ratelimit-Reset-Requests",
    "X-Ratelimit-Reset-Tokens",
)

_SECONDS = re.compile(r"\d{1,15}(?:\.\d{0,9})?", re.ASCII)


def next_delay_s(
    status: int,
    headers: Mapping[str, Sequence[str]],
    *,
    retried: int,
    max_retries: int,
    expression: str | None,
    now_s: float,
    time_scale: float = 1.0,
) -> float | None:
    """Return the seconds to wait before the next attempt, or None if there is to be none.

    Args:
        status: The response's status; 0 if there was no response.
        headers: The response's headers under their canonical names.
        retried: Retries made so far.
        max_retries: Retries allowed.
        expression: The publisher's `Upstash-Retry-Delay`, if any.
        now_s: Unix time, for hints that name a date.
        time_scale: Factor for the computed backoff. A server's hint is kept as it is: the
            server knows when it will be ready.
    """
    if retried >= max_retries or is_non_retryable(status, headers):
        return None
    hint_s = hinted_delay_s(headers, now_s=now_s)
    if hint_s is not None:
        return hint_s
    return backoff_s(retried, expression=expression) * time_scale


def is_non_retryable(status: int, headers: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether the destination asked to stop: 489 and the header, not 489 alone."""
    values = headers.get("Upstash-Nonretryable-Error", ())
    return status == 489 and any(value.strip().lower() == "true" for value in values)


def hinted_delay_s(headers: Mapping[str, Sequence[str]], *, now_s: float) -> float | None:
    """Return the first usable server hint in seconds; hints beyond one day are ignored."""
    for name in HINT_HEADERS:
        for value in headers.get(name, ()):
            delay_s = parse_hint_s(value.strip(), now_s=now_s)
            if delay_s is not None and delay_s <= MAX_DELAY_S:
                return delay_s
    return None


def parse_hint_s(value: str, *, now_s: float) -> float | None:
    """Return the seconds a hint asks for: a number, an HTTP date or a Go duration; else None."""
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        return parse_go_duration_s(value)
    except DurationError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(value)
        # A date without a zone is UTC, not this machine's time.
        until = until if until.tzinfo else until.replace(tzinfo=datetime.UTC)
        return max(0.0, until.timestamp() - now_s)
    except (ValueError, OverflowError, OSError):
        return None


def backoff_s(retried: int, *, expression: str | None = None) -> float:
    """Return the publisher's own delay if it has a value, else e^(2.5 n) for n = 1, 2 and so on."""
    if expression is not None:
        try:
            delay_ms = evaluate_expression(expression, retried=retried)
        except ExpressionError:
            # Valid at publish but without a value now, as 1000/(3-retried) at 3.
            pass
        else:
            return min(max(delay_ms / 1000, 0.0), MAX_DELAY_S)
    return min(MAX_DELAY_S, math.exp(min(2.5 * (retried + 1), 50.0)))
