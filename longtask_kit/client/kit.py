"""`Kit`: submit tasks, find them again, host their app."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from longtask_kit.client.archive import export_groups, import_groups, is_archive
from longtask_kit.client.chat import Chat
from longtask_kit.client.compare import CompareCalls
from longtask_kit.client.group import TaskGroup
from longtask_kit.client.group_options import check_range, make_options
from longtask_kit.client.kit_shown import KitShown
from longtask_kit.client.listed import TaskList
from longtask_kit.client.mapping import map_rows
from longtask_kit.client.prices import choose_price
from longtask_kit.client.progress import say
from longtask_kit.client.recorder import CassetteCalls
from longtask_kit.client.rows import read_rows
from longtask_kit.client.task import Task, submit_spec
from longtask_kit.errors import ConfigError, SubmitError
from longtask_kit.log.events import STATUSES
from longtask_kit.submit.asked import DEFAULT_TTL_S, Place
from longtask_kit.submit.fates import LEAST_TTL_S
from longtask_kit.submit.request import check_names, make_spec
from longtask_kit.submit.schema import check_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from longtask_kit.client.door import Door
    from longtask_kit.client.rows import Template
    from longtask_kit.log.events import Status
    from longtask_kit.server.handlers import Handler
    from longtask_kit.server.serve import ServedApp
    from longtask_kit.settings import Settings
    from longtask_kit.submit.schema import Schema
    from longtask_kit.submit.spec import Api


class Kit(CassetteCalls, CompareCalls, KitShown):
    """Submit tasks and find them again. Made by `connect()`.

    One background thread with one event loop does all I/O, so that a busy cell stops no stream;
    observers run on another, one after another. Methods may be called from any thread, and by
    observers; in an asyncio program they block for one round trip (`await
    asyncio.to_thread(kit.submit, …)` does not). Tasks are awaited natively.

    Attributes:
        description: Which services it talks to, without secrets.
    """

    def __init__(
        self,
        door: Door,
        description: str,
        *,
        host_options: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.description = description
        self._door = door
        self._host_options = host_options

    def __repr__(self) -> str:
        return f"<Kit {self.description}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied, as the door says."""
        self._door.__reduce__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        system: str | None = None,
        model: str | None = None,
        max_tokens: int | None = 1000,
        temperature: float | None = 0.7,
        params: Mapping[str, Any] | None = None,
        schema: Schema | None = None,
        api: Api | None = None,
        handler: str = "openai",
        metadata: Mapping[str, Any] | None = None,
        retries: int | None = None,
        timeout_s: float | None = None,
        reuse: bool = False,
    ) -> Task:
        """Queue a task and return it at once; from then on it survives this process.

        Args:
            prompt: The user message, not empty; or `messages`.
            messages: A conversation in the shape of OpenAI's chat completions, content as text or
                as parts (`longtask_kit.image("cat.png")` is one); all in all at most 20 MB.
            system: System message.
            model: Model name; None is what `connect()` said, or the server's `LONGTASK_MODEL`.
            max_tokens: Longest answer, 1 to 1,000,000 tokens; None leaves it to the model service.
            temperature: 0 to 2; None leaves it to the model service.
            params: Further model parameters (`stop`, `seed`, `tools`, `reasoning_effort`, …),
                handed on untouched.
            schema: What the answer must look like, a pydantic model or a JSON schema: `task.parsed`
                is then an instance, or JSON.
            api: Which API of the model service is called, `chat` or `responses`.
            handler: Name of the server-side handler.
            metadata: Any JSON object, kept with the task.
            retries: Deliveries after the first that fails, 0 to 100; None is `LONGTASK_RETRIES`.
            timeout_s: Seconds from now until it ends as failed, 1 to 30 days; None is no limit.
            reuse: Return the task that was asked the same before, if there is one: its answer, or
                its stream where it still runs.

        Raises:
            SubmitError: A value is out of range, or the queue refused; nothing will run.
        """
        spec = make_spec(
            prompt=prompt,
            messages=messages,
            system=system,
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            params=params,
            schema=schema,
            api=api,
            handler=handler,
            metadata=metadata,
            retries=retries,
            timeout_s=timeout_s,
        )
        if reuse:
            spec, place = self._door.aim.complete(spec), self._find_place(spec.model)
            task_id = self._door.ask(lambda backend: backend.groups.submit(spec, place=place))
            self._door.tell_of_submit([task_id])
            return Task(task_id, door=self._door, spec=spec, schema=schema)
        return submit_spec(self._door, spec, schema=schema)

    def chat(
        self,
        *,
        system: str | None = None,
        model: str | None = None,
        schema: Schema | None = None,
        **options: Any,  # noqa: ANN401 - submit's own
    ) -> Chat:
        """Return a conversation: `chat.send("…")` is a task that knows what was said before.

        Args:
            system: System message of all of it.
            model: Model name; None is what `connect()` said, or the server's `LONGTASK_MODEL`.
            schema: What each answer must look like, as in `submit`.
            options: What else `submit` takes.

        Raises:
            SubmitError: A value is out of range.
        """
        for name in {"prompt", "messages"} & options.keys():
            raise SubmitError(f'chat() takes no "{name}": what is asked goes to send().')
        check_names(options, "chat()")
        spec = make_spec(prompt="…", system=system, model=model, schema=schema, **options)
        return Chat(self._door, spec, schema=schema)

    def map(
        self,
        rows: object,
        template: Template | None = None,
        *,
        name: str = "",
        n: int = 1,
        reuse: bool = True,
        skip_empty: bool = False,
        parallelism: int = 16,
        rpm: int | None = None,
        tpm: int | None = None,
        budget_tokens: int | None = None,
        budget_cost: float | None = None,
        ttl_s: int = DEFAULT_TTL_S,
        schema: Schema | None = None,
        prices: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
        **options: Any,  # noqa: ANN401 - submit's own
    ) -> TaskGroup:
        """Ask for every row; what was asked before is kept, what runs is joined, the rest runs.

        When it returns, every row is on record and in the queue: the kernel may die.

        Args:
            rows: A list of str or dict, a Series or DataFrame of pandas or polars, any iterable.
            template: Text with the row's `{field}`s (`{}` where a row is text), or a function from
                a row to a prompt, messages, or `submit`'s arguments; None: the row is the prompt.
            name: Mapped again under its name, a group is the same with these rows.
            n: Answers wanted of each row, 1 to 100; the next run gives the same ones.
            reuse: Keep and join what was asked before, by its content; else all run anew.
            skip_empty: Leave out rows that hold None, NaN or nothing, instead of refusing them.
            parallelism: How many of the group run at once, 1 to 1,000.
            rpm: Requests a minute to the model, of all who use this Redis together; of several
                settings, `LONGTASK_RPM` among them, the smallest holds. None sets none.
            tpm: Tokens a minute, likewise.
            budget_tokens: What the group may spend in all: then it stops, its rows wait, and
                `group.resume(budget_tokens=…)` goes on. Overshot at most by what is under way.
            budget_cost: The same in money, by `prices`.
            ttl_s: Seconds that the tasks live after their last event, at least 60.
            schema: What each answer must look like, as in `submit`.
            prices: Cost of a million tokens, (in, out), of all or by model; default: the kit's.
            options: What else `submit` takes, for all rows.

        Raises:
            SubmitError: A row is empty, too large or not as the template wants it: the message
                names it, and nothing was queued. Or the queue refused.
            QuotaError: A plan's limit was reached half-way: run it again to go on.
        """
        check_range("ttl_s", ttl_s, LEAST_TTL_S, 10 * 365 * 86_400)
        place = self._find_place(options.get("model"))
        asked_with = make_options(
            samples=n,
            parallelism=parallelism,
            rpm=rpm,
            tpm=tpm,
            budget_tokens=budget_tokens,
            budget_cost=budget_cost,
            prices=prices or choose_price(self._door.aim.prices, place.model),
            model=place.model,
        )
        read = read_rows(rows, template, skip_empty=skip_empty, schema=schema, **options)
        return map_rows(
            self._door,
            read,
            place=place,
            options=asked_with,
            name=name,
            reuse=reuse,
            ttl_s=ttl_s,
            source=rows,
            schema=schema,
        )

    def export_archive(
        self,
        path: str | Path,
        groups: TaskGroup | Iterable[TaskGroup],
        *,
        events: bool = False,
    ) -> None:
        """Write groups into a file that outlives every service, their rows, answers and facts.

        One SQLite file that any tool reads (README, "An archive", has the schema); what it holds
        already stays. Or a table of one group's rows: `.jsonl`, `.csv`, and `.parquet` where pandas
        or polars is there.

        Args:
            path: Its name says which it is: all but these three endings is SQLite.
            groups: One or several.
            events: Keep every task's log, too, with the time of each piece of text.

        Raises:
            ConfigError: It could not be written.
        """
        several = [groups] if isinstance(groups, TaskGroup) else list(groups)
        count = export_groups(self._door, path := Path(path), several, events=events)
        say(f"{path}: {count:,} {'tasks' if is_archive(path) else 'rows'}\n")

    def import_archive(self, path: str | Path, *, ttl_s: int = DEFAULT_TTL_S) -> list[TaskGroup]:
        """Bring an archive's groups and ended tasks back; the next `map` of their rows keeps them.

        What is here already stands, and it can be done twice.

        Args:
            path: The file that `export_archive` wrote.
            ttl_s: Seconds that the tasks live from now on.

        Raises:
            ConfigError: It is no archive, or there are no services' settings: over a URL.
            SubmitError: A task in it is not as tasks are.
        """
        check_range("ttl_s", ttl_s, LEAST_TTL_S, 10 * 365 * 86_400)
        groups, count, new = import_groups(self._door, Path(path), ttl_s=ttl_s)
        say(f"{path}: {count:,} tasks, {new:,} of them new here\n")
        return [TaskGroup(self._door, group) for group in groups]

    def attach_group(self, group_id: str, *, schema: Schema | None = None) -> TaskGroup:
        """Return a group by its id.

        Raises:
            StreamExpiredError: It is unknown, or older than its time to live.
            SubmitError: As `attach`.
        """
        check_schema(schema)
        record = self._door.ask(lambda backend: backend.groups.read(str(group_id)))
        return TaskGroup(self._door, record, schema=schema)

    def groups(self, *, limit: int = 20) -> list[TaskGroup]:
        """Return groups, those that ran last first, at most `limit` (1 to 100)."""
        check_range("limit", limit, 1, 100)
        records = self._door.ask(lambda backend: backend.groups.list_groups(limit=limit))
        return [TaskGroup(self._door, record) for record in records]

    def _find_place(self, model: str | None) -> Place:
        """Return where tasks run that name this model, or none."""
        aim = self._door.aim
        default = aim.model or (self.settings.model if self.settings is not None else "")
        return Place(model=model or default, endpoint=aim.url)

    def attach(self, task_id: str | Task, *, schema: Schema | None = None) -> Task:
        """Return a task by its id, or another kit's task: it replays what was, then follows.

        Args:
            task_id: The task.
            schema: The pydantic model that `parsed` is to be an instance of, or a JSON schema.

        Raises:
            StreamExpiredError: No such task, or its log is gone.
            SubmitError: `schema` is neither a pydantic model nor a JSON schema.
        """
        task_id = task_id.id if isinstance(task_id, Task) else task_id
        if not isinstance(task_id, str):
            raise ConfigError(f"attach() takes a task's id, text, got {type(task_id).__name__}.")
        check_schema(schema)
        record = self._door.ask(lambda backend: backend.read(task_id))
        return Task(task_id, door=self._door, record=record, schema=schema)

    def tasks(self, *, limit: int = 100, status: Status | None = None) -> TaskList:
        """Return tasks, newest first, at most `limit` (1 to 1000), or only those with `status`.

        It is a list; as the last line of a cell it shows itself as a table.

        Raises:
            ConfigError: `limit` is out of range, or there is no such status.
        """
        if not isinstance(limit, int) or not 1 <= limit <= 1000:
            raise ConfigError(f"`limit` is {limit!r}: expected a whole number from 1 to 1,000.")
        if status is not None and not (isinstance(status, str) and status in STATUSES):
            known = ", ".join(sorted(STATUSES))
            raise ConfigError(f"`status` is {status!r}: expected one of {known}.")
        records = self._door.ask(lambda backend: backend.list(limit=limit, status=status))
        tasks = [Task(record.task_id, door=self._door, record=record) for record in records]
        model = self._find_place(None).model
        return TaskList(tasks, default_model=model, is_cut=len(tasks) == limit)

    def serve(
        self,
        handlers: Mapping[str, Handler] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> ServedApp:
        """Host the webhook app inside this process; tasks submitted from now on run in it.

        Once it is stopped, new tasks go where they went before. An exception of a handler fails its
        task at once, with the end of the traceback, unless the task asked for `retries`.

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
        self._door.check_usable()
        # With the local stack: the handler that knows the kernels' keys, and what guards them.
        options = self._host_options() if self._host_options else {}
        own = {"openai": options["openai"]} if options else {}
        served = ServedApp(
            self.settings,
            {**own, **(handlers or {})},
            host=host,
            port=port,
            guests=options.get("guests"),
        )
        self._door.keep(served)
        if is_loopback(self.settings.base_url):
            self._door.use(served.settings, served)
        return served

    @property
    def settings(self) -> Settings | None:
        """What its services were found by; None over the HTTP API."""
        return self._door.settings

    def close(self) -> None:
        """Stop the background threads and what `serve()` started; tasks go on in the queue.

        Whoever waits for an answer in another thread gets a ConfigError.
        """
        self._door.close()
