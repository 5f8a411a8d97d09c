"""An attempt ends before its host ends it: it is handed on where it can be continued, else failed.

A drain is the same, at once: a process that is told to end hands on what it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from typing import TYPE_CHECKING

from longtask_kit.errors import LongTaskError
from longtask_kit.server.continuation import OWN
from longtask_kit.server.openai_continue import IDS, RAW, TEXT, UNKNOWN
from longtask_kit.server.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from longtask_kit.server.attempt_writer import AttemptWriter
    from longtask_kit.server.handlers import Handler
    from longtask_kit.submit.spec import TaskSpec

UNSET_S = 14 * 60.0
"""For what can be continued, where nobody says: QStash's free plan ends a delivery after 15 min."""

_MOST_MARGIN_S = 10.0


async def end_in_time(
    writer: AttemptWriter, handler: Handler | None, spec: TaskSpec, *, limit_s: float | None
) -> None:
    """Stop an attempt shortly before its time is over; to be cancelled when it ends before.

    Args:
        writer: Its own.
        handler: What runs; asked whether its service can continue, where that is not known.
        spec: Its task's.
        limit_s: How long the host lets a request run, in seconds; None: nobody says.
    """
    limit = UNSET_S if limit_s is None else limit_s
    margin_s = min(_MOST_MARGIN_S, limit / 10)
    await asyncio.sleep(limit - margin_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(margin_s / 2):
            if await _may_go_on(writer, handler, spec):
                writer.stop(Stop.LIMIT)
                return
    if limit_s is not None:
        await asyncio.sleep(margin_s / 4)
        writer.stop(Stop.TOO_LONG)


async def _may_go_on(writer: AttemptWriter, handler: Handler | None, spec: TaskSpec) -> bool:
    """Tell whether another attempt could; not of one that has added nothing, or it never ends."""
    if can_be_continued(writer):
        return writer.has_added or (writer.keeps != IDS and bool(writer.place))
    ask = getattr(handler, "can_continue", None)
    if writer.keeps != UNKNOWN or not (writer.is_plain and writer.has_added) or ask is None:
        return False
    try:
        return bool(await ask(spec))
    except LongTaskError:
        return False


def can_be_continued(writer: AttemptWriter) -> bool:
    """Tell whether what an attempt has written so far is known to be no loss."""
    if writer.keeps in (RAW, IDS, TEXT):
        return writer.is_plain and (writer.keeps != IDS or bool(writer.place))
    return bool(writer.place) or (writer.keeps == OWN and not writer.is_open)


@contextlib.contextmanager
def hearing_sigterm(call: Callable[[], None]) -> Iterator[None]:
    """Have something called on this loop when the process is told to end, beside whoever hears it.

    A server that ends waits for its requests first, and tells the app of it last.
    """
    former = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(former):
        yield
        return
    loop, pass_on = asyncio.get_running_loop(), former

    def hear(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(call)
        pass_on(number, frame)

    signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is hear:
            signal.signal(signal.SIGTERM, former)
