"""Wait for a condition instead of sleeping and hoping."""

import time
from collections.abc import Callable


def wait_until(is_met: Callable[[], object], *, timeout_s: float = 15.0) -> None:
    """Return as soon as `is_met()` is true; fail with its last value after `timeout_s`."""
    give_up_at = time.monotonic() + timeout_s
    while not (value := is_met()):
        assert time.monotonic() < give_up_at, f"still {value!r} after {timeout_s} s"
        time.sleep(0.01)
