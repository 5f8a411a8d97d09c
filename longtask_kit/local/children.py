"""Child processes that never outlive us."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> Callable[[], None] | None:
    """Return what a child runs before exec so that it ends when we are killed; Linux only."""
    if sys.platform != "linux":
        return None
    # Loaded before the fork: between fork and exec nothing may take a lock.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before prctl could see it
            os._exit(1)

    return ask_the_kernel
