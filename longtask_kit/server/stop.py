"""Why an attempt must stop before its handler has ended, and what follows: one table."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal


class Stop(enum.StrEnum):
    """Why an attempt must stop: the append script's own words, and some of ours."""

    CANCEL = "cancel"
    FENCED = "fenced"
    GONE = "gone"
    SHUTDOWN = "shutdown"
    OUTAGE = "outage"
    TIMEOUT = "timeout"
    LIMIT = "limit"
    TOO_LONG = "too_long"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows a stop.

    Attributes:
        meaning: What happened.
        ends_as: The end that the attempt still writes; None where it holds its lease no more, or
            nothing can be written.
    """

    meaning: str
    ends_as: Literal["cancel", "retry", "fail", "hand_on"] | None


CONSEQUENCES: dict[Stop, Consequence] = {
    Stop.CANCEL: Consequence("somebody asked for it", "cancel"),
    Stop.SHUTDOWN: Consequence("the app closes, and gives the lease back", "retry"),
    Stop.TIMEOUT: Consequence("the time that the task may take is over", "fail"),
    Stop.LIMIT: Consequence("its host's time limit is near, and another goes on", "hand_on"),
    Stop.DRAIN: Consequence("the app is about to close, and another goes on", "hand_on"),
    Stop.TOO_LONG: Consequence("its host's time limit is here, and it can't go on", "fail"),
    Stop.FENCED: Consequence("a newer attempt took over", None),
    Stop.GONE: Consequence("the task was deleted", None),
    Stop.OUTAGE: Consequence("Redis was away for too long, or lost what it held", None),
}


class AttemptStopped(Exception):  # noqa: N818 - a signal between two modules, not an error
    """The attempt must stop now, as `CONSEQUENCES` says."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(f"{stop}: {CONSEQUENCES[stop].meaning}")
        self.stop = stop
