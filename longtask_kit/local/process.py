"""The stack's process: Valkey, its REST protocol, the queue, the demo model, the webhook app.

All services share one event loop; each listens on its own loopback port. Ports, tokens and keys
are kept in the data folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from filelock import FileLock
from filelock import Timeout as LockTimeout

from longtask_kit.errors import LocalStackError
from longtask_kit.local.config import StackConfig, StackFiles, make_private_folder, write_private
from longtask_kit.local.files import hold_folder
from longtask_kit.local.identity import (
    DEV_KEYS,
    bind_all,
    load_identity,
    make_environment,
    save_identity,
)
from longtask_kit.local.redis.valkey import ValkeyProcess
from longtask_kit.server.http_edge import LoopbackHostsOnly

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
    from pathlib import Path

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

_IDLE_CHECK_S = 5.0


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


async def run_stack(
    config: StackConfig,
    files: StackFiles,
    *,
    announce: Callable[[dict[str, str]], None],
    stop: asyncio.Event,
) -> None:
    """Run a stack until `stop` is set or it has been idle for long enough.

    Args:
        config: What to run.
        files: Where its state goes, as whoever waits for it expects.
        announce: Called with the environment that makes a client use the stack, once it is ready.
        stop: Set it to end the stack.

    Raises:
        LocalStackError: A port is in use, another process has the data folder, Valkey is missing
            did not start or died; says the cure.
    """
    make_private_folder(config.data_dir, "choose another with --data")
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(hold_folder(files))  # left last: nobody may start before we ended
        identity = load_identity(config.data_dir)
        redis_url, watching = await _start_redis(config, files, stack)
        watching.add_done_callback(lambda _: stop.set())
        listeners, rewrites = bind_all(config, identity)
        environment = make_environment(identity) | (DEV_KEYS if config.dev_keys else {})
        activity = Activity()
        apps = _make_apps(config, environment, redis_url, rewrites)
        queue = apps["qstash"]
        for name in ("model", "redis", "app", "qstash"):  # whoever is called is up first
            app = LoopbackHostsOnly(activity.guard(apps[name]))
            await stack.enter_async_context(_serving(app, listeners[name]))
            if name == "redis":  # the server would wait for its subscriptions otherwise
                stack.callback(apps["redis"].end_streams)
        save_identity(config.data_dir, identity)
        stack.callback(_forget, files.state)  # first of all: nobody may join a stack that ends
        state = {"pid": os.getpid(), "environment": environment}
        write_private(files.state, json.dumps(state))
        announce(environment)
        from longtask_kit.server.openai import warm_up

        warming = asyncio.create_task(asyncio.to_thread(warm_up))
        stack.callback(warming.cancel)
        await _wait_for_end(config, files, activity, queue, stop)
        if watching.done():
            watching.result()


def _forget(state: Path) -> None:
    """Remove our state file, unless another stack has written its own since."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads(state.read_text())["pid"] == os.getpid():
            state.unlink()


async def _start_redis(
    config: StackConfig, files: StackFiles, stack: contextlib.AsyncExitStack
) -> tuple[str, asyncio.Future[None]]:
    """Return where the data are, and what fails when the server that has them dies."""
    if config.redis_url is not None:
        from longtask_kit.local.qstash.client import check_redis

        await check_redis(config.redis_url)
        return config.redis_url, asyncio.get_running_loop().create_future()
    valkey = ValkeyProcess(data_dir=config.data_dir / "valkey", socket_path=files.socket)
    (config.data_dir / "valkey").mkdir(exist_ok=True, mode=0o700)
    stack.push_async_callback(valkey.stop)
    await valkey.start()
    watching = asyncio.create_task(_watch(valkey))
    stack.callback(watching.cancel)
    return valkey.url, watching


async def _watch(valkey: ValkeyProcess) -> None:
    """Fail when Valkey ends: a stack without it serves nobody, and clients start a new one."""
    code = await valkey.wait()
    raise LocalStackError(
        f"The stack's Valkey ended with code {code}, and the stack with it; the data stay, and "
        "the next command that needs the stack starts it again."
    )


