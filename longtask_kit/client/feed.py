"""One task's events, taken in by the kit's thread, waited for in any thread or event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, TypeVar

from longtask_kit.log.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from longtask_kit.errors import LongTaskError
    from longtask_kit.log.events import TaskEvent

logger = logging.getLogger(__name__)

_Seen = TypeVar("_Seen")
_TICK_S = 0.1  # ipykernel delivers an Interrupt only between two steps of a waiting coroutine


class Feed:
    """Grows by `take`, ends by `close`; `for` and `async for` replay it and then wait for more.

    Attributes:
        transcript: The fold of all events so far; read it under no lock, copy it for keeping.
        error: Why reading ended early, or None.
    """

    def __init__(self) -> None:
        self.transcript = Transcript()
        self.error: LongTaskError | None = None
        self._events: list[TaskEvent] = []
        self._is_ended = False
        self._is_closed = False
        self._changed = threading.Condition()
        self._listeners: set[Callable[[], None]] = set()

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will come; listeners see it before whoever waits does."""
        return self._is_ended

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come, and every listener has been told."""
        return self._is_closed

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come yet."""
        return not self._events

    def take(self, event: TaskEvent) -> None:
        """Add an event and wake whoever waits."""
        with self._changed:
            if event.cursor <= self.transcript.cursor:
                return  # a second follower brought it
            self.transcript.apply(event)
            self._events.append(event)
        self._wake()

    def close(self, error: LongTaskError | None = None) -> None:
        """Say that nothing more will come, and why if it is too early.

        Listeners first: a cell that awaits the task ends with its output already in place.
        """
        with self._changed:
            self.error, self._is_ended = error, True
        self._wake()
        with self._changed:
            self._is_closed = True
        self._wake()

    def reopen(self) -> None:
        """Go on after an early end."""
        with self._changed:
            self.error, self._is_ended, self._is_closed = None, False, False

    def read(self, look: Callable[[Transcript], _Seen]) -> _Seen:
        """Return what `look` sees of the state, which does not change meanwhile."""
        with self._changed:
            return look(self.transcript)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, on the kit's thread, at every change; returns what ends that."""
        with self._changed:
            self._listeners.add(listener)

        def stop() -> None:
            with self._changed:
                self._listeners.discard(listener)

        return stop

    def copy_transcript(self) -> Transcript:
        """Return the state so far as a value that does not change any more."""
        copy = Transcript()
        with self._changed:
            for event in self._events:
                copy.apply(event)
        return copy

    def wait_until(self, is_met: Callable[[], bool], *, timeout_s: float | None = None) -> bool:
        """Wait, in steps that an Interrupt can end, until a condition holds; whether it does."""
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not is_met():
                left = _TICK_S if give_up_at is None else give_up_at - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, _TICK_S))
        return True

    def __iter__(self) -> Iterator[TaskEvent]:
        seen = 0
        while True:
            self.wait_until(lambda: self._is_closed or len(self._events) > seen)  # noqa: B023
            fresh = self._events[seen:]
            if not fresh:
                break
            yield from fresh
            seen += len(fresh)
        self._raise_error()

    async def __aiter__(self) -> AsyncIterator[TaskEvent]:
        seen = 0
        with self._listening() as changed:
            while True:
                changed.clear()
                was_closed = self._is_closed  # read before the events: the last one comes first
                fresh = self._events[seen:]
                for event in fresh:
                    yield event
                seen += len(fresh)
                if was_closed and not fresh:
                    break
                if not fresh:
                    await changed.wait()
        self._raise_error()

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener()
            except Exception:  # one listener's failure must not end the stream of all
                logger.exception("a listener of a task failed")

    @contextlib.contextmanager
    def _listening(self) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop, set whenever the feed changes and at each tick."""
        loop = asyncio.get_running_loop()
        doorbell = _doorbells.setdefault(loop, _Doorbell(loop))
        changed = asyncio.Event()
        # A timer of its own: a timeout around each wait would cost more than the wait.
        ticking: asyncio.TimerHandle

        def tick() -> None:
            nonlocal ticking
            changed.set()
            ticking = loop.call_later(_TICK_S, tick)

        tick()
        stop = self.listen(lambda: doorbell.ring(changed))
        try:
            yield changed
        finally:
            stop()
            ticking.cancel()


class _Doorbell:
    """Sets events of another thread's loop; to wake it takes a system call: one for all will do."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._rung: set[asyncio.Event] = set()
        self._is_ringing = False

    def ring(self, changed: asyncio.Event) -> None:
        self._rung.add(changed)  # before the look: `_answer` takes its flag down before its look
        if self._is_ringing:
            return
        self._is_ringing = True
        if loop := self._loop():
            with contextlib.suppress(RuntimeError):  # that loop is closed; nobody waits
                loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._is_ringing = False
        while self._rung:
            self._rung.pop().set()


_doorbells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Doorbell] = (
    weakref.WeakKeyDictionary()
)
