"""`/v1`: OpenAI's Responses and chat completions over the kit's tasks."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, params
from fastapi.responses import JSONResponse, Response

from longtask_kit.errors import StreamExpiredError
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.front_ends import completions
from longtask_kit.server.front_ends.failures import find_failure
from longtask_kit.server.front_ends.intake import Intake
from longtask_kit.server.front_ends.openai_edge import (
    HEARTBEAT,
    CompletionBody,
    OpenAiRoute,
    ResponsesBody,
    answer_error,
    document,
    name_task,
)
from longtask_kit.server.front_ends.responses import Facts, ResponseFold, tell_restart
from longtask_kit.server.front_ends.responses_request import (
    describe_asked,
    find_asked,
    list_items,
    make_task,
)
from longtask_kit.server.http_edge import BadRequestError, make_keyed_route
from longtask_kit.server.sse import SseResponse

_CANCEL_WAIT_S = 5.0  # a stop reaches the model with the next flush


def create_openai_router(
    intake: Intake, *, key: str, model: str, dependencies: Sequence[params.Depends]
) -> APIRouter:
    """Return the router of `/v1`."""
    refused = (400, *([401] if key else []))
    router = APIRouter(
        prefix="/v1",
        tags=["openai"],
        route_class=make_keyed_route(key, OpenAiRoute),
        dependencies=[*dependencies],
    )
    responses, chat = ResponsesApi(intake, model), CompletionsApi(intake, model)
    asks = document(*refused, 404, 409, 413, 502, streams=True)
    finds = document(*refused, 404)

    def add(method: str, path: str, call: Any, summary: str, told: Any) -> None:  # noqa: ANN401
        router.add_api_route(
            path, call, methods=[method], summary=summary, responses=told, response_model=None
        )

    add("POST", "/responses", responses.create, "Ask for a response", asks)
    of_one = "/responses/{response_id}"
    streams = document(*refused, 404, streams=True)
    add("GET", of_one, responses.retrieve, "A response, or its events after a number", streams)
    add("POST", f"{of_one}/cancel", responses.cancel, "Cancel a response", finds)
    add("DELETE", of_one, responses.delete, "Delete a response", finds)
    add("GET", f"{of_one}/input_items", responses.list_input, "What was asked", finds)
    add("POST", "/chat/completions", chat.create, "Ask for a chat completion", asks)
    add("GET", "/models", chat.list_models, "The model of calls that name none", document(*refused))
    return router


class ResponsesApi:
    """Responses, each of which is a task."""

    def __init__(self, intake: Intake, model: str) -> None:
        self._intake = intake
        self._model = model

    async def create(self, request: Request, body: ResponsesBody) -> Response:
        """Run what is asked; it goes on when the caller leaves, until it is cancelled.

        With the same `Idempotency-Key` it is the same response.
        """
        before = await self._read_before(request, body.previous_response_id)
        spec = make_task(body.model_dump(exclude_unset=True), before=before)
        chosen = request.headers.get("idempotency-key")
        task_id, _ = await self._intake.start(request, spec, kind="responses", chosen=chosen)
        facts = await self._find_facts(request, task_id)
        if body.stream:
            return self._stream(task_id, facts, after=None)
        if not body.background:
            await self._wait(task_id)
        return await self._answer(task_id, facts)

    async def retrieve(
        self,
        request: Request,
        response_id: str,
        stream: Annotated[bool, Query(description="Its events, replayed and live.")] = False,
        starting_after: Annotated[
            int | None, Query(ge=0, description="Only events of higher `sequence_number`.")
        ] = None,
    ) -> Response:
        """Return a response as it is, or stream it."""
        task_id = _find_task(response_id)
        facts = await self._find_facts(request, task_id)
        if stream:
            return self._stream(task_id, facts, after=starting_after)
        return await self._answer(task_id, facts)

    async def cancel(self, request: Request, response_id: str) -> Response:
        """Stop a response; what it has said so far stays."""
        task_id = _find_task(response_id)
        facts = await self._find_facts(request, task_id)
        await (await self._intake.open()).tasks.cancel(task_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCEL_WAIT_S):
                await self._wait(task_id)
        return await self._answer(task_id, facts)

    async def delete(self, request: Request, response_id: str) -> Response:
        """Forget a response; one that runs is stopped."""
        task_id = _find_task(response_id)
        await self._intake.read(request, task_id)
        await (await self._intake.open()).tasks.delete(task_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    async def list_input(
        self,
        request: Request,
        response_id: str,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> Response:
        """Return what was asked, item by item."""
        task_id = _find_task(response_id)
        await self._intake.read(request, task_id)
        wire = await self._intake.read_input(task_id)
        items = list_items(wire, response_id.removeprefix("resp_"))
        if order == "desc":
            items.reverse()
        ids = [item["id"] for item in items]
        at = ids.index(after) + 1 if after in ids else 0
        page = items[at : at + limit]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        listed = {"object": "list", "data": page, "has_more": at + limit < len(items)}
        return JSONResponse({"first_id": None, "last_id": None, **ends, **listed})

    async def _read_before(self, request: Request, response_id: str | None) -> list[dict[str, Any]]:
        """Return the conversation that a response has ended."""
        if response_id is None:
            return []
        task_id = _find_task(response_id)
        record = await self._intake.read(request, task_id)
        if record.status != "completed":
            raise BadRequestError(
                f"previous_response_id: {response_id[:80]} is {record.status}, not completed."
            )
        answer = await self._intake.read_answer(request, task_id)
        asked = find_asked(await self._intake.read_input(task_id))
        return [*asked, answer] if answer else asked

    async def _find_facts(self, request: Request, task_id: str) -> Facts:
        record = await self._intake.read(request, task_id)
        return Facts(
            response_id=f"resp_{task_id.removeprefix('task_')}",
            created_at=int(record.created.timestamp()),
            model=record.wire.get("model") or self._model,
            asked=describe_asked(await self._intake.read_input(task_id)),
        )

    async def _answer(self, task_id: str, facts: Facts) -> Response:
        fold = ResponseFold(facts, is_streamed=False)
        for event in await self._intake.read_past(task_id):
            list(fold.feed(event))
        return JSONResponse(fold.describe(), headers=name_task(task_id))

    async def _wait(self, task_id: str) -> None:
        async with contextlib.aclosing(self._intake.events(task_id)) as events:
            async for _ in events:
                pass

    def _stream(self, task_id: str, facts: Facts, *, after: int | None) -> Response:
        frames = self._frames(task_id, facts, after=-1 if after is None else after)
        return SseResponse(frames, heartbeat=HEARTBEAT, headers=name_task(task_id))

    async def _frames(
        self, task_id: str, facts: Facts, *, after: int
    ) -> AsyncGenerator[bytes, None]:
        fold = ResponseFold(facts)
        past = await self._intake.read_past(task_id)
        said = [*fold.open(), *(frame for event in past for frame in fold.feed(event))]
        if after >= 0 and fold.is_dead(after, {frame.number for frame in said}):
            yield tell_restart(facts, after=after).encode()
            return
        for frame in said:
            if frame.number > after:
                yield frame.encode()
        if fold.is_over:
            return
        async with contextlib.aclosing(self._intake.follow(task_id, past[-1].cursor)) as events:
            async for event in events:
                for frame in fold.feed(event):
                    if frame.number > after:
                        yield frame.encode()
                if fold.is_over:
                    return


def _find_task(response_id: str) -> str:
    """Return the id of the task that is a response; a stranger's id leads to none."""
    prefix, _, rest = response_id.partition("_")
    if prefix != "resp":
        raise StreamExpiredError(
            f"No response {response_id[:80]!r}: expected an id like resp_….", task_id=""
        )
    return f"task_{rest}"


