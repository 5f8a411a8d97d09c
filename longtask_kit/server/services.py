"""What a webhook app holds open: store, queue, event source, log writer, handlers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longtask_kit.errors import StoreError
from longtask_kit.log.many import ManyStore
from longtask_kit.log.subscribe import RedisSource
from longtask_kit.log.waiting import sweep
from longtask_kit.server.endpoints import EndpointsHandler
from longtask_kit.server.handlers import find_declaration
from longtask_kit.server.limiter import Limiter
from longtask_kit.server.openai import OpenAIHandler
from longtask_kit.server.writer import LogWriter
from longtask_kit.submit.groups import Groups
from longtask_kit.submit.queue import Queue
from longtask_kit.submit.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.server.handlers import Handler
    from longtask_kit.settings import Settings


logger = logging.getLogger(__name__)

_DECLARE_S = 2.0


@dataclass(frozen=True, slots=True)
class Opened:
    """The services, open on one event loop."""

    loop: asyncio.AbstractEventLoop
    store: ManyStore
    queue: Queue
    tasks: Tasks
    groups: Groups
    source: RedisSource
    log_writer: LogWriter
    limiter: Limiter
    handlers: Mapping[str, Handler]


class Services:
    """Opens on first use and closes with the app.

    Some hosts (Vercel among them) run no lifespan, or every request on a loop of its own; what
    belongs to another loop is opened anew.
    """

    def __init__(
        self, settings: Settings, handlers: Mapping[str, Handler], *, fail_fast: bool = False
    ) -> None:
        self.settings = settings
        self.fail_fast = fail_fast
        self._handlers = handlers
        self._stack = contextlib.AsyncExitStack()
        self._opened: Opened | None = None
        self._is_used = False
        self._is_declared = not handlers

    async def declare(self) -> None:
        """Write once what handlers of one's own declare: their versions name what they answer."""
        if self._is_declared:
            return
        self._is_declared = True
        found = {
            name: find_declaration(handler).version for name, handler in self._handlers.items()
        }
        versions = {name: version for name, version in found.items() if version}
        store = ManyStore.open(self.settings)
        try:
            async with asyncio.timeout(_DECLARE_S):
                await store.versions.write(self.settings.webhook_url, versions)
        except (StoreError, TimeoutError) as exc:
            self._is_declared = False
            logger.warning("the versions of handlers could not be written yet: %s", exc)
        finally:
            await store.aclose()

    async def open(self) -> Opened:
        """Return the services, open on the running loop."""
        loop = asyncio.get_running_loop()
        self._is_used = True
        await self.declare()  # some hosts run no lifespan
        if self._opened is None or self._opened.loop is not loop:
            self._stack = contextlib.AsyncExitStack()  # a dead loop's connections died with it
            self._opened = await self._open(loop)
        return self._opened

    def drain(self) -> None:
        """Hand on what another process can continue; this one is about to end."""
        if self._opened is not None:
            self._opened.log_writer.drain()

    async def aclose(self) -> None:
        """Close what is open."""
        self._opened = None
        await self._stack.aclose()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Opened:
        settings, push = self.settings, self._stack.push_async_callback
        store = ManyStore.open(settings)
        queue = Queue.open(settings)
        source = RedisSource(store, settings, has_message=queue.has)
        limiter = Limiter(store.limits, store.budgets, store.groups, settings)
        openai_handler = self._handlers.get("openai") or OpenAIHandler(settings, heed=limiter.heed)
        if isinstance(openai_handler, EndpointsHandler):
            openai_handler.listen(limiter.heed)
        for opened in (store, queue, source, openai_handler, limiter):
            if close := getattr(opened, "aclose", None):  # a handler of one's own has none
                push(close)
        log_writer = await self._stack.enter_async_context(
            LogWriter(
                store,
                min_flush_interval_s=settings.min_flush_interval_s,
                heartbeat_s=settings.heartbeat_s,
            )
        )
        sweeper = asyncio.create_task(self._sweep_while_used(store, queue), name="longtask-sweeper")
        push(_cancel, sweeper)
        handlers: dict[str, Handler] = {"openai": openai_handler, **self._handlers}
        tasks = Tasks(store, queue)
        groups = Groups(tasks, store, queue)
        return Opened(loop, store, queue, tasks, groups, source, log_writer, limiter, handlers)

    async def _sweep_while_used(self, store: ManyStore, queue: Queue) -> None:
        """End tasks that are lost, every so often, but leave an idle Redis alone."""
        deadline_s = self.settings.deadline_s
        is_needed = True
        while True:
            await asyncio.sleep(deadline_s / 2)
            if self._is_used or is_needed:
                self._is_used = False
                try:
                    left = await sweep(store, deadline_s=deadline_s, has_message=queue.has)
                    is_needed = left > 0
                except StoreError as exc:
                    logger.warning("lost tasks could not be looked for: %s", exc)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
