"""The door: `connect()` and `Kit`; the one place where sync meets async."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

from longtask_kit.client.http_api import Backend, HttpBackend, ServiceBackend
from longtask_kit.client.loop import new_event_loop, run_loop
from longtask_kit.client.task import Task
from longtask_kit.errors import ConfigError, StoreError, SubmitError
from longtask_kit.log.events import STATUSES
from longtask_kit.settings import CLIENT_NAMES, Settings, check_secret, check_url
from longtask_kit.submit.tasks import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future
    from types import TracebackType

    from longtask_kit.log.events import Status
    from longtask_kit.server.openai import Handler
    from longtask_kit.server.serve import ServedApp
    from longtask_kit.widgets import TaskPanel

_Answer = TypeVar("_Answer")
_HOSTED_NAMES = ("QSTASH_TOKEN", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN")
_open_kits: weakref.WeakSet[Kit] = weakref.WeakSet()


def connect(
    url: str | None = None,
    *,
    api_key: str | None = None,
    settings: Settings | None = None,
    quiet: bool = False,
) -> Kit:
    """Return a kit, and say in one line which services it talks to.

    With `url`, only the HTTP API of a webhook app is used. Else, when the Upstash variables are
    set in the environment or `.env`, the services they name; when none is, the local stack, which
    is started or joined.

    Args:
        url: Base URL of a webhook app, e.g. `https://app.example.com`.
        api_key: Its `LONGTASK_API_KEY`, if it has one; only with `url`.
        settings: Instead of the environment.
        quiet: Print nothing.

    Raises:
        ConfigError: Some of the names are set, others are missing.
        LocalStackError: The local stack could not start, or one of another version has tasks under
            way; the message says the cure.
    """
    if url is not None:
        return _announce(_open_http_kit(url, api_key), quiet)
    if api_key is not None:
        raise ConfigError("`api_key` goes with a URL: connect('https://…', api_key=…).")
    settings = settings or Settings()
    if is_hosted(settings):
        settings.require(*CLIENT_NAMES)
        return _announce(_open_kit(settings, describe(settings)), quiet)

    from longtask_kit.local.stack import LocalStack

    stack = LocalStack.join_or_start()
    if stack.notice and not quiet:
        sys.stdout.write(f"longtask_kit: {stack.notice}\n")

    def revive() -> Settings | None:
        nonlocal stack
        ended, stack = stack, LocalStack.join_or_start()
        return None if stack.pid == ended.pid else stack.settings

    return _announce(_open_kit(stack.settings, LocalStack.DESCRIPTION, revive), quiet)


def is_hosted(settings: Settings) -> bool:
    """Tell whether the environment names services, so that no local stack is needed."""
    return any(settings.find(name) is not None for name in _HOSTED_NAMES)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where calls go, and the app in this process that new tasks run in, if one does."""

    backend: Backend
    settings: Settings | None
    served: ServedApp | None = None

    @property
    def is_there(self) -> bool:
        return self.served is None or self.served.is_running


