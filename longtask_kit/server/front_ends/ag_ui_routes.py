"""`/api/agui`: AG-UI over the kit's tasks."""

import contextlib
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request, params
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from longtask_kit.errors import StreamExpiredError
from longtask_kit.server.front_ends.ag_ui import Run, RunFold
from longtask_kit.server.front_ends.ag_ui_request import (
    digest_question,
    drop_answer,
    find_answers,
    make_task,
)
from longtask_kit.server.front_ends.intake import Intake
from longtask_kit.server.http_edge import make_keyed_route, refusals
from longtask_kit.server.sse import SSE_DOCUMENTED, SseResponse
from longtask_kit.submit.spec import TaskSpec

_KIND = "run"


class _Open(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class RunInput(_Open):
    """AG-UI's RunAgentInput; state is left to the page."""

    threadId: str = Field(min_length=1, max_length=500)  # noqa: N815 - wire
    runId: str = Field(  # noqa: N815 - wire
        min_length=1, max_length=500, description="The same one is the same task."
    )
    messages: list[dict[str, Any]] = Field(
        examples=[[{"id": "1", "role": "user", "content": "Write a haiku about rivers"}]]
    )
    tools: list[dict[str, Any]] | None = None
    context: list[dict[str, Any]] | None = None
    forwardedProps: Any = Field(  # noqa: N815 - wire
        None, description="`model`, `maxTokens`, `temperature`, `handler` are minded."
    )
    resume: list[Any] | None = None
    protocolVersion: str | None = None  # noqa: N815 - wire


class RunReference(BaseModel):
    """Which run."""

    model_config = ConfigDict(strict=True, extra="ignore")

    runId: str = Field(min_length=1, max_length=500)  # noqa: N815 - wire


def create_ag_ui_router(
    intake: Intake,
    *,
    key: str,
    model: str,
    allow_system: bool,
    dependencies: Sequence[params.Depends],
) -> APIRouter:
    """Return the router of `/api/agui`."""
    router = APIRouter(
        prefix="/api/agui",
        tags=["ag-ui"],
        route_class=make_keyed_route(key),
        responses=refusals(400, 413, *([401] if key else [])),
        dependencies=[*dependencies],
    )
    runs = RunsApi(intake, model, allow_system=allow_system)
    told = refusals(502) | {409: refusals(400)[400] | {"description": "The run is another's."}}
    router.add_api_route(
        "",
        runs.run,
        methods=["POST"],
        summary="Run, or re-attach to a run",
        responses={200: SSE_DOCUMENTED, **told},
        response_class=Response,  # of no media type: refusals are JSON, and documented as such
    )
    stop = runs.stop
    router.add_api_route(
        "/stop", stop, methods=["POST"], summary="Stop a run", responses=refusals(404)
    )
    return router


class RunsApi:
    """Runs, each of which is a task."""

    def __init__(self, intake: Intake, model: str, *, allow_system: bool) -> None:
        self._intake = intake
        self._model = model
        self._allow_system = allow_system

    async def run(self, request: Request, body: RunInput) -> Response:
        """Run what is asked; it goes on when the page leaves, until it is stopped.

        With the same `runId` it is the same run, from the beginning of its answer.
        """
        asked = body.model_dump(exclude_unset=True)
        messages = drop_answer(body.messages)
        spec = await self._find_spec(request, asked, messages)
        task_id, is_new = await self._intake.start(request, spec, kind=_KIND, chosen=body.runId)
        dropped = body.messages[len(messages) :]
        run = Run(
            thread_id=body.threadId,
            run_id=body.runId,
            task_id=task_id,
            model=spec.model or self._model,
            messages=messages,
            is_stale=not is_new or bool(dropped),
            has_reasoning=any(message.get("role") == "reasoning" for message in dropped),
            knows_cancelled=knows_cancelled(body.protocolVersion),
        )
        return SseResponse(self._frames(task_id, RunFold(run)), headers={"x-request-id": task_id})

    async def stop(self, request: Request, body: RunReference) -> Response:
        """Stop a run; what it has said so far stays."""
        task_id = (await self._intake.find_ids(request)).find(_KIND, body.runId)
        await self._intake.read(request, task_id)
        status = await (await self._intake.open()).tasks.cancel(task_id)
        return JSONResponse({"runId": body.runId, "taskId": task_id, "status": status})

    async def _find_spec(
        self, request: Request, asked: dict[str, Any], messages: list[Any]
    ) -> TaskSpec:
        """Return what is asked: of a run that is known and asks the same, what it asked then.

        What answers of before are to the task depends on when it is asked.
        """
        task_id = (await self._intake.find_ids(request)).find(_KIND, asked["runId"])
        with contextlib.suppress(StreamExpiredError):
            known = await self._intake.read_input(task_id)
            digest = digest_question(asked["threadId"], messages)
            if known.get("metadata", {}).get("ag_ui", {}).get("asked") == digest:
                return TaskSpec.recall(known)
        answers = {}
        for answer in find_answers(messages):
            with contextlib.suppress(StreamExpiredError):
                answers[answer] = await self._intake.read_answer(request, answer)
        return make_task(asked, messages, answers=answers, allow_system=self._allow_system)

    async def _frames(self, task_id: str, fold: RunFold) -> AsyncGenerator[bytes, None]:
        past = await self._intake.read_past(task_id)
        yield b"".join([*fold.open(), *(frame for event in past for frame in fold.feed(event))])
        if fold.is_over:
            return
        async with contextlib.aclosing(self._intake.follow(task_id, past[-1].cursor)) as events:
            async for event in events:
                for frame in fold.feed(event):
                    yield frame


def knows_cancelled(version: str | None) -> bool:
    """Tell whether a version of the protocol has cancelled runs: since 1.0, which says so."""
    found = re.match(r"[0-9]{1,6}", version or "")
    return found is not None and int(found.group()) >= 1
