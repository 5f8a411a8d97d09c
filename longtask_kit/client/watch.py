"""What follows others' tasks on the kit's loop, for as long as somebody reads it."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from longtask_kit.client.door import explain_end
from longtask_kit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from longtask_kit.client.door import Door
    from longtask_kit.errors import LongTaskError


class Watch(ABC):
    """Readers, who keep it running, and listeners, who are told.

    Attributes:
        is_running: Whether it follows at this time.
    """

    def __init__(self, door: Door) -> None:
        self.is_running = False
        self._door = door
        self._changed = threading.Condition()
        self._listeners: set[Callable[[], None]] = set()
        self._readers: dict[object, float] = {}  # until when, on the monotonic clock

    def hold(self, reader: object, *, for_s: float = math.inf) -> None:
        """Have the kit's loop follow until a reader lets go, or his time is over.

        Raises:
            ConfigError: The kit is closed.
        """
        with self._changed:
            self._readers[reader] = time.monotonic() + for_s
            if not self._has_more():
                return
            self._door.check_usable()  # first: in a fork's child what is said to run does not
            if self.is_running:
                return
            self.is_running = True
            self._begin()
        try:
            following = self._door.start(self._run())
        except ConfigError:
            self.is_running = False
            raise
        # Not a `finally` of its own: a kit that is closed in this moment never begins it.
        following.add_done_callback(self._end)

    def release(self, reader: object) -> None:
        """Let go; who reads a view that nobody sees costs commands."""
        with self._changed:
            self._readers.pop(reader, None)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` at every change, off the kit's loop; returns what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    @abstractmethod
    async def _run(self) -> None:
        """Follow while `_goes_on`."""

    def _end(self, following: Future[None]) -> None:
        error = explain_end(following, "Following")
        if error is not None:
            self.is_running = False
            self._fail(error)
            self._tell()

    def _fail(self, error: LongTaskError) -> None:  # noqa: B027 - most have nobody who waits
        """Take in that nothing more will be heard."""

    def _begin(self) -> None:  # noqa: B027 - most have nothing to forget
        """Forget what the run before has left; the lock is held."""

    def _has_more(self) -> bool:
        """Tell whether there is something to follow."""
        return True

    def _goes_on(self) -> bool:
        """Tell whether there is something to follow, and who reads; else the run has ended."""
        with self._changed:
            now = time.monotonic()
            self._readers = {r: until for r, until in self._readers.items() if until > now}
            self.is_running = bool(self._readers) and self._has_more()
            return self.is_running

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for listener in list(self._listeners):
            self._door.hand_over(listener)
