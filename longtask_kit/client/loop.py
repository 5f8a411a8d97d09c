"""The kit's own event loop, in a thread of its own, so that a busy cell stops no stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtask_kit.client.door import Backend


def run_loop(loop: asyncio.AbstractEventLoop, backends: list[Backend]) -> None:
    """Run until the loop is stopped; then end what still runs, and close the backends."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        closing = [backend.aclose() for backend in backends]
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(asyncio.gather(*closing, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
