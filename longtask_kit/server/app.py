"""The webhook factory: `create_app()` for an app of its own, `create_router()` for somebody's.

Everything a router needs is opened by its lifespan (also when it is embedded) or, where a host
runs no lifespan, by the first request. Nothing is global: two apps with different settings live
in one process.
"""

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
from longtask_kit.server.handlers import Handler
from longtask_kit.server.http_edge import (
    ErrorAnswer,
    TaskRoute,
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
)

_HEALTH_TTL_S = 5.0


def create_app(
    settings: Settings | None = None,
    *,
    handlers: Mapping[str, Handler] | None = None,
    dependencies: Sequence[params.Depends] = (),
) -> FastAPI:
    """Return an ASGI app with the whole HTTP contract.

    Pages of other origins may call it only if `LONGTASK_CORS_ORIGINS` names them.

    Args:
        settings: From the environment and `.env` if None.
        handlers: Async generator functions by name, beside the built-in `openai`.
        dependencies: As in `create_router`.

    Raises:
        ConfigError: A setting is missing; without signing keys the app refuses to exist, unless
            `LONGTASK_DEV=1` and its base URL is on this machine.
    """
    app = FastAPI(
        title="longtask_kit",
        summary="LLM tasks that outlive the request, streamed without losing a token.",
    )
    app.add_exception_handler(HTTPException, _answer_unmatched)
    app.add_exception_handler(Exception, _answer_defect)
    settings = settings or Settings()
    app.include_router(create_router(settings, handlers=handlers, dependencies=dependencies))
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=["Retry-After"],
        )
    return app


def _answer_unmatched(_: Request, exc: Exception) -> JSONResponse:
    """Answer what no route matched; what a route refuses, `TaskRoute` answers by itself."""
    assert isinstance(exc, HTTPException)  # noqa: S101 - it is registered for no other
    hint = "" if exc.status_code != 404 else ": this app has /api/tasks, /api/health and /docs"
    return error_response(exc.status_code, f"{exc.detail}{hint}.", exc.headers)


def _answer_defect(_: Request, __: Exception) -> JSONResponse:
    """Answer what nobody foresaw; the server logs the traceback."""
    return error_response(500, "An error inside the app; its log has the traceback.")


def create_router(
    settings: Settings | None = None,
    *,
    handlers: Mapping[str, Handler] | None = None,
    dependencies: Sequence[params.Depends] = (),
) -> APIRouter:
    """Return a router to `include_router()` in an app of yours, under any prefix.

    `LONGTASK_BASE_URL` must then end with that prefix, since the queue signs the full URL.

    Args:
        settings: From the environment and `.env` if None.
        handlers: Async generator functions by name, beside the built-in `openai`.
        dependencies: FastAPI's `Depends(…)`, run before every `/api/tasks` call and before no
            delivery of the queue. The place for a rate limit or a login of yours; refuse by
            `raise HTTPException(429, "Slow down.", headers={"Retry-After": "10"})`.

    Raises:
        ConfigError: As `create_app`.
    """
    settings = settings or Settings()
    _check_settings(settings)
    own_handlers = dict(handlers or {})
    _check_handlers(own_handlers)
    services = Services(settings, own_handlers)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await services.aclose()

    queue, health = DeliveriesApi(services), _HealthApi(services)
    router = APIRouter(route_class=TaskRoute, lifespan=lifespan)
    router.include_router(create_tasks_router(services, dependencies))
    add = router.add_api_route
    answers = _document_answers()
    for path, call in ((WEBHOOK_PATH, queue.webhook), (FAILURE_PATH, queue.failure)):
        add(path, call, methods=["POST"], tags=["queue"], responses=answers)
    unsigned = refusals(400) | {405: answers[401] | {"description": "Not in development mode."}}
    add(WEBHOOK_PATH, queue.run_unsigned, methods=["GET"], tags=["queue"], responses=unsigned)
    add("/api/health", health.health, methods=["GET"], tags=["health"])
    return router


def _document_answers() -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of what the queue is told; README has it in full."""
    texts = {
        401: "Not provably from the queue: nothing was read or written.",
        489: "No retry can help: to the dead letters.",
        500: "The attempt failed; deliver again, after `Retry-After` if it is there.",
        503: "Another delivery runs the task, or Redis is away; deliver again.",
    }
    return {code: {"model": ErrorAnswer, "description": text} for code, text in texts.items()}


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

    async def health(self) -> dict[str, Any]:
        """Return `ok` or `degraded`, and which services answer."""
        if time.monotonic() - self._checked_at >= _HEALTH_TTL_S:
            opened = await self._services.open()
            probes = {"redis": opened.store.ping, "queue": opened.queue.read_signing_keys}
            self._answering = {name: await _answers(probe) for name, probe in probes.items()}
            self._checked_at = time.monotonic()
        status = "ok" if all(self._answering.values()) else "degraded"
        return {"status": status, "services": self._answering}


async def _answers(probe: Callable[[], Awaitable[object]]) -> bool:
    try:
        await probe()
    except (StoreError, ConfigError):
        return False
    return True
