"""The webhook factory: `create_app()` for an app of its own, `create_router()` for somebody's.

Everything a router needs is opened by its lifespan (also when it is embedded) or, where a host
runs no lifespan, by the first request. Nothing is global: two apps with different settings live
in one process.
"""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, params
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from longtask_kit.errors import ConfigError, StoreError
from longtask_kit.server.deliveries import DeliveriesApi
from longtask_kit.server.duration import hearing_sigterm
from longtask_kit.server.front_ends.openai_edge import answer_error
from longtask_kit.server.front_ends.routes import (
    NO_FRONT_ENDS,
    FrontEnds,
    Owner,
    create_front_end_routers,
)
from longtask_kit.server.groups_api import create_groups_router
from longtask_kit.server.guests import Guests
from longtask_kit.server.handlers import Handler
from longtask_kit.server.http_edge import (
    DEFECT,
    TaskErrorAnswer,
    TaskRoute,
    document_errors,
    error_response,
    refusals,
)
from longtask_kit.server.services import Services
from longtask_kit.server.tasks_api import create_tasks_router
from longtask_kit.settings import (
    CLIENT_NAMES,
    FAILURE_PATH,
    SIGNING_NAMES,
    WEBHOOK_PATH,
    Settings,
    is_loopback,
    secret,
)
from longtask_kit.stages import write_log

_HEALTH_TTL_S = 5.0
_OPENAI_PATHS = ("/v1/", "/responses", "/chat/completions", "/models")


def create_app(
    settings: Settings | None = None,
    *,
    handlers: Mapping[str, Handler] | None = None,
    dependencies: Sequence[params.Depends] = (),
    fail_fast: bool = False,
    front_ends: Sequence[str] = (),
    owner: Owner | None = None,
    ai_sdk: str = "",
    allow_system: bool = False,
) -> FastAPI:
    """Return an ASGI app with the whole HTTP contract.

    Pages of other origins may call it only if `LONGTASK_CORS_ORIGINS` names them.

    Args:
        settings: From the environment and `.env` if None.
        handlers: Async generator functions by name, beside the built-in `openai`.
        dependencies: As in `create_router`.
        fail_fast: As in `create_router`.
        front_ends: As in `create_router`.
        owner: As in `create_router`.
        ai_sdk: As in `create_router`.
        allow_system: As in `create_router`.

    Raises:
        ConfigError: A setting is missing; without signing keys the app refuses to exist, unless
            `LONGTASK_DEV=1` and its base URL is on this machine.
    """
    return make_app(
        settings or Settings(),
        handlers=handlers,
        dependencies=dependencies,
        fail_fast=fail_fast,
        front_ends=FrontEnds(front_ends, owner=owner, ai_sdk=ai_sdk, allow_system=allow_system),
    )


def make_app(
    settings: Settings,
    *,
    handlers: Mapping[str, Handler] | None,
    dependencies: Sequence[params.Depends] = (),
    fail_fast: bool = False,
    guests: Guests | None = None,
    front_ends: FrontEnds = NO_FRONT_ENDS,
) -> FastAPI:
    """Return the app of `create_app`; of the local stack, with its rule for callers without key."""
    write_log(settings.log)
    app = FastAPI(
        title="longtask_kit",
        summary="LLM tasks that outlive the request, streamed without losing a token.",
    )
    speaks_openai = "responses" in front_ends.names
    answer_unmatched = _answer_openai_unmatched if speaks_openai else _answer_unmatched
    app.add_exception_handler(HTTPException, answer_unmatched)
    app.add_exception_handler(Exception, _answer_defect)
    app.include_router(
        _make_router(settings, handlers, dependencies, fail_fast, guests, front_ends)
    )
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=front_ends.allowed_headers
            or ["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=["Retry-After", *front_ends.exposed_headers],
        )
    return app


def _answer_unmatched(_: Request, exc: Exception) -> JSONResponse:
    """Answer what no route matched; what a route refuses, `TaskRoute` answers by itself."""
    assert isinstance(exc, HTTPException)  # noqa: S101 - it is registered for no other
    hint = "" if exc.status_code != 404 else ": this app has /api/tasks, /api/health and /docs"
    return error_response(exc.status_code, f"{exc.detail}{hint}.", exc.headers)


def _answer_openai_unmatched(request: Request, exc: Exception) -> JSONResponse:
    """Answer in OpenAI's shape what an OpenAI SDK has sent, also one whose base URL lacks `/v1`."""
    path = request.url.path
    if not path.startswith(_OPENAI_PATHS):
        return _answer_unmatched(request, exc)
    assert isinstance(exc, HTTPException)  # noqa: S101 - it is registered for no other
    base_url = "" if path.startswith("/v1") else ": the SDK's base URL must end with /v1"
    message = (
        f"{exc.detail}: {request.method} {path[:80]}. Served are /v1/responses, "
        f"/v1/chat/completions and /v1/models{base_url}."
    )
    return answer_error(exc.status_code, message, headers=exc.headers)


def _answer_defect(_: Request, __: Exception) -> JSONResponse:
    """Answer what nobody foresaw; the server logs the traceback."""
    return error_response(500, DEFECT)


