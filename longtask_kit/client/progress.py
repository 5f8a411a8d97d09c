"""What a call that takes its time says meanwhile."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

_SAY_EVERY_S = 1.0
# An Interrupt comes between two steps: some libraries (polars) have a signal restart what waits.
_STEP_S = 0.2
_Answer = TypeVar("_Answer")


def wait_saying(future: Future[_Answer], what: str) -> _Answer:
    """Wait for a result; from a second on, say for how long, in a line that is taken back.

    Says it where somebody may look: in a terminal or a cell, not in a file or a pipe.

    Args:
        future: Whose result is wanted.
        what: What is done meanwhile, as in "submitting 1,000 rows"; nothing is said without.

    Raises:
        BaseException: What the future has instead of a result.
    """
    is_said = bool(what) and _is_seen()
    began, line = time.monotonic(), ""
    say_at = began + _SAY_EVERY_S
    try:
        while True:
            try:
                return future.result(_STEP_S)
            except TimeoutError:
                if future.done():
                    return future.result()
            now = time.monotonic()
            if is_said and now >= say_at:
                line, say_at = f"{what}: {now - began:.0f} s", now + _SAY_EVERY_S
                _overwrite(line)
    finally:
        if line:
            _overwrite(" " * len(line) + "\r")


def say(text: str) -> None:
    """Write to standard output; what its encoding lacks, as a path may hold it, is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _is_seen() -> bool:
    return sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel.")


def _overwrite(line: str) -> None:
    sys.stdout.write(f"\r{line}")
    sys.stdout.flush()
