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
import json
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from longtask_kit.errors import StoreError, StoreRefusedError
from longtask_kit.log.events import Usage, encode_entry
from longtask_kit.log.record import Append
from longtask_kit.log.text import make_valid_text
from longtask_kit.server.stop import CONSEQUENCES, AttemptStopped, Stop

if TYPE_CHECKING:
    from types import TracebackType

    from longtask_kit.log.store import Store

logger = logging.getLogger(__name__)

FIRST_SEQ = 3  # the begin script wrote `<attempt>-1` (status) and `<attempt>-2` (start)

_MAX_ENTRY_CHARS = 65_536  # JavaScript readers give up on a line of 1 MiB
_MAX_BUFFER_CHARS = 1_048_576  # then the model stream waits for the flusher
_MAX_BATCH = 200  # attempts a round trip
_MAX_BATCH_CHARS = 262_144  # of all of them: up to 1 MB, where the smallest plans refuse a request
_OUTAGE_LIMIT_S = 30.0  # Redis away for longer ends the attempt as retryable
# Refusals that stay the same however often the same is sent; any other answer may be an outage.
_FINAL = ("WRONGTYPE", "max request size", "WRONGPASS", "NOPERM")
_MAX_FLIGHTS = 8  # flushes under way
_OVERLAP_S = 0.0025  # a flush that takes longer does not hold up the next
_FEW_WRITERS = 8  # more of them fill a flush anyway, and each flush costs the CPU of a request
# A flush of many tasks puts off the next by this much for each: an entry costs the same CPU in four
# processes, and holds one token or two.
_GATHER_S = 0.0003
_MAX_GATHER_S = 0.04  # less than an eye sees
_MAX_HOG_S = 0.005  # a generator over buffered chunks never yields by itself

_TORN = "torn"  # the store's answer when Redis came back without the entries before
_SHUTDOWN_GRACE_S = 3.0


@dataclass(slots=True, eq=False)
class _Flight:
    """A part of a flush that is under way."""

    part: Append
    is_behind: bool  # sent while the part before it had no answer yet
    again: bool = False  # it overtook that one and was refused, or got no answer at all


