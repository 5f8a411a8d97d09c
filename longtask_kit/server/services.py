"""What a webhook app holds open: store, queue, event source, publisher, handlers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longtask_kit.errors import StoreError
from longtask_kit.log.store import Store
from longtask_kit.log.subscribe import RedisSource
from longtask_kit.server.openai import OpenAIHandler
from longtask_kit.server.writer import Publisher
from longtask_kit.submit.queue import Queue
from longtask_kit.submit.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.server.handlers import Handler
    from longtask_kit.settings import Settings


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """The services, open on one event loop."""

    loop: asyncio.AbstractEventLoop
    store: Store
    queue: Queue
    tasks: Tasks
    source: RedisSource
    publisher: Publisher
    handlers: Mapping[str, Handler]


class Services:
    """Opens on first use and closes with the app.

    Some hosts (Vercel among them) run no lifespan, or every request on a loop of its own; what
    belongs to another loop is opened anew.
    """

    def __init__(self, settings: Settings, handlers: Mapping[str, Handler]) -> None:
        self.settings = settings
        self._handlers = handlers
        self._stack = contextlib.AsyncExitStack()
        self._opened: Opened | None = None
        self._is_used = False

    async def open(self) -> Opened:
        """Return the services, open on the running loop."""
        loop = asyncio.get_running_loop()
        self._is_used = True
        if self._opened is None or self._opened.loop is not loop:
            self._stack = contextlib.AsyncExitStack()  # a dead loop's connections died with it
            self._opened = await self._open(loop)
        return self._opened

    async def aclose(self) -> None:
        """Close what is open."""
        self._opened = None
        await self._stack.aclose()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Opened:
        settings, push = self.settings, self._stack.push_async_callback
        store = Store.open(settings)
        queue = Queue.open(settings)
        source = RedisSource(store, settings)
        openai_handler = OpenAIHandler(settings)
        for opened in (store, queue, source, openai_handler):
            push(opened.aclose)
        publisher = await self._stack.enter_async_context(
            Publisher(
                store,
                min_flush_interval_s=settings.min_flush_interval_s,
                heartbeat_s=settings.heartbeat_s,
            )
        )
        sweeper = asyncio.create_task(self._sweep_while_used(store), name="longtask-sweeper")
        push(_cancel, sweeper)
        handlers: dict[str, Handler] = {"openai": openai_handler, **self._handlers}
        return Opened(loop, store, queue, Tasks(store, queue), source, publisher, handlers)

    async def _sweep_while_used(self, store: Store) -> None:
        """End tasks that are lost, every so often, but leave an idle Redis alone."""
        deadline_s = self.settings.deadline_s
        is_needed = True
        while True:
            await asyncio.sleep(deadline_s / 2)
            if self._is_used or is_needed:
                self._is_used = False
                try:
                    is_needed = await store.sweep(deadline_s=deadline_s) > 0
                except StoreError as exc:
                    logger.warning("lost tasks could not be looked for: %s", exc)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
