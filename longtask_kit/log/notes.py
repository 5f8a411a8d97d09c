"""The queue's ids of messages, noted together a moment after their tasks were submitted.

A task runs without: by that id it is found in the queue, to be cancelled, tried at once, or known
to wait there. Whoever submits need not wait for a round trip of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from longtask_kit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

logger = logging.getLogger(__name__)

_GATHER_S = 0.01
_CLOSE_S = 2.0


class MessageNotes:
    """What is yet to be noted.

    Args:
        write: Writes the ids of messages, by those of tasks.
    """

    def __init__(self, write: Callable[[Mapping[str, str]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: dict[str, str] = {}
        self._writing: asyncio.Task[None] | None = None

    def add(self, task_id: str, message_id: str) -> None:
        """Note a message soon."""
        self._waiting[task_id] = message_id
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_soon())

    async def settle(self, task_id: str) -> None:
        """Return once a task's message is noted, so that what comes next finds it."""
        if task_id in self._waiting:
            await self.write_all()

    async def write_all(self) -> None:
        """Note all now; where Redis does not answer, only a cancel in the queue is lost."""
        message_ids = dict(self._waiting)
        if not message_ids:
            return
        try:
            await self._write(message_ids)
        except StoreError as exc:
            logger.warning("message ids of %d tasks not recorded: %s", len(message_ids), exc)
        for task_id, message_id in message_ids.items():
            if self._waiting.get(task_id) == message_id:  # no later one has come meanwhile
                del self._waiting[task_id]

    async def aclose(self) -> None:
        """Note all, if that takes no longer than a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.write_all()

    async def _write_soon(self) -> None:
        await asyncio.sleep(_GATHER_S)
        while self._waiting:
            await self.write_all()