class AttemptWriter:
    """Writes one attempt's events; made by `Publisher.open_attempt`."""

    def __init__(self, publisher: Publisher, task_id: str, attempt: int) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.stopped: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._publisher = publisher
        self._seq = FIRST_SEQ
        self._pending: deque[str] = deque()
        self._pending_chars = 0
        self._last: tuple[list[list[str]], list[str]] | None = None  # entries, fields of the end
        self._flights: list[_Flight] = []  # in the order of their ids
        self._acknowledged = asyncio.Event()
        self._because = ""
        self._last_yield = time.monotonic()
        self.last_flush = time.monotonic()

    async def write(self, text: str) -> None:
        """Take a text delta; returns at once unless the buffer is full.

        Raises:
            AttemptStopped: Somebody cancelled, or another attempt took over; nothing more counts.
            StoreError: Redis was away for too long.
        """
        self.check_stopped()
        for at in range(0, len(text), _MAX_ENTRY_CHARS):  # a model may answer in one piece
            piece = text[at : at + _MAX_ENTRY_CHARS]
            self._pending.append(piece)
            self._pending_chars += len(piece)
            self._publisher.wake(self)
            while self._pending_chars > _MAX_BUFFER_CHARS:
                self._acknowledged.clear()
                await self._acknowledged.wait()
                self.check_stopped()
        if time.monotonic() - self._last_yield > _MAX_HOG_S:
            await asyncio.sleep(0)
            self._last_yield = time.monotonic()

    async def end(self, *, usage: Usage | None, finish_reason: str | None) -> None:
        """Mark the task completed; returns once everything is stored."""
        fields = ["status", "completed"]
        if usage is not None:
            fields += ["usage", json.dumps(usage.to_wire())]
        last = encode_entry("end", "", usage=usage, finish_reason=finish_reason)
        await self._finish([_status("completed"), last], fields)

    async def retry(self, message: str, *, code: str) -> None:
        """Mark the task retrying, and give the lease back for the next delivery."""
        message = make_valid_text(message)
        fields = ["status", "retrying", "error", message, "code", code]
        await self._finish([_status("retrying", error=message, code=code)], fields)

    async def fail(self, message: str, *, code: str) -> None:
        """Mark the task failed."""
        message = make_valid_text(message)
        fields = ["status", "failed", "error", message, "code", code]
        await self._finish([_status("failed"), encode_entry("error", message, code=code)], fields)

    async def cancel(self) -> None:
        """Mark the task cancelled."""
        last = encode_entry("cancelled", "cancelled on request")
        await self._finish([_status("cancelled"), last], ["status", "cancelled"])

    async def _finish(self, entries: list[list[str]], fields: list[str]) -> None:
        self._last = (entries, fields)
        while self._last is not None:
            self._acknowledged.clear()
            self._publisher.wake(self)
            await self._acknowledged.wait()
            if self.stopped.done() and CONSEQUENCES[self.stopped.result()].ends_as is None:
                self.check_stopped()

    def take(self) -> _Flight | None:
        """Return what to send now; None while that must wait for an answer."""
        if self._flights:
            oldest = self._flights[0]
            if oldest.again:  # only once those before it are stored, else it would be early again
                oldest.again = oldest.is_behind = False
                return oldest
            if not self.has_pending or self._must_wait():
                return None
        entries = [self._number(entry) for entry in self._take_text()]
        fields: list[str] = []
        release = self._last is not None and not self._pending
        if self._last is not None and release:
            last_entries, fields = self._last
            entries += [self._number(entry) for entry in last_entries]
        part = Append(
            task_id=self.task_id,
            attempt=self.attempt,
            entries=entries,
            fields=fields,
            release=release,
        )
        flight = _Flight(part, is_behind=bool(self._flights))
        self._flights.append(flight)
        return flight

    def _must_wait(self) -> bool:
        return len(self._flights) >= _MAX_FLIGHTS or any(
            flight.again or flight.part.release for flight in self._flights
        )

    def settle(self, flight: _Flight, answer: str) -> None:
        """Take the store's answer to a part."""
        self.last_flush = time.monotonic()
        if answer == _TORN and flight.is_behind:
            flight.again = True
            return
        self._flights.remove(flight)
        if flight.part.release:
            self._last = None
        if answer == _TORN:
            self.stop(Stop.OUTAGE, because="Redis has lost what it had stored of this attempt.")
        elif answer != "ok":
            self.stop(Stop(answer))
        self._acknowledged.set()

    def lose(self, flight: _Flight, because: str) -> None:
        """Take in that a part can't be stored for now."""
        flight.again = True  # should the attempt still have to write its end
        self.stop(Stop.OUTAGE, because=because)

    def stop(self, stop: Stop, *, because: str = "") -> None:
        """Tell whoever writes that the attempt must end."""
        if not self.stopped.done():
            self._because = because
            self.stopped.set_result(stop)
        self._acknowledged.set()

    @property
    def is_cancel_requested(self) -> bool:
        """Whether somebody asked for a cancel."""
        return self.stopped.done() and self.stopped.result() is Stop.CANCEL

    @property
    def has_pending(self) -> bool:
        """Whether something waits for the flusher."""
        return bool(self._pending or self._last or (self._flights and self._flights[0].again))

    def _take_text(self) -> list[list[str]]:
        """Merge pending deltas into one entry, as many as its size limit allows."""
        if not self._pending:
            return []
        chunks: list[str] = []
        size = 0
        while self._pending and (not chunks or size + len(self._pending[0]) <= _MAX_ENTRY_CHARS):
            chunks.append(self._pending.popleft())
            size += len(chunks[-1])
        self._pending_chars -= size
        return [encode_entry("content", "".join(chunks), tokens=len(chunks))]

    def _number(self, fields: list[str]) -> list[str]:
        entry = [f"{self.attempt}-{self._seq}", *fields]
        self._seq += 1
        return entry

    def check_stopped(self) -> None:
        """Raise why the attempt must end, if it must."""
        if not self.stopped.done():
            return
        stop = self.stopped.result()
        if stop is Stop.OUTAGE:
            raise StoreError(f"The text could not be stored: {self._because}")
        raise AttemptStopped(stop)


class Publisher:
    """The one flusher of a process; an async context manager.

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

    def open_attempt(self, task_id: str, attempt: int) -> AttemptWriter:
        """Return the writer of an attempt that holds its lease; `close_attempt` it at the end."""
        writer = AttemptWriter(self, task_id, attempt)
        self._writers.add(writer)
        self._all_closed.clear()
        return writer

    def close_attempt(self, writer: AttemptWriter) -> None:
        """Forget a writer."""
        self._writers.discard(writer)
        self._dirty.pop(writer, None)
        if not self._writers:
            self._all_closed.set()

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
            may_overlap = len(self._flights) < _MAX_FLIGHTS and len(self._writers) <= _FEW_WRITERS
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

    def _take_batch(self) -> list[tuple[AttemptWriter, _Flight]]:
        """Take from whoever has waited longest, until the request is large enough."""
        batch: list[tuple[AttemptWriter, _Flight]] = []
        chars = 0
        while self._dirty and len(batch) < _MAX_BATCH and chars < _MAX_BATCH_CHARS:
            writer = next(iter(self._dirty))
            del self._dirty[writer]
            if flight := writer.take():
                batch.append((writer, flight))
                chars += sum(len(text) for entry in flight.part.entries for text in entry)
        return batch

    async def _flush(self, batch: list[tuple[AttemptWriter, _Flight]]) -> None:
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

    async def _send_alone(self, writer: AttemptWriter, flight: _Flight) -> None:
        try:
            await self._send_parts([(writer, flight)])
        except StoreError as exc:
            logger.warning("task %s: attempt ends as retryable: %s", writer.task_id, exc)
            writer.lose(flight, str(exc))

    async def _send_parts(self, batch: list[tuple[AttemptWriter, _Flight]]) -> None:
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


def _status(status: str, *, error: str | None = None, code: str | None = None) -> list[str]:
    return encode_entry("status", status, error=error, code=code)
