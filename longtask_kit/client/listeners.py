"""A thread for what is told to others: drawing, and the observers of what was drawn."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class ListenerThread:
    """Runs functions one after another, in the order in which they were handed over.

    Not on the kit's event loop: an observer may ask the kit something, and wait for its answer.
    """

    def __init__(self) -> None:
        self._works: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=_run, args=(self._works,), name="longtask-kit-listeners", daemon=True
        )
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether we are on it."""
        return threading.current_thread() is self._thread

    def hand_over(self, work: Callable[[], object]) -> None:
        """Run a function after all that were handed over before; returns at once."""
        self._works.put(work)

    def end(self) -> None:
        """End when all that was handed over has run."""
        self._works.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the end, unless we are on it."""
        if not self.is_current:
            self._thread.join(timeout_s)


def _run(works: SimpleQueue[Callable[[], object] | None]) -> None:
    while (work := works.get()) is not None:
        try:
            work()
        except BaseException:  # sys.exit() of one observer must not end the drawing of all
            logger.exception("a listener of a task failed")
        del work  # it may be what holds the kit, which nobody else does any more
