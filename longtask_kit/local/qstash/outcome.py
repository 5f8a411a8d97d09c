"""What an attempt's outcome changes: delivered, tried again, or dead; pure but for the log line."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from longtask_kit.local.qstash.destination import printable
from longtask_kit.local.qstash.retry import next_delay_s
from longtask_kit.local.qstash.store import DeadLetter, Settlement
from longtask_kit.local.qstash.views import callback_messages, event_view

if TYPE_CHECKING:
    from longtask_kit.local.qstash.message import Message
    from longtask_kit.local.qstash.request import Attempt

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
