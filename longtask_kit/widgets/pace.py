"""How often an output draws: as often as it can be read, as seldom as its messages cost too much.

A message on the kernel's wire costs some 750 bytes before its text. A model at reading speed is
shown 30 times a second all the same; of a fast one nobody reads the tail, so its messages wait
until they carry much more text than that, and the front end shows each at the pace it came.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST_S = 1 / 30
_TEXT_BYTES = 2400  # of a fast text in one message: then all bytes are below 1.5x those of the text
_LIVELY_RATE = 1400  # bytes a second; a gap grows with the square of the rate until there
_MESSAGES_PER_S = 40  # of all outputs together; ends and what else a cell shows come on top
_SMOOTHING = 0.5


def find_gap_s(text_rate: float, writers: int = 1) -> float:
    """Return the time between two messages of an output, in seconds.

    Args:
        text_rate: Bytes of text a second, >= 0.
        writers: Outputs that draw at this time, this one included.
    """
    worth_s = min((text_rate / _LIVELY_RATE) ** 2, _TEXT_BYTES / max(text_rate, 1))
    return max(SHORTEST_S, writers / _MESSAGES_PER_S, worth_s)


class Pace:
    """When one output may draw next; all outputs of a process share the wire.

    Args:
        read_clock: Returns the time in seconds; one clock for all that share the wire.
    """

    _drew_at: dict[int, float] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, *, read_clock: Callable[[], float] = time.monotonic) -> None:
        self._read_clock = read_clock
        self._rate = 0.0
        self._at = 0.0

    def note(self, text_bytes: int) -> None:
        """Note that the output draws now, with so much new text."""
        now = self._read_clock()
        rate = text_bytes / max(now - self._at, SHORTEST_S)
        self._rate += _SMOOTHING * (rate - self._rate)
        self._at = self._drew_at[id(self)] = now
        for writer, at in list(self._drew_at.items()):
            if now - at > 1:
                self._drew_at.pop(writer, None)

    def find_wait_s(self) -> float:
        """Return how long to wait before the next draw, in seconds, >= 0."""
        gap_s = find_gap_s(self._rate, len(self._drew_at))
        return max(0.0, self._at + gap_s - self._read_clock())
