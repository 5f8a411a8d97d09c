"""What of a log a reader needs who comes now: the latest attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.log.events import TaskEvent


def drop_dead(events: Sequence[TaskEvent]) -> list[TaskEvent]:
    """Leave out what attempts have said that were started over; their `start`s stay.

    An attempt that continues has no `start`, so what it goes on from stays. An end that something
    follows was none: the task was retried by hand.
    """
    starts = [n for n, event in enumerate(events) if event.type == "start"]
    undone = [n + 1 for n, event in enumerate(events[:-1]) if event.is_terminal]
    last = max([*starts, *undone], default=0)
    return [e for e in events[:last] if e.type in ("start", "status")] + list(events[last:])
