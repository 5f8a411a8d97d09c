"""The queue as an ASGI app: what it opens and closes, who may call it, how it refuses."""

from __future__ import annotations

import contextlib
import functools
import hmac
import logging
import time
import urllib.parse
from typing import TYPE_CHECKING

from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from longtask_kit.local.qstash.client import connect
from longtask_kit.local.qstash.connections import Connections
from longtask_kit.local.qstash.delivery import DeliveryQueue
from longtask_kit.local.qstash.destination import Reach
from longtask_kit.local.qstash.errors import (
    MalformedRequestError,
    PlanLimitError,
    RateLimitError,
)
from longtask_kit.local.qstash.plan import UNLIMITED, BurstCounter, Plan
from longtask_kit.local.qstash.request import SigningKeys
from longtask_kit.local.qstash.routes.all import ROUTES
from longtask_kit.local.qstash.scheduler import Scheduler
from longtask_kit.local.qstash.store import QueueStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)


def create_qstash_app(
    redis_url: str,
    *,
    token: str,
    current_signing_key: str,
    next_signing_key: str,
    time_scale: float = 1.0,
    allow_remote: bool = False,
    rewrites: Mapping[str, str] | None = None,
    outbound: Mapping[str, str] | None = None,
    dedup_window_s: float = 600.0,
    max_in_flight: int = 500,
    plan: Plan = UNLIMITED,
) -> Starlette:
    """Return an app that accepts, delivers and retries messages as QStash does.

    While it runs, `app.state.queue` is the engine; its `count_pending()` tells whether the
    queue is idle. Only one app at a time may work on the messages of one Valkey.

    Args:
        redis_url: `unix:///path.sock` or `redis://…` of the Valkey that holds the messages.
        token: The bearer token callers must present.
        current_signing_key: Signs deliveries; at least 32 bytes.
        next_signing_key: Becomes the current one at a rotation; at least 32 bytes.
        time_scale: Factor for default and custom backoff, > 0; not for delays the caller or
            the destination asked for.
        allow_remote: Whether destinations and callbacks may leave this machine.
        rewrites: Origins that have moved, such as `{"http://127.0.0.1:8000":
            "http://127.0.0.1:8123"}` after a restart on other ports; the new one is signed.
        outbound: Origins that others stand in for, such as `{"https://example.com":
            "http://127.0.0.1:9000"}`; the receiver still believes to be the first, which is
            signed.
        dedup_window_s: How long a deduplication id is remembered, in seconds, > 0.
        max_in_flight: Most deliveries at one time, >= 1.
        plan: The limits of a plan of the hosted service; none by default.
    """
    keys = SigningKeys(current=current_signing_key, next=next_signing_key)
    if not token or time_scale <= 0 or dedup_window_s <= 0 or max_in_flight < 1:
        raise ValueError(
            "expected a token, time_scale > 0, dedup_window_s > 0 and max_in_flight >= 1"
        )

    make_queue = functools.partial(
        DeliveryQueue,
        keys=keys,
        time_scale=time_scale,
        rewrites=rewrites or {},
        outbound=outbound or {},
        dedup_window_ms=max(1, round(dedup_window_s * 1000)),
        max_in_flight=max_in_flight,
        plan=plan,
    )
    app = Starlette(
        routes=ROUTES,
        lifespan=functools.partial(_lifespan, redis_url=redis_url, make_queue=make_queue),
        middleware=[
            Middleware(RequireToken, token=token),
            *([Middleware(LimitBursts, plan=plan)] if plan.requests_per_s else []),
        ],
        exception_handlers=_ANSWERS,
    )
    # A redirect to a path without its last slash would change the destination in it.
    app.router.redirect_slashes = False
    app.state.reach = Reach(allow_remote=allow_remote, outbound=outbound or {})
    return app


class RequireToken:
    """Middleware that answers 401 to every request without the queue's token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if it presents the token."""
        if scope["type"] == "http" and not self._is_authorized(Request(scope)):
            refusal = JSONResponse({"error": "unauthorized: invalid or missing token"}, 401)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_authorized(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            query = urllib.parse.parse_qs(request.scope["query_string"].decode("latin-1"))
            token = query.get("qstash_token", [""])[0]
        return hmac.compare_digest(token.strip().encode(), self._token)


class LimitBursts:
    """Middleware that answers 429 to more requests a second than a plan allows."""

    def __init__(self, app: ASGIApp, plan: Plan) -> None:
        self._app = app
        self._counter = BurstCounter(plan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if there weren't too many before it."""
        if scope["type"] == "http":
            try:
                self._counter.check(scope["path"], time_s=time.time())
            except RateLimitError as exc:
                refusal = JSONResponse({"error": str(exc)}, 429, headers=exc.headers)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


@contextlib.asynccontextmanager
async def _lifespan(
    app: Starlette, *, redis_url: str, make_queue: Callable[..., DeliveryQueue]
) -> AsyncIterator[None]:
    async with _open_store(redis_url) as store:
        connections = Connections()
        queue = make_queue(store, connections)
        scheduler = Scheduler(store, queue, app.state.reach)
        await queue.start()
        await scheduler.start()
        app.state.queue, app.state.store, app.state.scheduler = queue, store, scheduler
        try:
            yield
        finally:
            await scheduler.stop()
            await queue.stop()
            connections.close()


@contextlib.asynccontextmanager
async def _open_store(redis_url: str) -> AsyncIterator[QueueStore]:
    store = QueueStore(await connect(redis_url))
    try:
        yield store
    finally:
        await store.close()


async def _answer_refusal(_: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    return JSONResponse({"error": exc.detail}, exc.status_code, headers=exc.headers)


async def _answer_malformed(_: Request, exc: Exception) -> Response:
    return JSONResponse({"error": str(exc)}, 400)


async def _answer_plan_limit(_: Request, exc: Exception) -> Response:
    if isinstance(exc, RateLimitError):
        return JSONResponse({"error": str(exc)}, 429, headers=exc.headers)
    return JSONResponse({"error": str(exc)}, 412)


async def _answer_storage_failure(_: Request, exc: Exception) -> Response:
    logger.error("storage failed: %s", exc)
    return JSONResponse({"error": "the queue's storage does not answer; try again"}, 500)


async def _answer_unexpected(_: Request, exc: Exception) -> Response:
    # Starlette raises it again after this answer, so the server logs it with its traceback.
    return JSONResponse({"error": f"internal error: {type(exc).__name__}"}, 500)


_ANSWERS = {
    HTTPException: _answer_refusal,
    MalformedRequestError: _answer_malformed,
    PlanLimitError: _answer_plan_limit,
    RedisError: _answer_storage_failure,
    Exception: _answer_unexpected,
}
