"""What an attempt's outcome changes: delivered, tried again and when, or dead.

When: wire doc, section 5. All is pure but for the log line.
"""

from __future__ import annotations

import datetime
import email.utils
import logging
import math
import re
import secrets
from typing import TYPE_CHECKING

from longtask_kit.local.qstash.delays import evaluate_expression, parse_go_duration_s
from longtask_kit.local.qstash.destination import printable
from longtask_kit.local.qstash.errors import DurationError, ExpressionError
from longtask_kit.local.qstash.store import DeadLetter, Settlement
from longtask_kit.local.qstash.views import callback_messages, event_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.local.qstash.message import Message
    from longtask_kit.local.qstash.request import Attempt

MAX_DELAY_S = 86_400.0
HINT_HEADERS = (
    "Retry-After",
    "X-Ratelimit-Reset",
    "X-Ratelimit-Reset-Requests",
    "X-Ratelimit-Reset-Tokens",
)

_SECONDS = re.compile(r"\d{1,15}(?:\.\d{0,9})?", re.ASCII)

logger = logging.getLogger(__name__)


def settlement_of(
    message: Message, attempt: Attempt, *, retried: int, time_ms: int, time_scale: float
) -> Settlement:
    """Return what an attempt's outcome changes: delivered, tried again, or dead."""
    delay_s = None
    if not attempt.is_delivered:
        delay_s = next_delay_s(
            attempt.status,
            attempt.headers,
            retried=retried,
            max_retries=message.max_retries,
            expression=message.retry_delay,
            now_s=time_ms / 1000,
            time_scale=time_scale,
        )
    due_ms = None if delay_s is None else time_ms + round(delay_s * 1000)
    is_dead = not attempt.is_delivered and due_ms is None
    dead_letter = _dead_letter(message, attempt, time_ms) if is_dead else None
    callbacks = callback_messages(
        message,
        attempt,
        retried=retried,
        dead_letter_id=dead_letter.dead_letter_id if dead_letter else None,
        now_ms=time_ms,
    )
    states = ["DELIVERED"] if attempt.is_delivered else ["ERROR", "FAILED" if is_dead else "RETRY"]
    return Settlement(
        message=message,
        events=[
            event_view(message, state, time_ms=time_ms, attempt=attempt, next_delivery_ms=due_ms)
            for state in states
        ],
        retried=retried + 1,
        due_ms=due_ms,
        dead_letter=dead_letter,
        callbacks=callbacks,
    )


def _dead_letter(message: Message, attempt: Attempt, time_ms: int) -> DeadLetter:
    # The hosted service's ids are <ms>-<seq>; random digits need no counter that survives.
    dead_letter_id = f"{time_ms}-{secrets.randbelow(10**9)}"
    return DeadLetter(dead_letter_id=dead_letter_id, message=message, attempt=attempt)


def log_outcome(settlement: Settlement, attempt: Attempt) -> None:
    """Tell of a failure, and in debugging of a success too."""
    message = settlement.message
    if attempt.is_delivered:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("message %s delivered to %s", message.message_id, printable(message.url))
        return
    outcome = "given up" if settlement.due_ms is None else f"retry {settlement.retried}"
    logger.warning(
        "message %s to %s failed, %s: %s",
        message.message_id,
        printable(message.url),
        outcome,
        attempt.error,
    )


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
