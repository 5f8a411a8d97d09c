"""Deliveries of a task to the built-in handler, one by one, without a queue."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from starlette.types import ASGIApp

import longtask_kit as lt
from longtask_kit.log.events import START, TaskEvent
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.store import Store
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.attempt import Answer
from longtask_kit.server.openai import OpenAIHandler
from longtask_kit.server.writer import LogWriter
from tests.delivery import deliver
from tests.serving import serve

_Model = TypeVar("_Model", bound=ASGIApp)


@dataclass
class Deliveries(Generic[_Model]):
    """A model service, and what delivers tasks to the handler that asks it.

    Attributes:
        wire: What a task asks that says nothing else.
        answers: What was answered to each delivery.
    """

    model: _Model
    store: Store
    handler: OpenAIHandler
    wire: dict[str, Any]
    answers: list[Answer] = field(default_factory=list)

    async def begin(self, **changes: Any) -> str:  # noqa: ANN401
        """Record a task."""
        task_id = new_task_id()
        await self.store.create(task_id, self.wire | changes)
        return task_id

    async def read_text(self, task_id: str) -> str:
        """Return what stands of a task."""
        return fold(await self.store.read_log(task_id, after=START)).text

    async def deliver(
        self,
        task_id: str,
        *,
        drains_at: str = "",
        drains_in_s: float = 0.0,
        max_duration_s: float | None = None,
    ) -> list[TaskEvent]:
        """Run a delivery, and return all events.

        Its process is told to end when some text is there, or some time is over.
        """

        async def drain(log_writer: LogWriter) -> None:
            await asyncio.sleep(drains_in_s)
            while drains_at not in await self.read_text(task_id):  # noqa: ASYNC110 - in Redis
                await asyncio.sleep(0.01)
            log_writer.drain()

        beside = drain if drains_at or drains_in_s else None
        handlers = {"openai": self.handler}
        answer = await deliver(
            self.store, task_id, handlers, beside=beside, max_duration_s=max_duration_s
        )
        self.answers.append(answer)
        return await self.store.read_log(task_id, after=START)


@contextlib.asynccontextmanager
async def open_deliveries(
    settings: lt.Settings, model: _Model, wire: dict[str, Any]
) -> AsyncIterator[Deliveries[_Model]]:
    """Serve a model, and yield what delivers tasks to the handler that asks it."""
    async with contextlib.AsyncExitStack() as stack:
        url = stack.enter_context(serve(model))
        own = lt.Settings(openai_base_url=f"{url}/v1", openai_api_key="key", _env_file=None)
        store, handler = Store.open(settings), OpenAIHandler(own)
        stack.push_async_callback(store.aclose)
        stack.push_async_callback(handler.aclose)
        yield Deliveries(model, store, handler, wire)


def fold(events: list[TaskEvent]) -> Transcript:
    """Return what these events come to."""
    state = Transcript()
    for event in events:
        state.apply(event)
    return state
