"""`/api/tasks`: submit, status, stream, cancel, list, delete."""

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, params
from starlette.responses import Response

from longtask_kit.log.events import START, Cursor, Status, encode_frame
from longtask_kit.log.record import TaskRecord
from longtask_kit.log.store import Store
from longtask_kit.log.subscribe import expired, follow
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.api_key import check_bearer
from longtask_kit.server.guests import Guests
from longtask_kit.server.http_edge import (
    BadRequestError,
    SubmitRequest,
    TaskReference,
    make_keyed_route,
    refusals,
)
from longtask_kit.server.places import check_reuse, find_place
from longtask_kit.server.services import Services
from longtask_kit.server.sse import SSE_DOCUMENTED, SseResponse
from longtask_kit.settings import secret
from longtask_kit.submit.spec import TaskSpec
from longtask_kit.submit.tasks import Tasks

_TaskIdQuery = Annotated[str, Query(alias="taskId", description="As `start` returned it.")]
_CursorQuery = Annotated[
    str, Query(alias="lastEventId", description="Continue after this event's `id:`.")
]


def create_tasks_router(
    services: Services, dependencies: Sequence[params.Depends], guests: Guests | None = None
) -> APIRouter:
    """Return the router of `/api/tasks`; the dependencies run after the check of the API key."""
    key = guests.api_key if guests else secret(services.settings.api_key)
    api = _TasksApi(services, guests, key)
    router = APIRouter(
        prefix="/api/tasks",
        tags=["tasks"],
        route_class=make_keyed_route(key),
        responses=refusals(400, *([401] if key else [])),
        dependencies=[
            *([Depends(check_bearer(key, api.let_guest))] if key else []),
            *dependencies,
        ],
    )
    router.post("/start", summary="Submit a task", responses=refusals(413, 502))(api.start)
    router.get("/start", summary="Status of a task (query form)", responses=refusals(404))(
        api.read_status_by_query
    )

    @router.get(
        "/stream",
        summary="Follow a task: replay, then live",
        response_class=Response,  # of no media type: refusals are JSON, and documented as such
        responses={200: SSE_DOCUMENTED, **refusals(404)},
    )
    async def stream(
        place: Annotated[tuple[str, Cursor], Depends(api.find_place)],
    ) -> SseResponse:
        """Server-Sent Events: every event after `Last-Event-ID`, replayed and live.

        Each is `id: <attempt>-<seq>` and one line of JSON; the stream ends with `end`, `error` or
        `cancelled`.
        """
        return SseResponse(api.frames(*place))

    router.post("/cancel", summary="Cancel a task", responses=refusals(404, 413))(api.cancel)
    router.post("/retry", summary="Run a failed task again", responses=refusals(404, 413, 502))(
        api.retry
    )
    router.post("/try-now", summary="Have a task's next try at once", responses=refusals(404, 413))(
        api.try_now
    )
    router.get("", summary="List tasks, newest first")(api.list_tasks)
    router.get("/{task_id}", summary="Status of a task", responses=refusals(404))(api.read_status)
    router.get("/{task_id}/input", summary="All of what a task was asked", responses=refusals(404))(
        api.read_input
    )
    router.get(
        "/{task_id}/next-try", summary="When a task is tried again", responses=refusals(404)
    )(api.find_next_try)
    router.delete("/{task_id}", summary="Delete a task's record and log", responses=refusals(404))(
        api.delete
    )
    return router


# For all who follow a task at this moment. By the event's whole value, whose hash takes 0.2 µs: in
# development mode a caller chooses ids, so an id and a cursor may come again with another text.
_share_frame = lru_cache(maxsize=64)(encode_frame)


