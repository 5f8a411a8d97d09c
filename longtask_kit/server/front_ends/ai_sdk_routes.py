"""`/api/chat`: what `useChat` and its like call, over the kit's tasks."""

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, params
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from longtask_kit.errors import StreamExpiredError
from longtask_kit.server.front_ends.ai_sdk import ChatFold, can_reset, finish_only
from longtask_kit.server.front_ends.chats import Chats
from longtask_kit.server.front_ends.intake import Intake
from longtask_kit.server.http_edge import (
    BadRequestError,
    TaskRoute,
    is_key,
    make_keyed_route,
    refusals,
)
from longtask_kit.server.sse import SSE_DOCUMENTED, SseResponse
from longtask_kit.settings import is_loopback

EXPOSED_HEADERS = ["x-workflow-run-id", "x-resumable-stream-id"]
"""The task's id, once for WorkflowChatTransport, once for assistant-ui."""

_Version = Annotated[
    str | None,
    Query(alias="ai_sdk", description="The page's version of npm's `ai`, as `7.0.70`."),
]
_StartIndex = Annotated[
    int | None,
    Query(alias="startIndex", description="Of WorkflowChatTransport: any of them is served whole."),
]


class ChatBody(BaseModel):
    """What `DefaultChatTransport` and `WorkflowChatTransport` send; further fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: str | None = Field(None, max_length=400, description="The chat's.")
    messages: list[dict[str, Any]] = Field(
        description="UI messages.",
        examples=[[{"id": "1", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}]],
    )
    trigger: str | None = None
    messageId: str | None = None  # noqa: N815 - wire
    model: str | None = Field(None, description="LONGTASK_MODEL if unset.")
    handler: str | None = Field(None, description="One of the app's own.")
    maxTokens: int | None = None  # noqa: N815 - wire
    temperature: float | None = None


def create_ai_sdk_router(
    intake: Intake,
    *,
    key: str,
    origins: Collection[str],
    version: str,
    allow_system: bool,
    dependencies: Sequence[params.Depends],
) -> APIRouter:
    """Return the router of `/api/chat`.

    Args:
        intake: Of the app.
        key: The app's, or "".
        origins: Whose pages may call.
        version: Of `ai` in the page, where a call doesn't say.
        allow_system: Whether a page may send system messages.
        dependencies: Who may call.
    """
    router = APIRouter(
        prefix="/api/chat",
        tags=["ai_sdk"],
        route_class=_make_route(key, origins),
        dependencies=[*dependencies],
        responses=refusals(400, *([401] if key else [])),
    )
    api = ChatApi(intake, Chats(intake, allow_system=allow_system), version)
    none: dict[int | str, dict[str, Any]] = {204: {"description": "Nothing to resume."}}
    known: dict[int | str, dict[str, Any]]
    known = {409: {**refusals(400)[400], "description": "The message is known as another one."}}

    def add(method: str, path: str, call: Any, summary: str, told: Any) -> None:  # noqa: ANN401
        kind = Response if 200 in told else JSONResponse  # of no media type: refusals are JSON
        router.add_api_route(
            *(path, call),
            methods=[method],
            summary=summary,
            responses=told,
            response_class=kind,
            response_model=None,
        )

    streams: dict[int | str, dict[str, Any]] = {200: SSE_DOCUMENTED}
    asks = {**streams, **known, **refusals(413, 502)}
    add("POST", "", api.send, "Answer a chat's last message", asks)
    finds = {**streams, **none, **refusals(404)}
    add("GET", "/{chat_id:path}/stream", api.resume, "A chat's latest answer, whole", finds)
    add("POST", "/{chat_id:path}/stop", api.stop, "Stop it", refusals(404))
    return router


class ChatApi:
    """Chats, whose answers are tasks."""

    def __init__(self, intake: Intake, chats: Chats, version: str) -> None:
        self._intake = intake
        self._chats = chats
        self._version = version

    async def send(self, request: Request, body: ChatBody, version: _Version = None) -> Response:
        """Answer the last message; the answer goes on when the page leaves, until it is stopped.

        The same message again is the same answer.
        """
        resets = self._find_resets(version)
        wire = body.model_dump(exclude_unset=True)
        task_id, is_new = await self._chats.ask(request, wire)
        # A page goes on in the message that it has last, if that is an answer.
        is_fresh = is_new and body.messages[-1].get("role") != "assistant"
        return self._stream(task_id, resets=resets, is_new=is_fresh)

    async def resume(
        self,
        request: Request,
        chat_id: str,
        version: _Version = None,
        start_index: _StartIndex = None,
    ) -> Response:
        """Stream the latest answer of a chat, from its beginning; or that of a task, by its id."""
        resets = self._find_resets(version)
        task_id = await self._chats.find(request, chat_id)
        if task_id is not None:
            return self._stream(task_id, resets=resets, is_new=False)
        if start_index is None:
            return Response(status_code=204)
        return SseResponse(_nothing())  # a 204 is an error there

    async def stop(self, request: Request, chat_id: str) -> dict[str, Any]:
        """Cancel the latest answer of a chat: it reaches the model within one flush."""
        task_id = await self._chats.find(request, chat_id)
        if task_id is None:
            raise StreamExpiredError(f"No chat {chat_id[:80]!r}.", task_id="")
        status = await (await self._intake.open()).tasks.cancel(task_id)
        return {"taskId": task_id, "status": status}

    def _find_resets(self, version: str | None) -> bool:
        try:
            return can_reset(self._version if version is None else version)
        except ValueError as exc:
            raise BadRequestError(f'"ai_sdk": {exc}.') from exc

    def _stream(self, task_id: str, *, resets: bool, is_new: bool) -> Response:
        fold = ChatFold(task_id, resets=resets, stream=secrets.token_hex(4))
        headers = dict.fromkeys(EXPOSED_HEADERS, task_id)
        headers["x-vercel-ai-ui-message-stream"] = "v1"
        return SseResponse(self._frames(task_id, fold, is_new=is_new), headers=headers)

    async def _frames(
        self, task_id: str, fold: ChatFold, *, is_new: bool
    ) -> AsyncGenerator[bytes, None]:
        past = await self._intake.read_past(task_id)
        said = [*fold.open(attempt=past[-1].cursor.attempt, is_new=is_new)]
        said += [frame for event in past for frame in fold.feed(event)]
        yield b"".join(said)
        if fold.is_over:
            return
        async with contextlib.aclosing(self._intake.follow(task_id, past[-1].cursor)) as events:
            async for event in events:
                for frame in fold.feed(event):
                    yield frame


async def _nothing() -> AsyncGenerator[bytes, None]:
    yield finish_only()


def _make_route(key: str, origins: Collection[str]) -> type[TaskRoute]:
    """Return the route of chats, whose calls a browser may send without asking the app first."""
    keyed: Any = make_keyed_route(key)

    class ChatRoute(keyed):  # type: ignore[misc]  # a class as a value
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle: Callable[[Request], Coroutine[Any, Any, Response]]
            handle = super().get_route_handler()

            async def handle_simple(request: Request) -> Response:
                origin = request.headers.get("origin")
                scheme, _, given = request.headers.get("authorization", "").partition(" ")
                has_key = scheme.lower() == "bearer" and is_key(given, key)
                host = request.headers.get("host", "")
                is_allowed = has_key or is_own_page(origin, host, origins)
                if request.method == "POST" and not _says(request, "application/json"):
                    if origin is not None and not is_allowed:
                        refusal: Response = self.refuse(request, 403, _FOREIGN.format(origin[:80]))
                        return refusal
                    if is_allowed and _says(request, "text/plain"):
                        request = _take_as_json(request)
                return await handle(request)

            return handle_simple

    return ChatRoute


_FOREIGN = (
    "A page of {!r} sent this, and may not: name its origin in LONGTASK_CORS_ORIGINS, or send the "
    "app's key."
)


def is_own_page(origin: str | None, host: str, origins: Collection[str]) -> bool:
    """Tell whether a browser says that a page sent a call which may: the app's own, or allowed.

    Args:
        origin: Of the page.
        host: Which the call was sent to.
        origins: Those that are allowed; `*` stands for all.
    """
    if not origin:
        return False
    if "*" in origins or origin in origins or origin.partition("://")[2] == host:
        return True
    return is_loopback(origin) and is_loopback(f"//{host}")


def _says(request: Request, kind: str) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == kind


def _take_as_json(request: Request) -> Request:
    """Return a call as if it said what it sends: WorkflowChatTransport doesn't."""
    kept = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
    headers = [*kept, (b"content-type", b"application/json")]
    return Request({**request.scope, "headers": headers}, request.receive)
