"""Which due messages may start now: first their queue decides, then their flow control key.

Nothing here is the truth: it is made from the stored messages at start. One engine owns it, in
one event loop, so that no step needs a lock; and there is no I/O.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longtask_kit.local.qstash.flow import FlowGate, FlowSettings

if TYPE_CHECKING:
    from longtask_kit.local.qstash.message import Message

# Keys can be as many as a caller's users: idle ones are forgotten beyond this number.
FLOW_KEYS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Ticket:
    """What admission has to know of a message.

    Attributes:
        message_id: The message.
        queue: The queue whose slot it needs, or as a callback keeps.
        slot: Whose slot it is: its own, or that of the message it calls back for.
        flow_key: Its flow control key.
    """

    message_id: str
    queue: str | None = None
    slot: str = ""
    flow_key: str | None = None

    @property
    def is_callback(self) -> bool:
        """Whether it only keeps the slot of another message."""
        return self.slot not in ("", self.message_id)

    @property
    def is_free(self) -> bool:
        """Whether neither a queue nor a key can make it wait."""
        return self.queue is None and self.flow_key is None


def ticket_of(message: Message) -> Ticket:
    """Return the ticket of a message."""
    return Ticket(
        message.message_id,
        message.queue_name or message.source_queue,
        message.source_message_id or message.message_id,
        message.flow_key,
    )


class QueueLane:
    """One queue: first come, first served, by so many at one time.

    A slot is taken from a message's first start until it and its callbacks are finished.
    """

    def __init__(self, *, parallelism: int = 1, is_paused: bool = False) -> None:
        self.parallelism = parallelism
        self.is_paused = is_paused
        self.unfinished: set[str] = set()
        self._waiting: dict[str, Ticket] = {}
        self._again: dict[str, Ticket] = {}
        self._slots: dict[str, set[str]] = {}

    def expect(self, ticket: Ticket, *, has_slot: bool) -> None:
        """Count an unfinished message, due or not; after a restart it may have a slot already."""
        if not ticket.is_callback:
            self.unfinished.add(ticket.message_id)
        if has_slot or ticket.is_callback:
            self._slots.setdefault(ticket.slot, set()).add(ticket.message_id)

    def enter(self, ticket: Ticket) -> None:
        """Let a due message wait for its turn."""
        holds = ticket.slot in self._slots
        (self._again if holds else self._waiting)[ticket.message_id] = ticket

    def take_next(self) -> Ticket | None:
        """Take the first that may go on now."""
        for ticket in self._again.values():
            if ticket.is_callback or not self.is_paused:
                del self._again[ticket.message_id]
                return ticket
        if self.is_paused or not self._waiting or len(self._slots) >= self.parallelism:
            return None
        ticket = self._waiting.pop(next(iter(self._waiting)))
        self._slots[ticket.slot] = {ticket.message_id}
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Forget a finished message; the slot is free once the last that kept it has left."""
        self.unfinished.discard(ticket.message_id)
        self._waiting.pop(ticket.message_id, None)
        self._again.pop(ticket.message_id, None)
        keepers = self._slots.get(ticket.slot)
        if keepers is not None:
            keepers.discard(ticket.message_id)
            if not keepers:
                del self._slots[ticket.slot]


class Admission:
    """The gates of all queues and keys, and the line of those that passed them."""

    def __init__(self) -> None:
        self.lanes: dict[str, QueueLane] = {}
        self.flows: dict[str, FlowGate] = {}
        self.ready: collections.deque[str] = collections.deque()
        self._tickets: dict[str, Ticket] = {}

    def lane(self, name: str) -> QueueLane:
        """Return a queue's lane, made if it is new."""
        return self.lanes.setdefault(name, QueueLane())

    def flow(self, key: str) -> FlowGate:
        """Return a key's gate, made if it is new."""
        if key not in self.flows:
            self.flows[key] = FlowGate(FlowSettings())
        return self.flows[key]

    def idle_flow_keys(self) -> list[str]:
        """Return the keys to forget, if there are too many: those without anything to do."""
        if len(self.flows) <= FLOW_KEYS_KEPT:
            return []
        return [key for key, gate in self.flows.items() if gate.is_idle]

    def expect(self, ticket: Ticket, *, has_slot: bool = False) -> None:
        """Count a message that was stored, long before it may be due."""
        self._tickets[ticket.message_id] = ticket
        if ticket.queue is not None:
            self.lane(ticket.queue).expect(ticket, has_slot=has_slot)

    def enter(self, message_id: str, time_ms: int) -> None:
        """Let a message that is due go as far as it may."""
        ticket = self._tickets.get(message_id)
        if ticket is None:
            return
        if ticket.queue is None:
            self._enter_flow(ticket, time_ms)
        else:
            self.lane(ticket.queue).enter(ticket)
            self.open_lane(ticket.queue, time_ms)

    def finish_attempt(self, message_id: str, time_ms: int) -> None:
        """Free what an attempt took of its key, at its end."""
        ticket = self._tickets.get(message_id)
        if ticket is not None and ticket.flow_key is not None:
            self.flow(ticket.flow_key).leave(message_id)
            self.open_flow(ticket.flow_key, time_ms)

    def leave(self, message_id: str, time_ms: int) -> None:
        """Forget a message that is finished, wherever it stands."""
        ticket = self._tickets.pop(message_id, None)
        if ticket is None:
            return
        if ticket.flow_key is not None:
            self.flow(ticket.flow_key).leave(message_id)
            self.open_flow(ticket.flow_key, time_ms)
        if ticket.queue is not None:
            self.lane(ticket.queue).leave(ticket)
            self.open_lane(ticket.queue, time_ms)

    def open_lane(self, name: str, time_ms: int) -> None:
        """Let through whom a queue lets through now."""
        lane = self.lane(name)
        while (ticket := lane.take_next()) is not None:
            self._enter_flow(ticket, time_ms)

    def open_flow(self, key: str, time_ms: int) -> None:
        """Let through whom a key lets through now."""
        gate = self.flow(key)
        while (message_id := gate.start_next(time_ms)) is not None:
            self.ready.append(message_id)

    def open_waiting_flows(self, time_ms: int) -> int | None:
        """Open the keys whose period has ended; return when the next one ends, in unix ms."""
        soonest = None
        for key, gate in self.flows.items():
            wake_ms = gate.wake_ms()
            if wake_ms is not None and wake_ms <= time_ms:
                self.open_flow(key, time_ms)
                wake_ms = gate.wake_ms()
            if wake_ms is not None and (soonest is None or wake_ms < soonest):
                soonest = wake_ms
        return soonest

    def _enter_flow(self, ticket: Ticket, time_ms: int) -> None:
        if ticket.flow_key is None:
            self.ready.append(ticket.message_id)
            return
        self.flow(ticket.flow_key).waiting[ticket.message_id] = None
        self.open_flow(ticket.flow_key, time_ms)
