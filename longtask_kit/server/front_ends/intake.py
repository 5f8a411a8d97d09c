"""What all front ends share: who calls, which task is meant, and its events from the beginning."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from longtask_kit.errors import StreamExpiredError
from longtask_kit.log.events import START
from longtask_kit.log.subscribe import expired, follow
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.front_ends.ids import Ids, name_owner
from longtask_kit.server.front_ends.latest import drop_dead
from longtask_kit.server.http_edge import BadRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from fastapi import Request

    from longtask_kit.log.events import Cursor, TaskEvent
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.server.services import Opened, Services
    from longtask_kit.submit.spec import TaskSpec

    Note = Callable[[str], Awaitable[None]]

MAX_ID_CHARS = 500


class Started(NamedTuple):
    """A task that was asked for: just now, or before under the same id."""

    task_id: str
    is_new: bool


class Intake:
    """Tasks of callers whom the routes have let in.

    Args:
        services: Of the app.
        key: The app's key, or "".
        has_owners: Whether the app tells its callers apart.
    """

    def __init__(self, services: Services, *, key: str, has_owners: bool) -> None:
        self._services = services
        self._key = key
        self._has_owners = has_owners
        self._secret = ""

    async def open(self) -> Opened:
        """Return the services."""
        return await self._services.open()

    async def find_ids(self, request: Request) -> Ids:
        """Return the ids of whoever calls."""
        if not self._secret:
            self._secret, *_ = await (await self.open()).store.groups.read_secret()
        owner = getattr(request.state, "longtask_owner", None)
        return Ids(self._secret, name_owner(key=self._key, owner=owner))

    async def start(
        self,
        request: Request,
        spec: TaskSpec,
        *,
        kind: str = "",
        chosen: str | None = None,
        note: Note | None = None,
    ) -> Started:
        """Have a task for what is asked.

        Args:
            request: The call.
            spec: What to run.
            kind: Of id that the client chose.
            chosen: It; the same one leads to the same task. None: a new task each time.
            note: Told the id of a new task before there is one.

        Raises:
            BadRequestError: The id is known, and what is asked is not what it was (409).
            SubmitError: It was not queued.
        """
        ids = await self.find_ids(request)
        if chosen is None:
            return await self._submit(request, spec, ids.make(), note)
        if not 0 < len(chosen) <= MAX_ID_CHARS:
            raise BadRequestError(f"An id has 1 to {MAX_ID_CHARS} characters.")
        task_id = ids.find(kind, chosen)
        if await self.is_same(task_id, spec) is None:
            started = await self._submit(request, spec, task_id, note)
            # Of two calls at once one has recorded the task: was it asked the same?
            if await self.is_same(task_id, spec) is not False:
                return started
        elif await self.is_same(task_id, spec):
            request.state.longtask_task = task_id
            await self._complete_submit(task_id, spec)
            return Started(task_id, is_new=False)
        request.state.longtask_task = task_id
        raise BadRequestError(
            f"The id {chosen[:80]!r} was used before, and asked something else then: choose "
            "another id for another question.",
            status_code=409,
        )

    async def is_same(self, task_id: str, spec: TaskSpec) -> bool | None:
        """Tell whether a task asks this; None when there is no such task."""
        try:
            asked = await (await self.open()).tasks.read_input(task_id)
        except StreamExpiredError:
            return None
        return bool(asked == json.loads(json.dumps(spec.to_wire())))

    async def _submit(
        self, request: Request, spec: TaskSpec, task_id: str, note: Note | None
    ) -> Started:
        if note is not None:
            await note(task_id)
        request.state.longtask_task = task_id  # whatever goes wrong from here on, it may exist
        await (await self.open()).tasks.submit(spec, task_id=task_id)
        return Started(task_id, is_new=True)

    async def _complete_submit(self, task_id: str, spec: TaskSpec) -> None:
        """Publish a task whose submitter died before he had."""
        opened = await self.open()
        record = await opened.tasks.read(task_id)
        if (
            record.status == "pending" and record.message_id is None
        ) or record.code == "not_queued":
            await opened.tasks.submit(spec, task_id=task_id)

    async def read(self, request: Request, task_id: str) -> TaskRecord:
        """Return the record of a task that the caller may see.

        Raises:
            StreamExpiredError: There is none.
        """
        record = await (await self.open()).tasks.read(task_id)
        if self._has_owners and not (await self.find_ids(request)).has(task_id):
            raise expired(task_id)
        return record

    async def read_input(self, task_id: str) -> dict[str, Any]:
        """Return all of what a task asks."""
        return await (await self.open()).tasks.read_input(task_id)

    async def read_answer(self, request: Request, task_id: str) -> dict[str, Any] | None:
        """Return what a completed task answered, as a message; None where that isn't all there.

        Raises:
            StreamExpiredError: There is no such task of the caller's, or its log is gone.
        """
        if (await self.read(request, task_id)).status != "completed":
            return None
        said = Transcript()
        for event in await self.read_past(task_id):
            said.apply(event)
        answer: dict[str, Any] = {"role": "assistant", "content": said.text or None}
        answer |= {"tool_calls": said.tool_calls} if said.tool_calls else {}
        answer |= {"refusal": said.refusal} if said.refusal else {}
        return answer if len(answer) > 2 or said.text else None

    async def read_past(self, task_id: str) -> list[TaskEvent]:
        """Return what the latest attempt has said so far.

        Raises:
            StreamExpiredError: The log is gone.
        """
        events = await (await self.open()).store.read_log(task_id, after=START)
        if not events:
            raise expired(task_id)
        return drop_dead([event for event in events if event.is_known])

    async def events(self, task_id: str) -> AsyncGenerator[TaskEvent, None]:
        """Yield what the latest attempt has said, then what comes; an attempt may start over."""
        past = await self.read_past(task_id)
        for event in past:
            yield event
        if not past[-1].is_terminal:
            async with contextlib.aclosing(self.follow(task_id, past[-1].cursor)) as events:
                async for event in events:
                    yield event

    async def follow(self, task_id: str, after: Cursor) -> AsyncGenerator[TaskEvent, None]:
        """Yield what comes after a place, up to the task's end."""
        source = (await self.open()).source
        async with contextlib.aclosing(follow(source, task_id, after=after)) as events:  # type: ignore[type-var]
            async for event in events:
                yield event
