"""What a row needs, by what has become of the task of its content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from longtask_kit.log.record import TaskRecord

LEAST_TTL_S = 60
_CLAIM_HOLDS_S = float(LEAST_TTL_S)  # no record has expired so soon
Fate = Literal["run", "publish", "keep", "join", "retry", "resume", "renew"]


def decide_fate(record: TaskRecord | None, *, age_s: float, endpoint: str | None = None) -> Fate:
    """Tell what a row needs whose content has a task.

    Args:
        record: The task's, or None where it has none.
        age_s: How long ago the content got its task.
        endpoint: Where it would run now: a task that failed runs again where it was submitted.
    """
    if record is None:
        # New, or whoever gave it is on his way to write the record, or died on it: the same id will
        # do for both. After a while it was there, and is deleted or expired.
        return "run" if age_s < _CLAIM_HOLDS_S else "renew"
    match record.status:
        case "completed":
            return "keep"
        case "failed":
            return "retry" if record.wire.get("endpoint") == endpoint else "renew"
        case "cancelled":
            return "renew"
        case "pending" if record.is_parked:
            return "resume"
        case "pending" if record.message_id is None:
            # Whoever retried it died before its message: the first one's id is used up.
            return "retry" if record.attempt else "publish"
        case _:
            return "join"
