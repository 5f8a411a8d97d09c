"""What a caller sets by hand while messages run: queues and flow control keys.

Stored first, then in force: a restart must not undo what was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from longtask_kit.local.qstash.admission import Admission
from longtask_kit.local.qstash.catalog import Catalog, QueueSettings
from longtask_kit.local.qstash.flow import FlowGate, FlowSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from longtask_kit.local.qstash.message import Message


def now_ms() -> int:
    """Return unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Controls:
    """Queues and flow control keys: what they are set to, and the setting of it."""

    def __init__(self, catalog: Catalog, wake: Callable[[], None]) -> None:
        self.admission = Admission()
        self.queues: dict[str, QueueSettings] = {}
        self._catalog = catalog
        self._wake = wake
        # A setting is read, changed and stored: a message that brings its own must not undo a
        # pause that is being stored.
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Read what is stored, before the first message is let in."""
        self.queues = await self._catalog.queues()
        for name, settings in self.queues.items():
            self._apply(name, settings)
        self.admission.flows = await self._catalog.flows()

    @contextlib.asynccontextmanager
    async def setting_up(self, messages: Sequence[Message]) -> AsyncIterator[None]:
        """Hold the settings still, if messages change them; the most bring nothing new."""
        if not (self.new_queues(messages) or self.new_flows(messages)):
            yield
            return
        async with self._lock:
            yield

    def new_queues(self, messages: Sequence[Message]) -> dict[str, QueueSettings]:
        """Return the queues that messages name and that don't exist yet."""
        time_ms = now_ms()
        names = {message.queue_name for message in messages if message.queue_name is not None}
        return {
            name: QueueSettings(created_at_ms=time_ms, updated_at_ms=time_ms)
            for name in names
            if name not in self.queues
        }

    def new_flows(self, messages: Sequence[Message]) -> dict[str, FlowSettings]:
        """Return the settings that messages change, the last message's for each key."""
        found: dict[str, FlowSettings] = {}
        for message in messages:
            if (key := message.flow_key) is not None:
                gate = self.admission.flows.get(key)
                before = found.get(key) or (gate.settings if gate else FlowSettings())
                found[key] = before.given(message.parallelism, message.rate, message.period_s)
        flows = self.admission.flows
        return {
            key: settings
            for key, settings in found.items()
            if key not in flows or flows[key].settings != settings
        }

    def take_in(
        self, queues: Mapping[str, QueueSettings], flows: Mapping[str, FlowSettings]
    ) -> None:
        """Put in force what was stored with messages."""
        for name, settings in queues.items():
            if name not in self.queues:
                self._apply(name, settings)
        for key, flow in flows.items():
            self.admission.flow(key).settings = flow
            self.admission.open_flow(key, now_ms())

    def queue_view(self, name: str) -> dict[str, Any] | None:
        """Return the answer of `GET /v2/queues/{name}`, None if there is no such queue."""
        settings = self.queues.get(name)
        if settings is None:
            return None
        return {
            "name": name,
            "parallelism": settings.parallelism,
            "createdAt": settings.created_at_ms,
            "updatedAt": settings.updated_at_ms,
            "lag": len(self.admission.lane(name).unfinished),
            "paused": settings.is_paused,
        }

    async def set_queue(
        self, name: str, *, parallelism: int | None = None, is_paused: bool | None = None
    ) -> None:
        """Make or change a queue; what isn't given stays as it is."""
        async with self._lock:
            await self._set_queue(name, parallelism=parallelism, is_paused=is_paused)
        self.admission.open_lane(name, now_ms())
        self._wake()

    async def _set_queue(
        self, name: str, *, parallelism: int | None, is_paused: bool | None
    ) -> None:
        time_ms = now_ms()
        before = self.queues.get(name)
        settings = before or QueueSettings(created_at_ms=time_ms, updated_at_ms=time_ms)
        settings = dataclasses.replace(
            settings,
            parallelism=settings.parallelism if parallelism is None else parallelism,
            is_paused=settings.is_paused if is_paused is None else is_paused,
            updated_at_ms=time_ms,
        )
        await self._catalog.save_queue(name, settings)
        self._apply(name, settings)

    async def delete_queue(self, name: str) -> None:
        """Delete a queue; its messages are cancelled by the caller before."""
        await self._catalog.delete_queue(name)
        self.queues.pop(name, None)
        self.admission.lanes.pop(name, None)

    def _apply(self, name: str, settings: QueueSettings) -> None:
        self.queues[name] = settings
        lane = self.admission.lane(name)
        lane.parallelism, lane.is_paused = settings.parallelism, settings.is_paused

    def flow_view(self, key: str) -> dict[str, Any] | None:
        """Return the answer of `GET /v2/flowControl/{key}`, None if the key is unknown."""
        gate = self.admission.flows.get(key)
        if gate is None:
            return None
        settings = gate.settings
        return {
            "flowControlKey": key,
            "waitListSize": len(gate.waiting),
            "parallelismMax": settings.parallelism or 0,
            "parallelismCount": len(gate.running),
            "rateMax": settings.rate or 0,
            "rateCount": gate.started_at(now_ms()) if settings.rate else 0,
            "ratePeriod": settings.period_s,
            "ratePeriodStart": gate.period_start_ms // 1000,
            "isPaused": settings.is_paused,
            "isPinnedParallelism": settings.is_pinned_parallelism,
            "isPinnedRate": settings.is_pinned_rate,
        }

    async def set_flow(self, key: str, **changes: Any) -> None:  # noqa: ANN401 - FlowSettings'
        """Change a key, made if it is new; `reset_rate=True` begins a new period too."""
        reset_rate = changes.pop("reset_rate", False)
        async with self._lock:
            gate = self.admission.flow(key)
            changed = FlowGate(
                dataclasses.replace(gate.settings, **changes),
                period_start_ms=now_ms() if reset_rate else gate.period_start_ms,
                started=0 if reset_rate else gate.started,
            )
            await self._catalog.save_flow(key, changed)
            gate.settings = changed.settings
        if reset_rate:
            gate.reset_rate(now_ms())
        self.admission.open_flow(key, now_ms())
        self._wake()

    async def forget_idle_flows(self) -> None:
        """Forget keys without anything to do, if there are very many."""
        if keys := self.admission.idle_flow_keys():
            await self._catalog.forget_flows(keys)
            for key in keys:
                if key in self.admission.flows and self.admission.flows[key].is_idle:
                    del self.admission.flows[key]
