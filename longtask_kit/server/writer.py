"""The batching writer: log entry and news in one atomic round trip, the model never slowed.

Text deltas go to an in-memory buffer. One flusher a process takes *everything pending* of all its
attempts and sends it in one round trip while the next deltas gather: an idle stream waits for
nothing, a fast one batches by itself. Where Redis is far away, a few flushes are under way at once.
Their connections keep no order, but the append script does: it refuses what overtook the flush
before it, which is then sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Self

from longtask_kit.errors import StoreError, StoreRefusedError
from longtask_kit.server.attempt_writer import FIRST_SEQ, MAX_FLIGHTS, AttemptWriter, Flight
from longtask_kit.server.continuation import Past
from longtask_kit.server.duration import can_be_continued
from longtask_kit.server.stop import Stop

if TYPE_CHECKING:
    from types import TracebackType

    from longtask_kit.log.record import Append
    from longtask_kit.log.store import Store

logger = logging.getLogger(__name__)

_MAX_BATCH = 200  # attempts a round trip
_MAX_BATCH_CHARS = 262_144  # of all of them: up to 1 MB, where the smallest plans refuse a request
_OUTAGE_LIMIT_S = 30.0  # Redis away for longer ends the attempt as retryable
# Refusals that stay the same however often the same is sent; any other answer may be an outage.
_FINAL = ("WRONGTYPE", "max request size", "WRONGPASS", "NOPERM")
_OVERLAP_S = 0.0025  # a flush that takes longer does not hold up the next
_FEW_WRITERS = 8  # more of them fill a flush anyway, and each flush costs the CPU of a request
# A flush of many tasks puts off the next by this much for each: an entry costs the same CPU in four
# processes, and holds one token or two.
_GATHER_S = 0.0003
_MAX_GATHER_S = 0.04  # less than an eye sees

_NO_PAST = Past()
_SHUTDOWN_GRACE_S = 8.0  # what attempt.py gives a handler to end, and the writing of its end


class LogWriter:
    """Writes the log of every attempt of a process, by one flusher; an async context manager.

    Args:
        store: Where the log is.
        min_flush_interval_s: Least time between two round trips, >= 0; trades latency for cost.
        heartbeat_s: A silent attempt renews its lease and looks for a cancel this often.
    """

    def __init__(self, store: Store, *, min_flush_interval_s: float, heartbeat_s: float) -> None:
        self._store = store
        self._min_flush_interval_s = min_flush_interval_s
        self._heartbeat_s = heartbeat_s
        self._writers: set[AttemptWriter] = set()
        self._dirty: dict[AttemptWriter, None] = {}  # ordered: first come, first flushed
        self._woken = asyncio.Event()
        self._is_draining = False
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._flusher: asyncio.Task[None] | None = None
        self._flights: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._flusher = asyncio.create_task(self._flush_for_ever(), name="longtask-flusher")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._flusher is not None  # noqa: S101 - entered before
        # Attempts under way give their lease back, so that the redelivery finds it free at once.
        for writer in self._writers:
            writer.stop(Stop.SHUTDOWN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_GRACE_S):
                await self._all_closed.wait()
        tasks = [self._flusher, *self._flights]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def open_attempt(
        self, task_id: str, attempt: int, *, first_seq: int = FIRST_SEQ, past: Past = _NO_PAST
    ) -> AttemptWriter:
        """Return the writer of an attempt that holds its lease; `close_attempt` it at the end."""
        writer = AttemptWriter(self, task_id, attempt, first_seq, past=past)
        self._writers.add(writer)
        self._all_closed.clear()
        return writer

    def close_attempt(self, writer: AttemptWriter) -> None:
        """Forget a writer."""
        self._writers.discard(writer)
        self._dirty.pop(writer, None)
        if not self._writers:
            self._all_closed.set()

    async def give_back(self, writer: AttemptWriter, message: str, *, code: str) -> None:
        """Store what is left of an attempt, past the flusher, which a server's end may have ended.

        What the flusher sends as well is refused by its ids.
        """
        try:
            for part in writer.take_rest(message, code=code):
                await self._store.append([part])
        except StoreError as exc:
            logger.warning("task %s: its lease has to run out: %s", writer.task_id, exc)

    def drain(self) -> None:
        """Have attempts that can be continued elsewhere stop and hand on, now or once they can."""
        self._is_draining = True
        for writer in self._writers:
            if writer.waits or can_be_continued(writer):
                writer.stop(Stop.DRAIN)

    def wake(self, writer: AttemptWriter) -> None:
        """Have a writer's pending part flushed as soon as the flush under way is back."""
        self._dirty[writer] = None
        self._woken.set()

    async def _flush_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s / 2):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            if self._is_draining:
                self.drain()
            self._mark_silent_writers()
            if batch := self._take_batch():
                self._flights.add(asyncio.create_task(self._flush(batch)))
                gather_s = min(len(batch) * _GATHER_S, _MAX_GATHER_S)
                await asyncio.sleep(max(self._min_flush_interval_s, gather_s))
                await self._wait_for_turn()
            if self._dirty:  # more than one batch was waiting
                self._woken.set()

    async def _wait_for_turn(self) -> None:
        """Return when the next flush may start: at once if all before are back."""
        while self._flights:
            may_overlap = len(self._flights) < MAX_FLIGHTS and len(self._writers) <= _FEW_WRITERS
            back, _ = await asyncio.wait(
                self._flights,
                timeout=_OVERLAP_S if may_overlap else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            self._flights -= back
            if may_overlap:
                return

    def _mark_silent_writers(self) -> None:
        due = time.monotonic() - self._heartbeat_s
        self._dirty |= dict.fromkeys(w for w in self._writers if w.last_flush < due)

    def _take_batch(self) -> list[tuple[AttemptWriter, Flight]]:
        """Take from whoever has waited longest, until the request is large enough."""
        batch: list[tuple[AttemptWriter, Flight]] = []
        chars = 0
        while self._dirty and len(batch) < _MAX_BATCH and chars < _MAX_BATCH_CHARS:
            writer = next(iter(self._dirty))
            del self._dirty[writer]
            if flight := writer.take():
                batch.append((writer, flight))
                chars += sum(len(text) for entry in flight.part.entries for text in entry)
        return batch

    async def _flush(self, batch: list[tuple[AttemptWriter, Flight]]) -> None:
        """Send one batch until it is answered."""
        try:
            await self._send_parts(batch)
        except StoreRefusedError:
            for writer, flight in batch:  # one part must not hold up the others
                await self._send_alone(writer, flight)
        except Exception as exc:  # a flush that ends silently would hang every attempt in it
            logger.exception("Redis stayed away; %d attempts end as retryable", len(batch))
            for writer, flight in batch:
                writer.lose(flight, str(exc))

    async def _send_alone(self, writer: AttemptWriter, flight: Flight) -> None:
        try:
            await self._send_parts([(writer, flight)])
        except StoreError as exc:
            logger.warning("task %s: attempt ends as retryable: %s", writer.task_id, exc)
            writer.lose(flight, str(exc))

    async def _send_parts(self, batch: list[tuple[AttemptWriter, Flight]]) -> None:
        answers = await self._send([flight.part for _, flight in batch])
        for (writer, flight), answer in zip(batch, answers, strict=True):
            writer.settle(flight, answer)
            if writer.has_pending and writer in self._writers:
                self.wake(writer)

    async def _send(self, batch: list[Append]) -> list[str]:
        give_up_at = time.monotonic() + _OUTAGE_LIMIT_S
        delay_s = 0.05
        while True:
            try:
                return await self._store.append(batch)
            except StoreError as exc:
                # The ids make sending it again safe, even when only the answer was lost.
                if _is_final(exc) or time.monotonic() + delay_s > give_up_at:
                    raise
                logger.warning("append failed, trying again in %.2f s: %s", delay_s, exc)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 2.0)


def _is_final(exc: StoreError) -> bool:
    """Tell whether sending the same again would get the same refusal."""
    return isinstance(exc, StoreRefusedError) and any(word in str(exc) for word in _FINAL)
