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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from filelock import Timeout as LockTimeout

from longtask_kit.errors import LocalStackError
from longtask_kit.local.config import StackConfig
from longtask_kit.local.endpoints import remove_unused_daily
from longtask_kit.local.files import StackFiles, hold_folder, make_private_folder
from longtask_kit.local.identity import (
    DEV_KEYS,
    bind_all,
    load_identity,
    make_environment,
    make_settings,
    save_identity,
)
from longtask_kit.local.redis.valkey import ValkeyProcess
from longtask_kit.local.services import Activity, make_apps, serving
from longtask_kit.local.state import forget_state, lock_start, refuse_second, write_state
from longtask_kit.server.http_edge import LoopbackOnly

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_IDLE_CHECK_S = 5.0


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
        LocalStackError: A port is in use, another process has the data folder, Valkey is missing,
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
        apps = make_apps(config, environment, redis_url, rewrites)
        queue = apps["qstash"]
        for name in ("model", "redis", "app", "qstash"):  # whoever is called is up first
            origins = make_settings(environment).allowed_origins if name == "app" else ()
            app = LoopbackOnly(activity.guard(apps[name]), origins=origins)
            await stack.enter_async_context(serving(app, listeners[name]))
            if name == "redis":  # the server would wait for its subscriptions otherwise
                stack.callback(apps["redis"].end_streams)
        save_identity(config.data_dir, identity)
        stack.callback(forget_state, files)  # first of all: nobody may join a stack that ends
        write_state(files, environment)
        announce(environment)
        from longtask_kit.server.openai import warm_up

        warming = asyncio.create_task(asyncio.to_thread(warm_up))
        stack.callback(warming.cancel)
        cleaning = asyncio.create_task(remove_unused_daily(config.data_dir))
        stack.callback(cleaning.cancel)
        await _wait_for_end(config, files, activity, queue, stop)
        if watching.done():
            watching.result()


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
            forget_state(files)
            return True
    except LockTimeout:
        return False


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
    # The services call each other, on loopback; the queue's deliveries use no proxy anyway. Of
    # the two spellings clients prefer the small one. With "*" they don't read the others at all,
    # of which socks:// is an ImportError without an extra package.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    running = _run_until_told(config, files, announce=announce, owned=owned)
    try:
        import uvloop
    except ImportError:
        was_interrupted = asyncio.run(running)
    else:
        was_interrupted = uvloop.run(running)
    if was_interrupted:
        raise KeyboardInterrupt


async def _run_until_told(
    config: StackConfig,
    files: StackFiles,
    *,
    announce: Callable[[dict[str, str]], None],
    owned: bool,
) -> bool:
    """Run a stack until its end; tell whether that was a Ctrl-C."""
    was_interrupted = False
    stop = asyncio.Event()

    def interrupt() -> None:
        nonlocal was_interrupted
        was_interrupted = True
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)

    def end_with_owner() -> None:
        loop.remove_reader(sys.stdin.fileno())  # or the loop spins: what is closed stays readable
        stop.set()

    if owned:
        loop.add_reader(sys.stdin.fileno(), end_with_owner)
    await run_stack(config, files, announce=announce, stop=stop)
    return was_interrupted


def run_in_foreground(config: StackConfig, announce: Callable[[dict[str, str]], None]) -> None:
    """Run a stack in this process until Ctrl-C or `longtask down`; notebooks join it.

    Args:
        config: What to run.
        announce: Called with the stack's environment once it is ready.

    Raises:
        LocalStackError: It could not start; the message says the cure.
    """
    files = StackFiles.of(config.data_dir)
    lock = contextlib.ExitStack()

    def release_and_announce(environment: dict[str, str]) -> None:
        lock.close()
        announce(environment)

    with lock:
        lock.enter_context(lock_start(files))
        refuse_second(files)
        files.state.unlink(missing_ok=True)  # a dead one's, as in `spawn`
        serve_for_ever(config, files, announce=release_and_announce)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether uvicorn says more than that an ending stack cuts off what is still open.

    It shows a traceback for each attempt under way; the queue delivers those again.
    """
    error = record.exc_info[1] if record.exc_info else None
    is_cut_off = isinstance(error, asyncio.CancelledError)
    return not is_cut_off and "timeout graceful shutdown exceeded" not in str(record.msg)


def parse_options(text: str) -> tuple[StackConfig, StackFiles]:
    """Read what `LocalStack` hands over as JSON: the options, and where it waits for the state."""
    values = json.loads(text)
    data_dir = Path(values.pop("data_dir"))
    files = StackFiles(Path(values.pop("folder")), data_dir)
    return StackConfig(data_dir=data_dir, **values), files
