"""How an attempt ends, by what its handler raised; values only.

What an exception says is the handler's to choose, so nothing of it is taken as it is.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from longtask_kit.errors import ConfigError, NonRetryableError, RetryableError
from longtask_kit.log.text import make_valid_text
from longtask_kit.log.waiting import TOO_LATE
from longtask_kit.server.handlers import Outcome
from longtask_kit.server.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_MESSAGE_CHARS = 2000
_MAX_FOREIGN_CHARS = 500
_MAX_CODE_CHARS = 100
_MAX_FRAMES = 3
_OUR_FOLDER = str(Path(__file__).parents[1])
_NO_OUTCOME = Outcome()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended."""

    kind: Literal["end", "retry", "fail", "cancel", "wait", "park", "hand_on"]
    message: str = ""
    code: str = ""
    retry_after_s: float | None = None
    outcome: Outcome = _NO_OUTCOME
    prompts: Mapping[int, int] | None = None  # tokens of each attempt's
    line: str = ""  # of a limit, where it waits: `Call.line`
    trace: str = ""  # where a handler of one's own raised


SHUTDOWN = Ending(kind="retry", message="The server was shut down.", code="shutdown")
OUT_OF_TIME = Ending(kind="fail", message=TOO_LATE, code="timeout")

TOO_LONG = Ending(
    kind="fail",
    message=(
        "The host's time limit (LONGTASK_MAX_DURATION_S) came before the end of the answer, and "
        "its source can't go on behind a text. What came so far is kept. Ask for less "
        "(max_tokens), raise the limit of host and setting, or use a source that continues "
        "(README, Attempts that continue); then retry."
    ),
    code="time_limit",
)
HANDED_ON = {
    Stop.LIMIT: Ending(
        kind="hand_on",
        message="The host's time limit was near; another attempt goes on.",
        code="time_limit",
    ),
    Stop.DRAIN: Ending(
        kind="hand_on",
        message="The server was about to be shut down; another attempt goes on.",
        code="shutdown",
    ),
}


class MustWait(Exception):  # noqa: N818 - a signal of the limiter's, not an error
    """A task can't go on now, and is not to be held until it can."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


def ending_for(exc: BaseException) -> Ending:
    """Tell how an attempt ends that its handler left with this exception."""
    exc = min(_list_raised(exc), key=_rank)
    match exc:
        case MustWait():
            return exc.ending
        case RetryableError():
            wait_s, complaint = _read_wait_s(getattr(exc, "retry_after_s", None))
            message = _read_message(exc) + complaint
            return Ending(kind="retry", message=message, code=_read_code(exc), retry_after_s=wait_s)
        case NonRetryableError():
            return Ending(kind="fail", message=_read_message(exc), code=_read_code(exc))
        case ConfigError():
            return Ending(kind="fail", message=_read_message(exc), code="config")
        case _:
            message = f"The handler raised {type(exc).__name__}"
            if text := _say(exc, _MAX_FOREIGN_CHARS):
                message += f": {text}"
            return Ending(kind="retry", message=message, code="handler_error", trace=_trace(exc))


def _list_raised(exc: BaseException) -> list[BaseException]:
    """Return what was raised, each by itself: a TaskGroup wraps what its tasks raise."""
    if not isinstance(exc, BaseExceptionGroup):
        return [exc]
    return [raised for part in exc.exceptions for raised in _list_raised(part)]


def _rank(exc: BaseException) -> tuple[int, float]:
    """Order what several tasks raised; the least decides: first what no retry can help."""
    if isinstance(exc, NonRetryableError | ConfigError):
        return 0, 0.0
    if not isinstance(exc, RetryableError):
        return 1, 0.0
    wait_s, _ = _read_wait_s(getattr(exc, "retry_after_s", None))
    return 2, -(wait_s or 0.0)


def fail_at_once(ending: Ending) -> Ending:
    """Return the end of an attempt whose handler is being written: a typo is not retried."""
    if ending.code != "handler_error":
        return ending
    return replace(ending, kind="fail", message=f"{ending.message}\n{ending.trace}".rstrip())


def _trace(exc: BaseException) -> str:
    """Return the end of a traceback, from where the handler's own lines begin."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OUR_FOLDER)]
    return make_valid_text("".join(traceback.format_list(own[-_MAX_FRAMES:]))[-_MAX_MESSAGE_CHARS:])


def _read_message(exc: BaseException) -> str:
    return _say(exc, _MAX_MESSAGE_CHARS) or type(exc).__name__


def _read_code(exc: BaseException) -> str:
    """Return the short reason; a number will do, and a subclass may have forgotten it."""
    code = getattr(exc, "code", None)
    return "error" if code is None else _say(code, _MAX_CODE_CHARS)


def _read_wait_s(given: object) -> tuple[float | None, str]:
    """Return the seconds to wait, and what is wrong with them."""
    if given is None:
        return None, ""
    try:
        return float(given), ""  # type: ignore[arg-type]  # it may be anything
    except (TypeError, ValueError, OverflowError):
        return None, f" (retry_after_s: expected seconds, got {type(given).__name__}.)"


def _say(value: object, most_chars: int) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a handler's own `__str__`
        text = "(its text can't be read: __str__ fails)"
    return make_valid_text(text[:most_chars])