class CompletionsApi:
    """Chat completions, each of which is a task."""

    def __init__(self, intake: Intake, model: str) -> None:
        self._intake = intake
        self._model = model

    async def create(self, request: Request, body: CompletionBody) -> Response:
        """Run what is asked; it goes on when the caller leaves. `x-request-id` is its task's id.

        With the same `Idempotency-Key` it is the same completion, from its beginning.
        """
        spec = completions.make_task(body.model_dump(exclude_unset=True))
        chosen = request.headers.get("idempotency-key")
        task_id, _ = await self._intake.start(request, spec, kind="completions", chosen=chosen)
        record = await self._intake.read(request, task_id)
        named = f"chatcmpl-{task_id.removeprefix('task_')}"
        created = int(record.created.timestamp())
        model = record.wire.get("model") or self._model
        if body.stream:
            wants = body.stream_options is not None and bool(body.stream_options.include_usage)
            fold = completions.ChunkFold(named, created=created, model=model, has_usage=wants)
            frames = self._frames(task_id, fold)
            return SseResponse(frames, heartbeat=HEARTBEAT, headers=name_task(task_id))
        said = await self._wait(task_id)
        if said.status != "completed":
            problem = said.error or f"The task was {said.status}."
            status_code, code = find_failure(problem, said.code)
            return answer_error(status_code, problem, code=code, headers=name_task(task_id))
        whole = completions.describe_completion(named, created=created, model=model, said=said)
        return JSONResponse(whole, headers=name_task(task_id))

    async def list_models(self) -> Response:
        """Return the default model; the model service takes others, which the app does not know."""
        model = {"id": self._model, "object": "model", "created": 0, "owned_by": "longtask_kit"}
        return JSONResponse({"object": "list", "data": [model]})

    async def _wait(self, task_id: str) -> Transcript:
        said = Transcript()
        async with contextlib.aclosing(self._intake.events(task_id)) as events:
            async for event in events:
                said.apply(event)
        return said

    async def _frames(
        self, task_id: str, fold: completions.ChunkFold
    ) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._intake.events(task_id)) as events:
            async for event in events:
                for frame in fold.feed(event):
                    yield frame
                if fold.is_over:
                    return
