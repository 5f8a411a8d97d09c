"""Ends scripts whose clients have left: until a script's end Redis serves nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_logger = logging.getLogger(__name__)
_UNWATCHED_S = 1.0  # almost all scripts are done by then, and cost no watch
# Redis listens from a script's fifth second on (`busy-reply-threshold`). What is sent before would
# end the next script, if this one is done by then.
_DEAF_S = 5.1
_AGAIN_S = 0.1


class ScriptWatch:
    """Watches the clients of the scripts under way.

    Args:
        end_script: Ends what Redis runs now, if it has not written yet.
    """

    def __init__(self, end_script: Callable[[], Awaitable[None]]) -> None:
        self._end_script = end_script
        # Redis runs them in this order, so only the first may be ended.
        self._under_way: dict[object, None] = {}
        self._first_since_s = 0.0

    @contextlib.contextmanager
    def watch(self, until_left: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """End the scripts that the block runs if their client leaves before they are done.

        Args:
            until_left: Returns when the client has left.
        """
        loop, scripts, watching = asyncio.get_running_loop(), object(), list[asyncio.Task[None]]()
        if not self._under_way:
            self._first_since_s = loop.time()
        self._under_way[scripts] = None

        def begin() -> None:
            watching.append(loop.create_task(self._end_when_left(scripts, until_left)))

        timer = loop.call_later(_UNWATCHED_S, begin)
        try:
            yield
        finally:
            timer.cancel()
            for task in watching:
                task.cancel()
            if self._is_first(scripts):
                self._first_since_s = loop.time()
            del self._under_way[scripts]

    async def end_orphan(self) -> None:
        """End the script of a client that left while it waited for more than a script."""
        await asyncio.sleep(_DEAF_S)
        await self._end()

    async def _end_when_left(
        self, scripts: object, until_left: Callable[[], Awaitable[None]]
    ) -> None:
        await until_left()
        _logger.warning("the client of a script has left; the script is ended")
        while True:
            ran_s = asyncio.get_running_loop().time() - self._first_since_s
            if self._is_first(scripts) and ran_s > _DEAF_S:
                await self._end()
            await asyncio.sleep(_AGAIN_S)

    def _is_first(self, scripts: object) -> bool:
        return next(iter(self._under_way)) is scripts

    async def _end(self) -> None:
        with contextlib.suppress(OSError, RedisError):
            await self._end_script()
