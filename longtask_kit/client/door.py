"""The kit's door: its own thread, where sync meets async, and what its calls go to.

Kit and tasks hold the door, so that they themselves show a person only what is for a person.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from longtask_kit.client.backend import Backend, ServiceBackend
from longtask_kit.client.listeners import ListenerThread
from longtask_kit.client.own_model import Aim
from longtask_kit.client.progress import wait_saying
from longtask_kit.errors import (
    ConfigError,
    LongTaskError,
    StoreError,
    StreamError,
    SubmitError,
)
from longtask_kit.transport import new_event_loop

if TYPE_CHECKING:
    from concurrent.futures import Future

    from longtask_kit.server.serve import ServedApp
    from longtask_kit.settings import Settings

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
_CLOSE_S = 5.0  # what is under way gets this long to end
_open_doors: weakref.WeakSet[Door] = weakref.WeakSet()


_Question = Callable[[Backend], Coroutine[Any, Any, _Answer]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where calls go, and the app in this process that new tasks run in, if one does."""

    backend: Backend
    settings: Settings | None
    served: ServedApp | None = None


class Door:
    """One background thread with one event loop that does all I/O of a kit and of its tasks.

    Args:
        open_backend: Called on the loop.
        settings: What the backend is made from; None over the HTTP API.
        aim: Where tasks go that don't say it themselves.
        revive: Starts a local stack that ended; returns its settings, None if it had not ended.
    """

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        *,
        settings: Settings | None = None,
        aim: Aim | None = None,
        revive: Callable[[], Settings | None] | None = None,
    ) -> None:
        self.aim = aim or Aim()
        self._revive = revive
        self._reviving = threading.Lock()
        self._is_closed = False
        self._gate = threading.RLock()  # what begins before the close is ended by it
        self._pid = os.getpid()
        self._loop = new_event_loop()
        self._listeners = ListenerThread()
        self._backends: list[Backend] = []  # closed with the loop
        self._thread = threading.Thread(
            target=_run_loop,
            args=(self._loop, self._backends, self._listeners),
            name="longtask-kit",
            daemon=True,
        )
        self._thread.start()
        # A door that is dropped without close() must not keep its threads.
        self._finalizer = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        self._finalizer.atexit = False
        _open_doors.add(self)
        self._served: list[ServedApp] = []
        self._submit_listeners: list[Callable[[list[str]], None]] = []
        self._last_calls: list[Callable[[], None]] = []
        self._home = _Place(self._open(open_backend), settings)
        self._apps: list[_Place] = []

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, and kit and tasks with it; TypeError is what pickle expects."""
        raise TypeError(
            "A kit can't be pickled or copied, nor a task, which holds one: the connections belong "
            "to this process. Send task.id, and there connect() and kit.attach(id)."
        )

    @property
    def backend(self) -> Backend:
        """Where calls go."""
        return self._find_place().backend

    @property
    def settings(self) -> Settings | None:
        """What the backend was made from; None over the HTTP API."""
        return self._find_place().settings

    @property
    def is_on_listener_thread(self) -> bool:
        """Whether whoever asks was called by what was handed over."""
        return self._listeners.is_current

    def start(self, work: Coroutine[Any, Any, _Answer]) -> Future[_Answer]:
        """Run a coroutine on the background loop.

        Raises:
            ConfigError: As `check_usable`.
        """
        try:
            self.check_usable()  # before the gate, which in a fork's child may be shut for good
            with self._gate:
                self.check_usable()
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except ConfigError:
            work.close()
            raise

    def listen_to_submits(
        self, listener: Callable[[list[str]], None], *, is_on: bool = True
    ) -> None:
        """Call `listener` with the ids of what is submitted from now on, or no more."""
        with self._gate:
            others = [known for known in self._submit_listeners if known != listener]
            self._submit_listeners = [*others, listener] if is_on else others

    def tell_of_submit(self, task_ids: list[str]) -> None:
        """Tell who listens that these were submitted, or retried."""
        for listener in self._submit_listeners:
            listener(task_ids)

    async def retry_all(self, task_ids: list[str], *, retry_id: str = "") -> None:
        """Run those of these tasks again that failed, and tell who listens; on the kit's loop."""
        await self.backend.groups.retry(task_ids, retry_id=retry_id)
        self.tell_of_submit(task_ids)

    def call_before_close(self, work: Callable[[], None]) -> None:
        """Call this first when the door is closed."""
        self._last_calls.append(work)

    def hand_over(self, work: Callable[[], object]) -> None:
        """Run what calls others, such as observers, on a thread where they may call the kit."""
        self._listeners.hand_over(work)

    def call_later(self, delay_s: float, work: Callable[[], object]) -> None:
        """Hand a function over after a delay; never, if the kit is closed by then."""
        if not self._is_closed and self._is_ours:
            with contextlib.suppress(RuntimeError):  # closed in this moment
                self._loop.call_soon_threadsafe(
                    self._loop.call_later, delay_s, self._listeners.hand_over, work
                )

    def ask(
        self,
        question: _Question[_Answer],
        *,
        again: _Question[_Answer] | None = None,
        saying: str = "",
    ) -> _Answer:
        """Ask the backend something and wait for the answer; a local stack that ended is restarted.

        The stack keeps its ports and tokens over a restart, and its data anyway. It may have done
        what was asked and died before its answer: whatever is asked must be harmless twice.

        Args:
            question: Called with the backend.
            again: What to ask the second time, if it differs.
            saying: What is done, said while it takes more than a second.

        Raises:
            ConfigError: As `check_usable`, also when the kit is closed meanwhile.
        """
        home = self._home
        try:
            return self._call(question(self.backend), saying)
        except (SubmitError, StoreError):
            if not self._bring_back(home):  # the stack lives: it was a real refusal
                raise
        return self._call((again or question)(self.backend), saying)

    def use(self, settings: Settings, served: ServedApp) -> None:
        """Have new tasks run in an app of this process, while it runs."""
        place = _Place(self._reach(settings), settings, served)
        with self._gate:
            self.check_usable()
            others = (app for app in self._apps if _is_there(app) and app.served is not served)
            self._apps = [*others, place]

    def keep(self, served: ServedApp) -> None:
        """Stop an app of this process when the door is closed.

        Raises:
            ConfigError: As `check_usable`; the app is stopped.
        """
        with self._gate:
            if not self._is_closed:
                self._served = [*(app for app in self._served if app.is_running), served]
                return
        served.stop()
        self.check_usable()

    def check_usable(self) -> None:
        """Raise ConfigError when nothing can be done here any more: closed, or a fork's child."""
        if self._is_closed:
            raise ConfigError("This kit is closed; make another with connect().")
        if not self._is_ours:
            raise ConfigError(
                "This kit was made in another process; its background thread did not come along "
                "with the fork: connect() again here, and attach() to tasks by their id."
            )

    def close(self) -> None:
        """Stop the threads and the apps of this process; who waits for an answer gets an error."""
        if not self._is_ours:  # a fork's parent goes on using it
            return
        last_calls, self._last_calls = self._last_calls, []
        for work in last_calls:
            try:
                work()
            except LongTaskError as exc:
                logger.warning("left undone at the close of the kit: %s", exc)
        with self._gate:
            if self._is_closed:
                return
            self._is_closed = True
        for served in self._served:
            served.stop()
        self._finalizer.detach()  # not called: at the end of the process it does nothing
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_S)
            self._listeners.join(_CLOSE_S)

    @property
    def _is_ours(self) -> bool:
        return self._pid == os.getpid()

    def _open(self, open_backend: Callable[[], Backend]) -> Backend:
        async def open_on_loop() -> Backend:
            return open_backend()

        backend = self._call(open_on_loop())
        self._backends.append(backend)
        return backend

    def _reach(self, settings: Settings) -> Backend:
        """Return a backend of these settings, by connections that are there if they lead there."""
        known = self._home.backend
        other = known.lead_to(settings) if isinstance(known, ServiceBackend) else None
        return other or self._open(lambda: ServiceBackend(settings))

    def _bring_back(self, home: _Place) -> bool:
        """Restart the local stack if it ended, unless another thread has; whether it had ended."""
        if self._revive is None:
            return False
        with self._reviving:
            if self._home is home:
                settings = self._revive()
                if settings is None:
                    return False
                self._move(settings)
        return True

    def _move(self, settings: Settings) -> None:
        """Talk to these services; what follows already keeps what it began with."""
        self._home = _Place(self._reach(settings), settings)
        for app in self._apps:  # those of this process live on
            if app.served is not None and app.served.is_running:
                self.use(settings.model_copy(update={"base_url": app.served.url}), app.served)

    def _find_place(self) -> _Place:
        """Return the newest app of this process that was not stopped since, or where none is."""
        return next((app for app in reversed(self._apps) if _is_there(app)), self._home)

    def _call(self, work: Coroutine[Any, Any, _Answer], saying: str = "") -> _Answer:
        if threading.current_thread() is self._thread:
            work.close()
            raise ConfigError("The kit was called on its own event loop, where it can't wait.")
        future = self.start(work)
        try:
            return wait_saying(future, saying)
        except CancelledError:
            raise ConfigError(
                "This kit was closed before the answer came; make another with connect(), whose "
                "tasks() shows what became of it."
            ) from None
        except BaseException:  # an Interrupt ends the wait, and then nobody wants the result
            future.cancel()
            raise


def explain_end(work: Future[Any], what: str, *, task_id: str = "") -> LongTaskError | None:
    """Tell what cut a coroutine of `Door.start` off; None where it came to its end.

    Args:
        work: It; done.
        what: What it did, for the message.
        task_id: The task that this concerns, if it is one.
    """
    if work.cancelled():
        return ConfigError(
            f"{what} stopped, as this kit was closed meanwhile; make another with connect(), and "
            "attach() there: the tasks go on."
        )
    error = work.exception()
    if error is None or isinstance(error, LongTaskError):
        return error
    return StreamError(
        f"{what} stopped ({type(error).__name__}: {error}); attach again.", task_id=task_id
    )


def _is_there(app: _Place) -> bool:
    return app.served is not None and app.served.is_running


def _run_loop(
    loop: asyncio.AbstractEventLoop, backends: list[Backend], listeners: ListenerThread
) -> None:
    """Run until the loop is stopped; then end what still runs, and close the backends."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        closing = [backend.aclose() for backend in backends]
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(asyncio.gather(*closing, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
        listeners.end()


@atexit.register
def _close_open_doors() -> None:  # else aiohttp complains of connections to whoever reads stderr
    for door in list(_open_doors):
        door.close()
