"""The kit's door: its own thread, where sync meets async, and what its calls go to.

Kit and tasks hold the door, so that they themselves show a person only what is for a person.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from longtask_kit.errors import ConfigError, StoreError, SubmitError
from longtask_kit.log.store import Store
from longtask_kit.log.subscribe import RedisSource
from longtask_kit.submit.queue import Queue
from longtask_kit.submit.tasks import Tasks
from longtask_kit.transport import new_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Future

    from longtask_kit.log.events import Status
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.subscribe import EventSource
    from longtask_kit.server.serve import ServedApp
    from longtask_kit.settings import Settings
    from longtask_kit.submit.spec import TaskSpec

_Answer = TypeVar("_Answer")
_open_doors: weakref.WeakSet[Door] = weakref.WeakSet()


class Backend(Protocol):
    """What a kit's calls go to; every method runs on the kit's own event loop.

    Beside what each says, all raise StreamExpiredError for a task that is not there.
    """

    @property
    def source(self) -> EventSource:
        """Where events come from."""
        ...

    async def submit(self, spec: TaskSpec) -> tuple[str, str]:
        """Queue a task; returns its id and the queue's message id."""
        ...

    async def read(self, task_id: str) -> TaskRecord:
        """Return a task's record."""
        ...

    async def list(self, *, limit: int, status: Status | None) -> Sequence[TaskRecord]:
        """Return tasks, newest first."""
        ...

    async def cancel(self, task_id: str) -> Status:
        """Cancel, and return the status it led to."""
        ...

    async def retry(self, task_id: str) -> str:
        """Run a failed task again, or raise SubmitError; returns the queue's message id."""
        ...

    async def delete(self, task_id: str) -> None:
        """Forget a task."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class ServiceBackend(Tasks):
    """The services themselves: QStash and Redis, hosted or local."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        super().__init__(store or Store.open(settings), Queue.open(settings))
        self.source = RedisSource(self._store, settings)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.source.aclose()
        await self._queue.aclose()
        await self._store.aclose()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where calls go, and the app in this process that new tasks run in, if one does."""

    backend: Backend
    settings: Settings | None
    served: ServedApp | None = None

    @property
    def is_there(self) -> bool:
        return self.served is None or self.served.is_running


class Door:
    """One background thread with one event loop that does all I/O of a kit and of its tasks.

    Args:
        open_backend: Called on the loop.
        settings: What the backend is made from; None over the HTTP API.
        revive: Starts a local stack that ended; returns its settings, None if it had not ended.
    """

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        *,
        settings: Settings | None = None,
        revive: Callable[[], Settings | None] | None = None,
    ) -> None:
        self._revive = revive
        self._is_closed = False
        self._pid = os.getpid()
        self._loop = new_event_loop()
        self._served: list[ServedApp] = []
        self._backends: list[Backend] = []  # closed with the loop
        self._thread = threading.Thread(
            target=_run_loop, args=(self._loop, self._backends), name="longtask-kit", daemon=True
        )
        self._thread.start()
        # A door that is dropped without close() must not keep its thread.
        self._finalizer = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        self._finalizer.atexit = False
        _open_doors.add(self)
        self._places = [_Place(self._open(open_backend), settings)]

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

    def start(self, work: Coroutine[Any, Any, _Answer]) -> Future[_Answer]:
        """Run a coroutine on the background loop.

        Raises:
            ConfigError: As `check_usable`.
        """
        try:
            self.check_usable()
        except ConfigError:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call_later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Call a function on the background loop's thread, after a delay.

        Raises:
            ConfigError: As `check_usable`.
        """
        self.check_usable()
        self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, work)

    def ask(self, question: Callable[[Backend], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """Ask the backend something and wait for the answer; a local stack that ended is restarted.

        The stack keeps its ports and tokens over a restart, and its data anyway.

        Raises:
            ConfigError: As `check_usable`.
        """
        try:
            return self._call(question(self.backend))
        except (SubmitError, StoreError):
            if self._revive is None:
                raise
            settings = self._revive()
            if settings is None:  # the stack lives: it was a real refusal
                raise
        served = self._find_place().served
        self.use(settings)
        if served is not None:  # the app in this process lives on
            self.use(settings.model_copy(update={"base_url": served.url}), served)
        return self._call(question(self.backend))

    def use(self, settings: Settings, served: ServedApp | None = None) -> None:
        """Talk to these services from now on; what follows already keeps what it began with."""
        backend = self._open(lambda: ServiceBackend(settings))
        self._places.append(_Place(backend, settings, served))

    def keep(self, served: ServedApp) -> None:
        """Stop an app of this process when the door is closed."""
        self._served.append(served)

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
        """Stop the thread and the apps of this process."""
        if self._is_closed or not self._is_ours:  # a fork's parent goes on using it
            return
        for served in self._served:
            served.stop()
        self._is_closed = True
        self._finalizer.detach()  # not called: at the end of the process it does nothing
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @property
    def _is_ours(self) -> bool:
        return self._pid == os.getpid()

    def _open(self, open_backend: Callable[[], Backend]) -> Backend:
        async def open_on_loop() -> Backend:
            return open_backend()

        backend = self._call(open_on_loop())
        self._backends.append(backend)
        return backend

    def _find_place(self) -> _Place:
        """Return the newest place whose app was not stopped since; the first has none to stop."""
        return next(place for place in reversed(self._places) if place.is_there)

    def _call(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        future = self.start(work)
        try:
            return future.result()
        except BaseException:  # an Interrupt ends the wait, and then nobody wants the result
            future.cancel()
            raise


def _run_loop(loop: asyncio.AbstractEventLoop, backends: list[Backend]) -> None:
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


@atexit.register
def _close_open_doors() -> None:  # else aiohttp complains of connections to whoever reads stderr
    for door in list(_open_doors):
        door.close()
