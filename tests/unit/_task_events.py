"""A task's events, written as they stand in a log."""

from datetime import UTC, datetime

from longtask_kit.log.events import Cursor, TaskEvent, Usage

USAGE = Usage(prompt_tokens=3, completion_tokens=5, total_tokens=8, reasoning_tokens=2)
_TIME = datetime(2026, 1, 2, tzinfo=UTC)


def tell(attempt: int, *said: tuple[str, str], after: int = 0) -> list[TaskEvent]:
    """Return the events of an attempt, (type, data) each."""
    events = []
    for seq, (type_, data) in enumerate(said, start=after + 1):
        ends = {"usage": USAGE, "finish_reason": data or "stop"} if type_ == "end" else {}
        events.append(
            TaskEvent(
                type=type_,  # type: ignore[arg-type]  # also one of a newer version
                cursor=Cursor(attempt, seq),
                time=_TIME,
                data="" if type_ == "end" else data,
                **ends,  # type: ignore[arg-type]
            )
        )
    return events


def begin(attempt: int, *said: tuple[str, str]) -> list[TaskEvent]:
    """Return the events of an attempt that starts, as its first ones always do."""
    return tell(attempt, ("status", "running"), ("start", str(attempt)), *said)


PENDING = tell(0, ("status", "pending"))
END = ("end", "stop")


def say(*texts: str) -> list[tuple[str, str]]:
    """Return pieces of a text."""
    return [("content", text) for text in texts]