class _TasksApi:
    def __init__(self, services: Services, guests: Guests | None, key: str) -> None:
        self._services = services
        self._key = key
        self._guests = guests

    async def let_guest(self, request: Request) -> bool:
        """Tell whether somebody without the key may make this call."""
        return self._guests is not None and await self._guests.may_call(request, self._read)

    async def _read(self, task_id: str) -> TaskRecord:
        return await (await self._open_tasks()).read(task_id)

    async def start(self, body: SubmitRequest) -> dict[str, Any]:
        """Queue a task; follow it with the `taskId` of the answer."""
        spec = TaskSpec.from_wire(body.model_dump(exclude_unset=True))
        if body.reuse:
            task_id, message_id = await self._find_or_submit(spec)
        else:
            task_id, message_id = await (await self._open_tasks()).submit(spec)
        return {
            "success": True,
            "taskId": task_id,
            "messageId": message_id,
            "message": "Task queued successfully",
        }

    async def _find_or_submit(self, spec: TaskSpec) -> tuple[str, str | None]:
        check_reuse(self._key)
        place = find_place(self._services.settings, self._key, [spec])
        task_id = await (await self._services.open()).groups.submit(spec, place=place)
        return task_id, (await self._read(task_id)).message_id

    async def read_status_by_query(self, task_id: _TaskIdQuery = "") -> dict[str, Any]:
        """Return a task's record; 400 without an id, 404 for an unknown one."""
        return await self.read_status(_require(task_id))

    async def read_status(self, task_id: str) -> dict[str, Any]:
        """Return a task's record; 404 for an unknown id."""
        return (await self._read(task_id)).to_wire()

    async def read_input(self, task_id: str) -> dict[str, Any]:
        """Return what `start` was sent, whole; its status is a small answer beside it."""
        return {"taskId": task_id, "input": await (await self._open_tasks()).read_input(task_id)}

    async def find_place(
        self, request: Request, task_id: _TaskIdQuery = "", last_event_id: _CursorQuery = ""
    ) -> tuple[str, Cursor]:
        """Return which task to stream and after which cursor, before a stream begins."""
        opened = await self._services.open()
        record = await opened.tasks.read(_require(task_id))
        cursor = request.headers.get("last-event-id") or last_event_id
        try:
            after = Cursor.parse(cursor) if cursor else START
        except ValueError as exc:
            raise BadRequestError(f'"lastEventId": {exc}') from exc
        if record.is_over:
            last = await opened.store.read_last_cursor(record.task_id)
            if last is None:
                raise expired(record.task_id, cursor=after)
            if after >= last:
                # What an EventSource takes as "don't come back", html.spec.whatwg.org, 9.2.
                raise HTTPException(204)
        return record.task_id, after

    async def frames(self, task_id: str, after: Cursor) -> AsyncGenerator[bytes, None]:
        """Yield a task's frames, `connected` first; `end` carries the whole text."""
        opened = await self._services.open()
        now_ms = round(time.time() * 1000)
        connected = {"type": "connected", "taskId": task_id, "timestamp": now_ms}
        yield f"data: {json.dumps(connected)}\n\n".encode()
        transcript = Transcript()
        async with contextlib.aclosing(follow(opened.source, task_id, after=after)) as events:  # type: ignore[type-var]
            async for event in events:
                transcript.apply(event)
                if event.type == "content":
                    yield _share_frame(task_id, event)
                    continue
                if event.type == "end":
                    if after != START:  # this reader's replay did not begin at the beginning
                        transcript = await _read_transcript(task_id, opened.store)
                    event = replace(event, data=transcript.text)
                yield encode_frame(task_id, event)

    async def cancel(self, body: TaskReference) -> dict[str, Any]:
        """Cancel at once what waits; ask what runs to stop (`cancelling`)."""
        task_id = _require(body.taskId)
        return {"taskId": task_id, "status": await (await self._open_tasks()).cancel(task_id)}

    async def retry(self, body: TaskReference) -> dict[str, Any]:
        """Queue a failed task once more; its next attempt starts the text over."""
        task_id = _require(body.taskId)
        return {"taskId": task_id, "messageId": await (await self._open_tasks()).retry(task_id)}

    async def find_next_try(self, task_id: str) -> dict[str, Any]:
        """Return when the queue tries again a task whose attempt failed, null if it doesn't say."""
        found = await (await self._open_tasks()).find_next_try(task_id)
        return {"taskId": task_id, **found.to_wire()}

    async def try_now(self, body: TaskReference) -> dict[str, Any]:
        """Have a task that waits for its next try run at once, which costs no attempt."""
        task_id = _require(body.taskId)
        return {"taskId": task_id, "isTried": await (await self._open_tasks()).try_now(task_id)}

    async def list_tasks(
        self,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        status: Status | None = None,
    ) -> dict[str, Any]:
        """Return the newest tasks."""
        records = await (await self._open_tasks()).list(limit=limit, status=status)
        return {"tasks": [record.to_wire() for record in records]}

    async def delete(self, task_id: str) -> dict[str, Any]:
        """Forget a task; an attempt under way stops at its next flush."""
        await (await self._open_tasks()).delete(task_id)
        return {"taskId": task_id, "deleted": True}

    async def _open_tasks(self) -> Tasks:
        return (await self._services.open()).tasks


def _require(task_id: str) -> str:
    if not task_id:
        raise BadRequestError('"taskId" is missing: expected an id like task_….')
    return task_id


async def _read_transcript(task_id: str, store: Store) -> Transcript:
    transcript = Transcript()
    for event in await store.read_log(task_id, after=START):
        transcript.apply(event)
    return transcript
