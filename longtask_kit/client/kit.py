"""`Kit`: submit tasks, find them again, host their app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self

from longtask_kit.client.task import Task
from longtask_kit.errors import ConfigError
from longtask_kit.log.events import STATUSES
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from types import TracebackType

    from longtask_kit.client.door import Door
    from longtask_kit.log.events import Status
    from longtask_kit.server.handlers import Handler
    from longtask_kit.server.serve import ServedApp
    from longtask_kit.settings import Settings
    from longtask_kit.widgets import TaskPanel


class Kit:
    """Submit tasks and find them again. Made by `connect()`.

    One background thread with one event loop does all I/O, so that a busy cell stops no stream.
    Methods may be called from any thread; in an asyncio program they block for one round trip
    (`await asyncio.to_thread(kit.submit, …)` does not). Tasks are awaited natively.

    Attributes:
        description: Which services it talks to, without secrets.
    """

    def __init__(self, door: Door, description: str) -> None:
        self.description = description
        self._door = door

    def __repr__(self) -> str:
        return f"<Kit {self.description}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied, as the door says."""
        self._door.__reduce__()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

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
            prompt: The user message, not empty; all in all at most 9.9 MB.
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
        task_id, _ = self._door.ask(lambda backend: backend.submit(spec))
        return Task(task_id, door=self._door, spec=spec)

    def attach(self, task_id: str | Task) -> Task:
        """Return a task by its id, or another kit's task: it replays what happened, then follows.

        Raises:
            StreamExpiredError: No such task, or its log is gone.
        """
        if isinstance(task_id, Task):
            task_id = task_id.id
        if not isinstance(task_id, str):
            raise ConfigError(f"attach() takes a task's id, text, got {type(task_id).__name__}.")
        record = self._door.ask(lambda backend: backend.read(task_id))
        return Task(task_id, door=self._door, record=record)

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
        records = self._door.ask(lambda backend: backend.list(limit=limit, status=status))
        return [Task(record.task_id, door=self._door, record=record) for record in records]

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
        self._door.keep(served)
        if is_loopback(self.settings.base_url):
            self._door.use(served.settings, served)
        return served

    def panel(self) -> TaskPanel:
        """Return the notebook panel: a form, the live output of its task, earlier tasks."""
        from longtask_kit.widgets import TaskPanel

        return TaskPanel(self)

    @property
    def settings(self) -> Settings | None:
        """What its services were found by; None over the HTTP API."""
        return self._door.settings

    def close(self) -> None:
        """Stop the background thread and what `serve()` started; tasks go on in the queue."""
        self._door.close()
