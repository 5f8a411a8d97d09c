"""One task's events, taken in by the kit's thread, waited for in any thread or event loop."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Literal, TypeVar

from longtask_kit.client.door import explain_end
from longtask_kit.errors import ConfigError
from longtask_kit.log.subscribe import follow
from longtask_kit.log.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Future

    from longtask_kit.client.door import Door
    from longtask_kit.errors import LongTaskError
    from longtask_kit.log.events import TaskEvent

logger = logging.getLogger(__name__)

_Seen = TypeVar("_Seen")
_TELL_S = 5.0  # an observer that takes longer than this holds up nobody else
_TICK_S = 0.1  # ipykernel delivers an Interrupt only between two steps of a waiting coroutine


class FeedState(enum.Enum):
    """What is known of a task's events here."""

    IDLE = "nobody has asked for them yet"
    FOLLOWING = "they are taken in"
    ENDED = "the last one has been taken in"
    BROKEN = "reading them ended early; `error` says why"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come, unless somebody follows on."""
        return self in (FeedState.ENDED, FeedState.BROKEN)


_Move = Literal["follow", "reopen", "end", "break"]
_MOVES: dict[_Move, dict[FeedState, FeedState]] = {
    # Somebody wants to see them all: an end stays one, a broken feed goes on where it broke.
    "follow": {
        FeedState.IDLE: FeedState.FOLLOWING,
        FeedState.FOLLOWING: FeedState.FOLLOWING,
        FeedState.ENDED: FeedState.ENDED,
        FeedState.BROKEN: FeedState.FOLLOWING,
    },
    # A failed task was retried: its end was none.
    "reopen": dict.fromkeys(FeedState, FeedState.FOLLOWING),
    "end": {FeedState.FOLLOWING: FeedState.ENDED},
    "break": {FeedState.FOLLOWING: FeedState.BROKEN},
}


def next_state(state: FeedState, move: _Move) -> FeedState:
    """Return what a move makes of a state.

    Raises:
        KeyError: There is no such move from there.
    """
    return _MOVES[move][state]


class Feed:
    """A task's events so far; `for` and `async for` replay them and then wait for more.

    Attributes:
        transcript: The fold of all events so far; read it under no lock, copy it for keeping.
        state: Of the feed, not of the task.
        error: Why it is broken, or None.
    """

    def __init__(self, task_id: str, door: Door) -> None:
        self.transcript = Transcript()
        self.state = FeedState.IDLE
        self.error: LongTaskError | None = None
        self._task_id = task_id
        self._door = door
        self._events: list[TaskEvent] = []
        self._changed = threading.Condition()
        self._listeners: dict[Callable[[FeedState], None], None] = {}  # in the order they came
        self._bells: set[Callable[[], None]] = set()  # of event loops that wait
        self._told_by = 0.0  # until then, on the monotonic clock, the end is being told

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come, and whoever draws has drawn it.

        So a cell that awaits the task ends with its output in place. Who is called to draw or to
        observe need not wait for himself, and nobody waits for long.
        """
        if not self.state.is_over:
            return False
        return self._told_by <= time.monotonic() or self._door.is_on_listener_thread

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come yet."""
        return not self._events

    def list_events(self) -> list[TaskEvent]:
        """Return the events so far."""
        with self._changed:
            return self._events.copy()

    def follow(self) -> None:
        """Have the background thread take events in, unless it does or did.

        Raises:
            ConfigError: The kit is closed; whoever waits would wait for ever.
        """
        self._move("follow")

    def reopen(self) -> None:
        """Follow on after an end that was none."""
        self._move("reopen")

    def _move(self, move: Literal["follow", "reopen"]) -> None:
        with self._changed:
            before, state = self.state, next_state(self.state, move)
            if state is FeedState.ENDED:
                return
            self._door.check_usable()
            if before is FeedState.FOLLOWING:
                return
            self.state, self.error = state, None
            try:
                taking = self._door.start(self._take_events())
            except ConfigError:
                self.state = before
                raise
        # Not a `finally` of its own: a kit that is closed in this moment never begins it.
        taking.add_done_callback(self._end)

    async def _take_events(self) -> None:
        after = self.transcript.cursor
        events = follow(self._door.backend.source, self._task_id, after=after)
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            async for event in events:
                self._take(event)

    def _take(self, event: TaskEvent) -> None:
        """Add an event and wake whoever waits."""
        with self._changed:
            self.transcript.apply(event)
            self._events.append(event)
            self._changed.notify_all()
        self._tell()

    def _end(self, taking: Future[None]) -> None:
        """Say that nothing more will come, and why if it is too early.

        Listeners first: a cell that awaits the task ends with its output already in place.
        """
        # The kit was closed, or worse: never pass for a whole text.
        error = explain_end(taking, f"Following {self._task_id}", task_id=self._task_id)
        told_by = time.monotonic() + _TELL_S
        with self._changed:
            self.error, self.state = error, next_state(self.state, "break" if error else "end")
            self._told_by, is_heard = told_by, bool(self._listeners)
        self._tell()
        if is_heard:  # behind what the listeners have just handed over
            self._door.hand_over(lambda: self._finish_telling(told_by))
        else:
            self._finish_telling(told_by)

    def _finish_telling(self, told_by: float) -> None:
        with self._changed:
            if self._told_by == told_by:  # else it was followed on, and ended again
                self._told_by = 0.0
            self._changed.notify_all()
            bells = list(self._bells)
        for ring in bells:
            ring()

    def _tell(self) -> None:
        with self._changed:
            state, listeners, bells = self.state, list(self._listeners), list(self._bells)
        for listener in listeners:
            try:
                listener(state)
            except Exception:  # one listener's failure must not end the stream of all
                logger.exception("a listener of a task failed")
        for ring in bells:
            ring()

    def read(self, look: Callable[[Transcript], _Seen]) -> _Seen:
        """Return what `look` sees of the transcript, which does not change meanwhile."""
        with self._changed:
            return look(self.transcript)

    def copy(self) -> Transcript:
        """Return the transcript so far as a value that does not change any more."""
        return self.read(Transcript.copy)

    def listen(self, listener: Callable[[FeedState], None]) -> Callable[[], None]:
        """Call `listener` at every change, on the kit's event loop; returns what ends that.

        It must not wait: what takes long, or calls what others wrote, is `Door.hand_over`'s. What
        it hands over at the end is done before whoever waits for the end goes on.
        """
        with self._changed:
            self._listeners[listener] = None

        def stop() -> None:
            with self._changed:
                self._listeners.pop(listener, None)

        return stop

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
            self.wait_until(lambda: self.is_over or len(self._events) > seen)  # noqa: B023
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
                was_over = self.is_over  # read before the events: the last one comes first
                fresh = self._events[seen:]
                for event in fresh:
                    yield event
                seen += len(fresh)
                if was_over and not fresh:
                    break
                if not fresh:
                    await changed.wait()
        self._raise_error()

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error

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

        def ring() -> None:
            doorbell.ring(changed)

        tick()
        with self._changed:
            self._bells.add(ring)
        try:
            yield changed
        finally:
            with self._changed:
                self._bells.discard(ring)
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
