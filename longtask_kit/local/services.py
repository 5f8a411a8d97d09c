"""The services in the stack's process: their apps, each served on a socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import uvicorn

from longtask_kit.errors import LocalStackError
from longtask_kit.local.endpoints import make_guests, make_model_handler
from longtask_kit.local.identity import make_settings
from longtask_kit.settings import DEMO_LABEL

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping

    from longtask_kit.local.config import StackConfig

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Activity:
    """When a service was last asked, and how many requests are open, over all services."""

    def __init__(self) -> None:
        self.open_requests = 0
        self.last_request = time.monotonic()

    @property
    def idle_s(self) -> float:
        """For how long nobody has asked anything, in seconds; 0 while a request is open."""
        return 0.0 if self.open_requests else time.monotonic() - self.last_request

    def guard(self, app: ASGIApp) -> ASGIApp:
        """Wrap an app: count its requests."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            self.open_requests += 1
            try:
                await app(scope, receive, send)
            finally:
                self.open_requests -= 1
                self.last_request = time.monotonic()

        return guarded


def make_apps(
    config: StackConfig, environment: dict[str, str], redis_url: str, rewrites: dict[str, str]
) -> dict[str, Any]:
    """Return the services' apps by name; `rewrites` leads from the webhook app's old origins."""
    from longtask_kit.local.model.app import create_model_app
    from longtask_kit.local.qstash import create_qstash_app
    from longtask_kit.local.qstash.plan import PLANS, UNLIMITED
    from longtask_kit.local.redis.app import create_redis_rest_app
    from longtask_kit.server.app import make_app
    from longtask_kit.server.front_ends.routes import FRONT_ENDS, FrontEnds

    settings = make_settings(environment)

    return {
        "redis": create_redis_rest_app(
            redis_url,
            token=environment["UPSTASH_REDIS_REST_TOKEN"],
            read_only_token=environment["UPSTASH_REDIS_REST_READ_ONLY_TOKEN"],
        ),
        "qstash": create_qstash_app(
            redis_url,
            token=environment["QSTASH_TOKEN"],
            current_signing_key=environment["QSTASH_CURRENT_SIGNING_KEY"],
            next_signing_key=environment["QSTASH_NEXT_SIGNING_KEY"],
            time_scale=config.time_scale,
            allow_remote=config.allow_remote,
            rewrites=rewrites,
            outbound=dict(map(_split, config.rewrites)),
            dedup_window_s=config.dedup_window_s,
            plan=PLANS[config.plan] if config.plan else UNLIMITED,
        ),
        "model": create_model_app(
            api_key=environment["OPENAI_API_KEY"],
            label=DEMO_LABEL,
            tokens_per_s=config.tokens_per_s,
        ),
        "app": make_app(
            settings,
            handlers={"openai": make_model_handler(settings, config.data_dir)},
            guests=make_guests(environment),
            front_ends=FrontEnds(FRONT_ENDS),
        ),
    }


def _split(rewrite: str) -> tuple[str, str]:
    old, _, new = rewrite.partition("=")
    return old.rstrip("/"), new


class _Server(uvicorn.Server):
    """A uvicorn that leaves the signals to the process, which runs four of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an app on a bound socket for as long as the context is open."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=1,
        # uvicorn's 5 s are those of httpx: a request that leaves just then meets a closed
        # connection, and the SDK waits 3 s before it tries again.
        timeout_keep_alive=60,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if running.done():
            raise LocalStackError("A service of the local stack did not start; see its log.")
        await asyncio.sleep(0.002)
    try:
        yield
    finally:
        server.should_exit = True
        await running