def create_router(
    settings: Settings | None = None,
    *,
    handlers: Mapping[str, Handler] | None = None,
    dependencies: Sequence[params.Depends] = (),
    fail_fast: bool = False,
    front_ends: Sequence[str] = (),
    owner: Owner | None = None,
    ai_sdk: str = "",
    allow_system: bool = False,
) -> APIRouter:
    """Return a router to `include_router()` in an app of yours, under any prefix.

    `LONGTASK_BASE_URL` must then end with that prefix, since the queue signs the full URL.

    Args:
        settings: From the environment and `.env` if None.
        handlers: Async generator functions by name, beside the built-in `openai`.
        dependencies: FastAPI's `Depends(…)`, run before every call of `/api/tasks` and of a front
            end, and before no delivery of the queue. The place for a rate limit or a login of
            yours; refuse by
            `raise HTTPException(429, "Slow down.", headers={"Retry-After": "10"})`.
        fail_fast: An exception of a handler of yours fails its task at once, with the end of the
            traceback, unless the task asked for `retries`: while you write it a typo is no outage.
        front_ends: Protocols that existing clients speak: `ai_sdk`, the AI SDK's `useChat`, at
            `/api/chat`; `responses`, OpenAI's `/v1/responses` and `/v1/chat/completions`;
            `ag_ui`, AG-UI at `/api/agui`.
        owner: A dependency that returns who calls a front end, as text: he finds no tasks but his
            own there, and ids that he chooses don't meet another's. None: whoever has the app's
            key is the same one.
        ai_sdk: The version of npm's `ai` in the page, as "7.0.70", from which on a page itself
            takes back what has started over; unset, it works with every version that minds
            `data-restart`. A call's own `?ai_sdk=` goes before it.
        allow_system: A page may send system messages; else a call with one is refused.

    Raises:
        ConfigError: As `create_app`.
    """
    settings = settings or Settings()
    chosen = FrontEnds(front_ends, owner=owner, ai_sdk=ai_sdk, allow_system=allow_system)
    return _make_router(settings, handlers, dependencies, fail_fast, None, chosen)


def _make_router(
    settings: Settings,
    handlers: Mapping[str, Handler] | None,
    dependencies: Sequence[params.Depends],
    fail_fast: bool,
    guests: Guests | None,
    front_ends: FrontEnds,
) -> APIRouter:
    _check_settings(settings)
    own_handlers = dict(handlers or {})
    _check_handlers(own_handlers)
    services = Services(settings, own_handlers, fail_fast=fail_fast)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await services.declare()
        try:
            with hearing_sigterm(services.drain):
                yield
        finally:
            await services.aclose()

    queue, health = DeliveriesApi(services), _HealthApi(services)
    router = APIRouter(route_class=TaskRoute, lifespan=lifespan)
    router.include_router(create_tasks_router(services, dependencies, guests))
    router.include_router(create_groups_router(services, dependencies, guests))
    key = guests.api_key if guests else secret(settings.api_key)
    for front_end in create_front_end_routers(front_ends, services, key, dependencies):
        router.include_router(front_end)
    add = router.add_api_route
    answers = _document_answers()
    for path, call in ((WEBHOOK_PATH, queue.webhook), (FAILURE_PATH, queue.failure)):
        add(path, call, methods=["POST"], tags=["queue"], responses=answers)
    unsigned = refusals(400) | {405: answers[401] | {"description": "Not in development mode."}}
    add(WEBHOOK_PATH, queue.run_unsigned, methods=["GET"], tags=["queue"], responses=unsigned)
    add("/api/health", health.health, methods=["GET"], tags=["health"])
    # Monitors ask so. A route of its own: in the documentation two methods would share an id.
    add("/api/health", health.health, methods=["HEAD"], include_in_schema=False)
    return router


def _document_answers() -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of what the queue is told; README has it in full."""
    texts = {
        401: "Not provably from the queue: nothing was read or written.",
        489: "No retry can help: to the dead letters.",
        500: "The attempt failed; deliver again, after `Retry-After` if it is there.",
        503: "Another delivery runs the task, or Redis is away; deliver again.",
    }
    return document_errors(TaskErrorAnswer, texts)


def _check_settings(settings: Settings) -> None:
    settings.require(*CLIENT_NAMES, *(() if settings.dev else SIGNING_NAMES))
    if settings.dev and not is_loopback(settings.base_url):
        raise ConfigError(
            f"LONGTASK_DEV=1 runs tasks without a signature, so LONGTASK_BASE_URL must be on this "
            f"machine; it is {settings.base_url}. Unset LONGTASK_DEV."
        )


def _check_handlers(handlers: Mapping[str, Handler]) -> None:
    for name, handler in handlers.items():
        call = handler if inspect.isfunction(handler) else getattr(handler, "__call__", None)  # noqa: B004
        if not inspect.isasyncgenfunction(call) and not inspect.isasyncgenfunction(handler):
            raise ConfigError(
                f"Handler {name!r} must be an async generator function that takes a TaskContext "
                f"and yields text (`async def … yield`), got {type(handler).__name__}."
            )


class _HealthApi:
    """Anybody may call it; the services behind are asked at most once in five seconds."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._checked_at = -_HEALTH_TTL_S
        self._answering: dict[str, bool] = {}
        self._asking: asyncio.Task[None] | None = None

    async def health(self) -> dict[str, Any]:
        """Return `ok` or `degraded`, and which services answer."""
        if time.monotonic() - self._checked_at >= _HEALTH_TTL_S:
            await self._ask_together()
        status = "ok" if all(self._answering.values()) else "degraded"
        return {"status": status, "services": self._answering}

    async def _ask_together(self) -> None:
        """Ask the services, or wait for what somebody asked just before."""
        asking = self._asking
        if asking is None or asking.done() or asking.get_loop() is not asyncio.get_running_loop():
            asking = self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(asking)  # one who leaves must not take the answer from the others

    async def _ask(self) -> None:
        opened = await self._services.open()
        probes = {"redis": opened.store.ping, "queue": opened.queue.read_signing_keys}
        answers = await asyncio.gather(*map(_answers, probes.values()))
        self._answering = dict(zip(probes, answers, strict=True))
        self._checked_at = time.monotonic()


async def _answers(probe: Callable[[], Awaitable[object]]) -> bool:
    try:
        await probe()
    except (StoreError, ConfigError):
        return False
    return True