# -- services -----------------------------------------------------------------------------------


def _make_apps(
    config: StackConfig, environment: dict[str, str], redis_url: str, rewrites: dict[str, str]
) -> dict[str, Any]:
    from longtask_kit.local.model.app import create_model_app
    from longtask_kit.local.qstash import create_qstash_app
    from longtask_kit.local.qstash.plan import PLANS, UNLIMITED
    from longtask_kit.local.redis.app import create_redis_rest_app
    from longtask_kit.local.stack import make_settings
    from longtask_kit.server.app import create_app
    from longtask_kit.settings import DEMO_LABEL

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
        "app": create_app(make_settings(environment)),
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
async def _serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
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


async def _wait_for_end(
    config: StackConfig,
    files: StackFiles,
    activity: Activity,
    queue_app: Any,  # noqa: ANN401 - a Starlette app with state.queue
    stop: asyncio.Event,
) -> None:
    """Return when somebody stops the stack, or when nobody needs it any more."""
    limit_s = config.idle_exit_s
    check_s = min(_IDLE_CHECK_S, (limit_s or _IDLE_CHECK_S) / 4)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(check_s):
                await stop.wait()
        if limit_s is None or activity.idle_s < limit_s:
            continue
        pending = await queue_app.state.queue.count_pending()
        if pending == 0 and _forget_if_idle(files, activity, limit_s):
            logger.info("idle for %.0f s: the stack ends; its data stay", activity.idle_s)
            return


def _forget_if_idle(files: StackFiles, activity: Activity, limit_s: float) -> bool:
    """Remove the state unless somebody is joining; False then: the stack is needed.

    A joiner has the start lock while it asks whether we answer: it either asked before, and we
    are not idle, or finds no state after, and starts a new stack.
    """
    try:
        with FileLock(files.lock).acquire(timeout=0):
            if activity.idle_s < limit_s:
                return False
            _forget(files.state)
            return True
    except LockTimeout:
        return False


# -- the process --------------------------------------------------------------------------------


def serve_for_ever(
    config: StackConfig,
    files: StackFiles,
    *,
    announce: Callable[[dict[str, str]], None],
    owned: bool = False,
) -> None:
    """Run a stack in this process until SIGTERM, Ctrl-C, or idleness.

    Args:
        config: What to run.
        files: As in `run_stack`.
        announce: As in `run_stack`.
        owned: End as well when standard input closes: whoever started us is gone.

    Raises:
        LocalStackError: As `run_stack`.
        KeyboardInterrupt: After a clean end by Ctrl-C.
    """
    was_interrupted = False
    # The services call each other, on loopback; the queue's deliveries use no proxy anyway. Of
    # the two spellings clients prefer the small one. With "*" they don't read the others at all,
    # of which socks:// is an ImportError without an extra package.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    logging.getLogger("uvicorn.error").addFilter(_is_news)

    async def main() -> None:
        stop = asyncio.Event()

        def interrupt() -> None:
            nonlocal was_interrupted
            was_interrupted = True
            stop.set()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, interrupt)
        if owned:
            loop.add_reader(sys.stdin.fileno(), stop.set)
        await run_stack(config, files, announce=announce, stop=stop)

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
    if was_interrupted:
        raise KeyboardInterrupt


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether uvicorn says more than that an ending stack cuts off what is still open.

    It shows a traceback for each attempt under way; the queue delivers those again.
    """
    error = record.exc_info[1] if record.exc_info else None
    is_cut_off = isinstance(error, asyncio.CancelledError)
    return not is_cut_off and "timeout graceful shutdown exceeded" not in str(record.msg)


def parse_options(text: str) -> tuple[StackConfig, StackFiles]:
    """Read what `LocalStack` hands over as JSON: the options, and where it waits for the state."""
    from pathlib import Path

    values = json.loads(text)
    data_dir = Path(values.pop("data_dir"))
    files = StackFiles(Path(values.pop("folder")), data_dir)
    return StackConfig(data_dir=data_dir, **values), files
