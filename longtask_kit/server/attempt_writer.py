"""What one attempt writes: its text and its end, numbered, until all of it is stored."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StoreError
from longtask_kit.log.events import TEXT_TYPES, Cursor, EventType, Usage, encode_entry, to_json
from longtask_kit.log.record import ANSWER_CHARS, CANCELLED, Append
from longtask_kit.log.text import PairJoiner, make_valid_text
from longtask_kit.server.buffer import MAX_ENTRY_CHARS, Buffer
from longtask_kit.server.stop import CONSEQUENCES, AttemptStopped, Stop
from longtask_kit.stages import tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.server.continuation import Overlap, Past, Standing
    from longtask_kit.server.writer import LogWriter

FIRST_SEQ = 3  # else the begin script wrote `<attempt>-1` (status) and `<attempt>-2` (start)
MAX_FLIGHTS = 8  # flushes under way

_MAX_BUFFER_CHARS = 1_048_576  # then the model stream waits for the flusher
_MAX_HOG_S = 0.005  # a generator over buffered chunks never yields by itself
_SHORT = 60  # entries: lua/compact.lua leaves a log of up to 64 as it is, the submit's among them
_TORN = "torn"  # the store's answer when Redis came back without the entries before

_Last = tuple[list[list[str]], list[str]]  # the last entries, and the record's fields


@dataclass(slots=True, eq=False)
class Flight:
    """A part of a flush that is under way."""

    part: Append
    is_behind: bool  # sent while the part before it had no answer yet
    again: bool = False  # it overtook that one and was refused, or got no answer at all


class AttemptWriter:
    """Writes one attempt's events; made by `LogWriter.open_attempt`.

    Attributes:
        is_open: The log does not say yet whether it starts over or goes on.
        keeps: How another attempt may go on behind what is written; empty: it can't.
        place: Where its source said that it is; empty where that follows from the text.
        waits: For its turn: it has called nobody, so that any other can go on with it.
    """

    def __init__(
        self,
        log_writer: LogWriter,
        task_id: str,
        attempt: int,
        first_seq: int = FIRST_SEQ,
        *,
        past: Past,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.stopped: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._log_writer = log_writer
        self._seq = first_seq
        self._notes: list[_Last] = []  # of a task that waits
        self._pending = Buffer()
        self._pairs: defaultdict[EventType, PairJoiner] = defaultdict(PairJoiner)
        self._last: _Last | None = None
        self._is_released = False
        self._flights: list[Flight] = []  # in the order of their ids
        self._acknowledged = asyncio.Event()
        self._because = ""
        self._brief = ""
        self.is_open, standing = past.is_open, past.standing
        # What is stored holds until it starts over; its source may be long in saying what it does.
        self.keeps = standing.way if self.is_open and standing else ""
        self.place: Mapping[str, Any] = standing.place if self.is_open and standing else {}
        self._place: Mapping[str, Any] | None = None
        self.waits = False
        self._stood: Counter[str] = Counter()  # characters of each kind that are written
        self._has_added = self._has_calls = False
        self._began = self._last_yield = time.monotonic()
        self._spoken_ms = past.spoken_ms
        self.last_flush = time.monotonic()

    async def write(
        self, text: str, type_: EventType = "content", *, overlap: Overlap | None = None
    ) -> None:
        """Take a delta of a kind of text; returns at once unless the buffer is full.

        Args:
            text: The delta; half a surrogate pair at its end waits for the next.
            type_: Of what.
            overlap: What stands and is said again; asked in whole characters, as it is stored.

        Raises:
            AttemptStopped: Somebody cancelled, or another attempt took over; nothing more counts.
            StoreError: Redis was away for too long.
            OverlapDiffersError: What is said again is not what stands.
        """
        self.check_stopped()
        text = self._pairs[type_].feed(text)
        if overlap is not None:
            text = overlap.swallow(type_, text)
        if not text:  # nothing is added: an attempt that only says so would hand on for ever
            return
        if type_ == "content" and len(self._brief) < ANSWER_CHARS:
            self._brief += text[: ANSWER_CHARS - len(self._brief)]
        self._stood[type_] += len(text)
        if not self._has_added:
            self._has_added = True
            tell("first_token", self.task_id, attempt=self.attempt, runMs=self.run_ms)
        for at in range(0, len(text), MAX_ENTRY_CHARS):  # a model may answer in one piece
            await self._take_in(type_, text[at : at + MAX_ENTRY_CHARS])

    async def make_room(self) -> None:
        """Let everybody else on this loop go on, if the source has had it for long."""
        if time.monotonic() - self._last_yield > _MAX_HOG_S:
            await asyncio.sleep(0)
            self._last_yield = time.monotonic()

    async def tell(self, type_: EventType, value: Any, *, name: str | None = None) -> None:  # noqa: ANN401
        """Take an event of JSON, whole; raises as `write` does."""
        self.check_stopped()
        self._has_calls = self._has_calls or type_ == "tool_calls"
        await self._take_in(type_, to_json(value), name)

    async def _take_in(self, type_: EventType, text: str, name: str | None = None) -> None:
        self._pending.add(type_, text, name)
        self._log_writer.wake(self)
        while self._pending.chars > _MAX_BUFFER_CHARS:
            self._acknowledged.clear()
            await self._acknowledged.wait()
            self.check_stopped()

    def note(self, status: str, message: str = "", *, code: str = "") -> None:
        """Tell what the attempt does before it says anything: that it waits, that it goes on."""
        self.check_stopped()
        self._notes.append(_note(status, message, code))
        self._log_writer.wake(self)

    def start_over(self) -> None:
        """Say that the text begins anew, whatever stood."""
        self.is_open, self.keeps, self._place, self._brief = False, "", None, ""
        self.place = {}
        self._stood.clear()
        self._pairs.clear()
        self._pending = Buffer()  # what it was to send counts no more, and would stand behind this
        self._acknowledged.set()
        entry = encode_entry("start", str(self.attempt))
        self._notes.append(([entry], ["keeps", "", "place", ""]))
        self._log_writer.wake(self)

    def go_on(self, standing: Standing) -> None:
        """Say that the text that stands is continued."""
        if self.is_open:
            self.is_open, self.keeps, self.place = False, standing.way, standing.place
            self._brief = standing.text[:ANSWER_CHARS]
            self._stood.update({kind: len(text) for kind, text in standing.texts.items()})
            self._notes.append(([encode_entry("continue", str(standing.cursor))], []))
            self._log_writer.wake(self)

    def keep(self, way: str, place: Mapping[str, Any] | None, *, unsaid: Mapping[str, str]) -> None:
        """Note how another attempt may go on; it is stored with the text so far.

        Args:
            way: How.
            place: Where the source is, if that does not follow from the text.
            unsaid: Of each kind of text, what stands and it has yet to repeat.
        """
        if way != self.keeps:
            self.keeps = way
            self._notes.append(([], ["keeps", way]))
            if place is not None:  # known nowhere else, and text may be a long time coming
                self._log_writer.wake(self)
        if not way:
            self._place, self.place = None, {}
        elif place is not None and not any(pairs.is_waiting for pairs in self._pairs.values()):
            stood = {kind: self._stood[kind] - len(unsaid.get(kind, "")) for kind in TEXT_TYPES}
            self._place, self.place = {"value": place, "stood": stood}, place

    @property
    def has_added(self) -> bool:
        """Whether it has written text of its own."""
        return self._has_added

    @property
    def is_plain(self) -> bool:
        """Whether all it holds is text of the answer."""
        return set(+self._stood) == {"content"} and not self._has_calls

    async def end(
        self,
        *,
        usage: Usage | None,
        finish_reason: str | None,
        prompts: Mapping[int, int] | None = None,
    ) -> None:
        """Mark the task completed; returns once everything is stored."""
        fields = ["status", "completed", "answer", self._brief, *self._count_ms()]
        if usage is not None:
            fields += ["usage", json.dumps(usage.to_wire())]
        if finish_reason is not None:
            fields += ["finish_reason", make_valid_text(finish_reason)]
        if self.place:
            self._place = None
            fields += ["place", ""]
        last = encode_entry("end", "", usage=usage, finish_reason=finish_reason, prompts=prompts)
        await self._finish(([_status("completed"), last], fields))

    async def retry(self, message: str, *, code: str) -> None:
        """Mark the task retrying, and give the lease back for the next delivery."""
        await self._finish(_retrying(message, code), may_go_on=True)

    async def pause(self, message: str, *, code: str, line: str = "") -> None:
        """Mark the task pending, and give the lease back: another delivery goes on with it."""
        entries, fields = _note("pending", message, code)
        await self._finish((entries, [*fields, "continues", "1", "line", line]), may_go_on=True)

    async def hand_over(self, message: str, *, code: str) -> None:
        """Mark the task pending, and give the lease back: another attempt continues this one's."""
        await self._finish(_note("pending", message, code), may_go_on=True)

    async def fail(self, message: str, *, code: str) -> None:
        """Mark the task failed."""
        message = make_valid_text(message)
        fields = ["status", "failed", "error", message, "code", code, *self._count_ms()]
        await self._finish(([_status("failed"), encode_entry("error", message, code=code)], fields))

    async def cancel(self) -> None:
        """Mark the task cancelled."""
        await self._finish(_cancelled())

    @property
    def run_ms(self) -> int:
        """How long it has run, in ms."""
        return round((time.monotonic() - self._began) * 1000)

    def _count_ms(self) -> list[str]:
        # With the attempts before, as its usage counts their tokens, too.
        return ["run_ms", str(self._spoken_ms + self.run_ms)]

    async def _finish(self, last: _Last, *, may_go_on: bool = False) -> None:
        self._end_texts(may_go_on=may_go_on)
        self._last = last
        while self._last is not None:
            self._acknowledged.clear()
            self._log_writer.wake(self)
            await self._acknowledged.wait()
            if self.stopped.done() and CONSEQUENCES[self.stopped.result()].ends_as is None:
                self.check_stopped()

    def _end_texts(self, *, may_go_on: bool) -> None:
        for type_, pairs in self._pairs.items():
            half = pairs.end()
            # Where another attempt may go on, its source says that character again, whole.
            if half and not (may_go_on and self.keeps):
                self._pending.add(type_, half)

    @property
    def cursor(self) -> Cursor:
        """Where its last entry stands."""
        return Cursor(self.attempt, self._seq - 1)

    def take(self) -> Flight | None:
        """Return what to send now; None while that must wait for an answer."""
        if self._flights:
            oldest = self._flights[0]
            if oldest.again:  # only once those before it are stored, else it would be early again
                oldest.again = oldest.is_behind = False
                return oldest
            if not self.has_pending or self._must_wait():
                return None
        return self._take_part()

    def take_rest(self, message: str, *, code: str) -> list[Append]:
        """Return all that may not be stored, with the end it had come to, or else `retrying`."""
        if not self._is_released:
            last = _cancelled() if self.is_cancel_requested else _retrying(message, code)
            self._end_texts(may_go_on=not self.is_cancel_requested)
            self._last = self._last or last
            while not any(flight.part.release for flight in self._flights):
                self._take_part()
        return [flight.part for flight in self._flights]

    def _take_part(self) -> Flight:
        notes, self._notes = self._notes, []
        fields = [part for _, told in notes for part in told]
        entries = [self._number(entry) for told, _ in notes for entry in told]
        entries += [self._number(entry) for entry in self._pending.take()]
        if self._place is not None and not self._pending:  # else it would be ahead of the text
            fields += ["place", json.dumps(self._place)]
            self._place = None
        release = self._last is not None and not self._pending
        if self._last is not None and release:
            last_entries, last_fields = self._last
            fields += last_fields
            entries += [self._number(entry) for entry in last_entries]
        part = Append(
            task_id=self.task_id,
            attempt=self.attempt,
            entries=entries,
            fields=fields,
            release=release,
        )
        flight = Flight(part, is_behind=bool(self._flights))
        self._flights.append(flight)
        return flight

    def _must_wait(self) -> bool:
        return len(self._flights) >= MAX_FLIGHTS or any(
            flight.again or flight.part.release for flight in self._flights
        )

    def settle(self, flight: Flight, answer: str) -> None:
        """Take the store's answer to a part."""
        self.last_flush = time.monotonic()
        if answer == _TORN and flight.is_behind:
            flight.again = True
            return
        self._flights.remove(flight)
        if flight.part.release:
            self._last, self._is_released = None, True
        if answer == _TORN:
            self.stop(Stop.OUTAGE, because="Redis has lost what it had stored of this attempt.")
        elif answer != "ok":
            self.stop(Stop(answer))
        self._acknowledged.set()

    def lose(self, flight: Flight, because: str) -> None:
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
        return bool(
            self._notes or self._pending or self._last or (self._flights and self._flights[0].again)
        )

    @property
    def is_short(self) -> bool:
        """Whether nothing can be gained by compacting the task's log: few entries, all of it."""
        return self.attempt == 1 and self._seq <= _SHORT

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


def _retrying(message: str, code: str) -> _Last:
    message = make_valid_text(message)
    entry = _status("retrying", error=message, code=code)
    return [entry], ["status", "retrying", "error", message, "code", code]


def _note(status: str, message: str, code: str) -> _Last:
    message = make_valid_text(message)
    entry = _status(status, error=message or None, code=code or None)
    return [entry], ["status", status, "error", message, "code", code]


def _cancelled() -> _Last:
    last = encode_entry("cancelled", CANCELLED)
    return [_status("cancelled"), last], ["status", "cancelled"]


def _status(status: str, *, error: str | None = None, code: str | None = None) -> list[str]:
    return encode_entry("status", status, error=error, code=code)