class Kit:
    """Submit tasks and find them again. Made by `connect()`.

    One background thread with one event loop does all I/O, so that a busy cell stops no stream.
    Methods may be called from any thread; in an asyncio program they block for one round trip
    (`await asyncio.to_thread(kit.submit, …)` does not). Tasks are awaited natively.

    Attributes:
        description: Which services it talks to, without secrets.
    """

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        description: str,
        *,
        settings: Settings | None = None,
        revive: Callable[[], Settings | None] | None = None,
    ) -> None:
        self.description = description
        self._revive = revive
        self._is_closed = False
        self._pid = os.getpid()
        self._loop = new_event_loop()
        self._served: list[ServedApp] = []
        self._backends: list[Backend] = []  # closed with the loop
        self._thread = threading.Thread(
            target=run_loop, args=(self._loop, self._backends), name="longtask-kit", daemon=True
        )
        self._thread.start()
        # A kit that is dropped without close() must not keep its thread.
        self._finalizer = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        self._finalizer.atexit = False
        _open_kits.add(self)
        self._places = [_Place(self._open(open_backend), settings)]

    def __repr__(self) -> str:
        return f"<Kit {self.description}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, and a task with it; TypeError is what pickle's callers expect."""
        raise TypeError(
            "A kit can't be pickled or copied, nor a task, which holds one: the connections belong "
            "to this process. Send task.id, and there connect() and kit.attach(id)."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- tasks ----------------------------------------------------------------------------------

    def submit(
        self,
        prompt: str,
        *,
        model: str | None = None,
        max_tokens: int = 1000,
        temperature: float = 0.7,
        system: str | None = None,
        handler: str = "openai",
        metadata: Mapping[str, Any] | None = None,
    ) -> Task:
        """Queue a task and return it at once; from then on it survives this process.

        Args:
            prompt: The user message, 1 to 500,000 characters.
            model: Model name; None is the server's `LONGTASK_MODEL`.
            max_tokens: Longest answer, 1 to 1,000,000 tokens.
            temperature: 0 to 2.
            system: System message.
            handler: Name of the server-side handler.
            metadata: Any JSON object, kept with the task.

        Raises:
            SubmitError: A value is out of range, or the queue refused; nothing will run.
        """
        if isinstance(metadata, Mapping):  # what is wrong with anything else, TaskSpec says
            metadata = dict(metadata)
        spec = TaskSpec(
            prompt=prompt,
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            system=system,
            handler=handler,
            metadata={} if metadata is None else metadata,
        )
        task_id, _ = self.ask(lambda backend: backend.submit(spec))
        return Task(task_id, door=self, spec=spec.to_wire())

    def attach(self, task_id: str | Task) -> Task:
        """Return a task by its id, or another kit's task: it replays what happened, then follows.

        Raises:
            StreamExpiredError: No such task, or its log is gone.
        """
        if isinstance(task_id, Task):
            task_id = task_id.id
        if not isinstance(task_id, str):
            raise ConfigError(f"attach() takes a task's id, text, got {type(task_id).__name__}.")
        record = self.ask(lambda backend: backend.read_task(task_id))
        return Task(task_id, door=self, record=record)

    def tasks(self, *, limit: int = 100, status: Status | None = None) -> list[Task]:
        """Return tasks, newest first, at most `limit` (1 to 1000), or only those with `status`.

        Their `spec` is brief (200 characters of the prompt, and the model); `attach` has it whole.

        Raises:
            ConfigError: `limit` is out of range, or there is no such status.
        """
        if not isinstance(limit, int) or not 1 <= limit <= 1000:
            raise ConfigError(f"`limit` is {limit!r}: expected a whole number from 1 to 1,000.")
        if status is not None and status not in STATUSES:
            known = ", ".join(sorted(STATUSES))
            raise ConfigError(f"`status` is {status!r}: expected one of {known}.")
        records = self.ask(lambda backend: backend.list_tasks(limit=limit, status=status))
        return [Task(record.task_id, door=self, record=record) for record in records]

    # -- serving --------------------------------------------------------------------------------

    def serve(
        self,
        handlers: Mapping[str, Handler] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> ServedApp:
        """Host the webhook app inside this process; tasks submitted from now on run in it.

        Once it is stopped, new tasks go where they went before.

        With the local stack the queue finds it by itself. With hosted QStash the app must be
        reachable from outside: set `LONGTASK_BASE_URL` to a tunnel that leads to `host:port`.

        Args:
            handlers: Async generator functions by name, beside `openai`.
            host: Interface to listen on.
            port: Port to listen on; 0 is any free one.

        Raises:
            ConfigError: Over the HTTP API there is nothing to serve; or a setting is missing.
        """
        from longtask_kit.server.serve import ServedApp
        from longtask_kit.settings import is_loopback

        if self.settings is None:
            raise ConfigError("kit.serve() needs the services' settings: connect() without a URL.")
        served = ServedApp(self.settings, handlers, host=host, port=port)
        self._served.append(served)
        if is_loopback(self.settings.base_url):
            self._use(served.settings, served)
        return served

    def panel(self) -> TaskPanel:
        """Return the notebook panel: a form, the live output of its task, earlier tasks."""
        from longtask_kit.widgets import TaskPanel

        return TaskPanel(self)

    def close(self) -> None:
        """Stop the background thread and what `serve()` started; tasks go on in the queue."""
        if self._is_closed or not self._is_ours:  # a fork's parent goes on using it
            return
        for served in self._served:
            served.stop()
        self._is_closed = True
        self._finalizer.detach()  # not called: at the end of the process it does nothing
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    # -- the background loop --------------------------------------------------------------------

    @property
    def backend(self) -> Backend:
        """Where calls go."""
        return self._find_place().backend

    @property
    def settings(self) -> Settings | None:
        """What the backend was made from; None over the HTTP API."""
        return self._find_place().settings

    def start(self, work: Coroutine[Any, Any, _Answer]) -> Future[_Answer]:
        """Run a coroutine on the background loop."""
        try:
            self.check_usable()
        except ConfigError:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call_later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Call a function on the background loop's thread, after a delay."""
        self.check_usable()
        self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, work)

    def ask(self, question: Callable[[Backend], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """Ask the backend something and wait for the answer; a local stack that ended is restarted.

        The stack keeps its ports and tokens over a restart, and its data anyway.
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
        self._use(settings)
        if served is not None:  # the app in this process lives on
            self._use(settings.model_copy(update={"base_url": served.url}), served)
        return self._call(question(self.backend))

    def check_usable(self) -> None:
        """Raise ConfigError when nothing can be done here any more: closed, or a fork's child."""
        if self._is_closed:
            raise ConfigError("This kit is closed; make another with connect().")
        if not self._is_ours:
            raise ConfigError(
                "This kit was made in another process; its background thread did not come along "
                "with the fork: connect() again here, and attach() to tasks by their id."
            )

    @property
    def _is_ours(self) -> bool:
        return self._pid == os.getpid()

    def _use(self, settings: Settings, served: ServedApp | None = None) -> None:
        """Talk to these services from now on; what follows already keeps what it began with."""
        backend = self._open(lambda: ServiceBackend(settings))
        self._places.append(_Place(backend, settings, served))

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


def _open_http_kit(url: str, api_key: str | None) -> Kit:
    try:
        base_url = check_url(url)
    except ValueError as exc:
        raise ConfigError(f"connect(url): {exc}.") from exc
    try:
        if api_key is not None:
            api_key = api_key.strip()
            check_secret(api_key)
    except ValueError as exc:
        raise ConfigError(f"connect(…, api_key=…): the key {exc}.") from exc
    return Kit(lambda: HttpBackend(base_url, api_key=api_key), f"HTTP API at {base_url}")


def _open_kit(
    settings: Settings, description: str, revive: Callable[[], Settings | None] | None = None
) -> Kit:
    return Kit(lambda: ServiceBackend(settings), description, settings=settings, revive=revive)


def describe(settings: Settings) -> str:
    """Name the services that settings lead to, without a secret."""
    queue, redis = urlsplit(settings.qstash_url), urlsplit(settings.upstash_redis_rest_url or "")
    return f"QStash {queue.netloc}, Redis {redis.netloc}, webhook {settings.base_url}"


def _announce(kit: Kit, quiet: bool) -> Kit:
    if not quiet:
        sys.stdout.write(f"longtask_kit: {kit.description}\n")
    return kit


@atexit.register
def _close_open_kits() -> None:  # else aiohttp complains of connections to whoever reads stderr
    for kit in list(_open_kits):
        kit.close()
