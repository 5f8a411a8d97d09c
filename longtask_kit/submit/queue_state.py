"""What the queue says of its messages: waiting, in flight, dead; values only."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StoreError
from longtask_kit.log.keys import is_task_id

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENTS_READ = 1000  # the most of one request
# upstash.com/docs/qstash/howto/debug-logs
_WAITING = frozenset({"CREATED", "RETRY", "ERROR"})
_IN_FLIGHT = frozenset({"ACTIVE", "IN_PROGRESS", "CANCEL_REQUESTED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that the queue gave up.

    Attributes:
        reason: Why, in the queue's words or the webhook's.
        task_id: The task it names; empty where it names none of ours.
    """

    dead_letter_id: str
    reason: str
    task_id: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What the queue holds.

    Attributes:
        waiting: Messages that wait to be delivered, by the last word of each.
        in_flight: Messages whose delivery is under way.
        dead: Newest first, at most a hundred.
        is_whole: Whether its log was short enough to be read whole; else these are the latest.
    """

    waiting: int
    in_flight: int
    dead: tuple[DeadLetter, ...]
    is_whole: bool


def read_state(told: Mapping[str, Any], dead: Mapping[str, Any]) -> QueueState:
    """Read the answers of `/v2/events`, newest first, and of `/v2/dlq`.

    Raises:
        StoreError: They are something else.
    """
    events = _read_list(told, "events", holding=("messageId", "state"))
    latest: dict[str, str] = {}
    for event in events:
        latest.setdefault(event["messageId"], event["state"])
    counts = Counter(latest.values())
    return QueueState(
        waiting=sum(counts[state] for state in _WAITING),
        in_flight=sum(counts[state] for state in _IN_FLIGHT),
        dead=tuple(map(_read_dead_letter, _read_list(dead, "messages", holding=("dlqId",)))),
        is_whole=len(events) < EVENTS_READ,
    )


def _read_list(answer: object, name: str, *, holding: tuple[str, ...]) -> list[dict[str, Any]]:
    found = answer.get(name) if isinstance(answer, dict) else None
    if isinstance(found, list) and all(
        isinstance(one, dict) and set(holding) <= set(one) for one in found
    ):
        return found
    raise StoreError(f"Whoever answers at QSTASH_URL tells no {name} as QStash does: is it right?")


def _read_dead_letter(letter: Mapping[str, Any]) -> DeadLetter:
    status = letter.get("responseStatus")
    answered = f"the webhook answered {status}" if status else ""
    return DeadLetter(
        dead_letter_id=str(letter["dlqId"]),
        reason=_find_reason(letter) or str(letter.get("error") or answered or "no answer"),
        task_id=_find_task_id(letter),
        url=str(letter.get("url") or ""),
    )


def _find_reason(letter: Mapping[str, Any]) -> str:
    """Return what our webhook answered, which says more than its status."""
    try:
        reason = json.loads(letter.get("responseBody") or "")["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return reason[:400] if isinstance(reason, str) else ""


def _find_task_id(letter: Mapping[str, Any]) -> str:
    try:
        body = letter.get("body") or base64.b64decode(letter.get("bodyBase64") or "")
        task_id = json.loads(body)["taskId"]
    except (ValueError, KeyError, TypeError):
        return ""
    return task_id if isinstance(task_id, str) and is_task_id(task_id) else ""
