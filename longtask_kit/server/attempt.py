"""One delivery of a task: lease an attempt, compose run and publish, answer in QStash's terms."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from longtask_kit.errors import (
    ConfigError,
    NonRetryableError,
    RetryableError,
    StoreError,
    SubmitError,
)
from longtask_kit.log.record import Begun, Busy, CancelPending, Done, Gone
from longtask_kit.log.text import make_valid_text
from longtask_kit.server.handlers import Handler, Outcome, TaskContext
from longtask_kit.server.stop import CONSEQUENCES, AttemptStopped, Stop
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from longtask_kit.log.store import Store
    from longtask_kit.server.writer import AttemptWriter, Publisher

logger = logging.getLogger(__name__)

_SHUTDOWN_GRACE_S = 2.0
_NO_OUTCOME = Outcome()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the webhook tells the queue."""

    status_code: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended."""

    kind: Literal["end", "retry", "fail", "cancel"]
    message: str = ""
    code: str = ""
    retry_after_s: float | None = None
    outcome: Outcome = _NO_OUTCOME


async def run_delivery(
    task_id: str,
    *,
    delivery_id: str,
    store: Store,
    publisher: Publisher,
    handlers: Mapping[str, Handler],
) -> Answer:
    """Run a task's next attempt, or say why not.

    Args:
        task_id: The task.
        delivery_id: The queue's message id, the same on every redelivery.
        store: Where its record is.
        publisher: Where its text goes.
        handlers: By name; the task's spec says which.

    Returns:
        The answer of the table in README, "What the webhook answers".

    Raises:
        StoreError: Redis did not answer before anything began.
    """
    # Lease before model call: two deliveries at once would otherwise both pay for the model.
    match await store.begin(task_id, delivery_id=delivery_id):
        case Begun(attempt, wire):
            answer = await _run_attempt(
                task_id, attempt, wire, store=store, publisher=publisher, handlers=handlers
            )
        case Busy(left_s):
            answer = busy(task_id, left_s)
        case Done(status):
            answer = Answer(200, {"taskId": task_id, "status": status})
        case CancelPending():
            answer = await _settle_cancelled(task_id, store)
        case Gone():
            answer = refuse("This task is not recorded (any more); submit it again.", task_id)
    if answer.status_code < 500:  # no further delivery: the task has ended, also in an earlier one
        await _compact(task_id, store)
    return answer


def busy(task_id: str, left_s: float) -> Answer:
    """Answer a delivery while another attempt runs: come back when its lease could be over."""
    headers = {"Retry-After": str(max(1, math.ceil(left_s)))}
    return Answer(503, {"taskId": task_id, "error": "Another delivery runs this task."}, headers)


def refuse(message: str, task_id: str | None = None) -> Answer:
    """Answer a delivery that no retry can help: it goes to the dead letters."""
    body = {"error": message} | ({"taskId": task_id} if task_id else {})
    return Answer(489, body, {"Upstash-NonRetryable-Error": "true"})


def ending_for(exc: BaseException) -> Ending:
    """Tell how an attempt ends that its handler left with this exception."""
    match exc:
        case RetryableError():
            return Ending(
                kind="retry", message=str(exc), code=exc.code, retry_after_s=exc.retry_after_s
            )
        case NonRetryableError():
            return Ending(kind="fail", message=str(exc), code=exc.code)
        case ConfigError():
            return Ending(kind="fail", message=str(exc), code="config")
        case asyncio.CancelledError():
            return Ending(kind="retry", message="The server was shut down.", code="shutdown")
        case _:
            message = make_valid_text(f"The handler raised {type(exc).__name__}: {str(exc)[:500]}")
            return Ending(kind="retry", message=message, code="handler_error")


def _ending_for_stop(stop: AttemptStopped) -> Ending:
    match CONSEQUENCES[stop.stop].ends_as:
        case "cancel":
            return Ending(kind="cancel")
        case "retry":
            return ending_for(asyncio.CancelledError())
        case None:
            raise stop


def answer_for(task_id: str, ending: Ending) -> Answer:
    """Tell the queue how an attempt ended."""
    match ending.kind:
        case "end":
            return Answer(200, {"taskId": task_id, "status": "completed"})
        case "cancel":
            return Answer(200, {"taskId": task_id, "status": "cancelled"})
        case "fail":
            return refuse(ending.message, task_id)
        case "retry":
            headers = {}
            wait_s = ending.retry_after_s
            if wait_s is not None and math.isfinite(wait_s) and wait_s >= 0:
                headers["Retry-After"] = str(math.ceil(wait_s))
            return Answer(500, {"taskId": task_id, "error": ending.message}, headers)


async def _run_attempt(
    task_id: str,
    attempt: int,
    wire: dict[str, Any],
    *,
    store: Store,
    publisher: Publisher,
    handlers: Mapping[str, Handler],
) -> Answer:
    writer = publisher.open_attempt(task_id, attempt)
    try:
        ending = await _run_handler(wire, writer, handlers)
        await _write_ending(ending, writer)
        if ending.kind == "retry" and writer.is_cancel_requested:
            return await _settle_cancelled(task_id, store)
        return answer_for(task_id, ending)
    except AttemptStopped as stop:
        logger.info("task %s: attempt %d stopped: %s", task_id, attempt, stop)
        return refuse("Deleted.", task_id) if stop.stop is Stop.GONE else busy(task_id, 0)
    except StoreError as exc:
        logger.warning("task %s: attempt %d lost its store: %s", task_id, attempt, exc)
        return Answer(503, {"taskId": task_id, "error": str(exc)})
    except asyncio.CancelledError as exc:
        # Give the lease back, so that the redelivery need not wait for it to run out.
        with contextlib.suppress(AttemptStopped, StoreError, TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_GRACE_S):
                await _write_ending(ending_for(exc), writer)
        raise
    finally:
        publisher.close_attempt(writer)


async def _run_handler(
    wire: dict[str, Any], writer: AttemptWriter, handlers: Mapping[str, Handler]
) -> Ending:
    """Run the handler into the writer; whatever it raises becomes an ending."""
    try:
        spec = TaskSpec.from_wire(wire)
    except SubmitError as exc:
        return Ending(kind="fail", message=str(exc), code="bad_request")
    try:
        handler = _pick_handler(spec.handler, handlers)
        context = TaskContext(task_id=writer.task_id, attempt=writer.attempt, spec=spec)
        outcome = await _pump_until_stopped(handler(context), writer)
    except AttemptStopped as stop:
        return _ending_for_stop(stop)
    except StoreError:
        raise
    except Exception as exc:
        ending = ending_for(exc)
        if ending.code == "handler_error":
            logger.exception("task %s: the handler failed", writer.task_id)
        return ending
    return Ending(kind="end", outcome=outcome)


def _pick_handler(name: str, handlers: Mapping[str, Handler]) -> Handler:
    if name not in handlers:
        known = ", ".join(sorted(handlers))
        raise NonRetryableError(
            f"No handler {name[:80]!r} on this server: it has {known}.", code="unknown_handler"
        )
    return handlers[name]


async def _pump_until_stopped(
    stream: AsyncIterator[str | Outcome], writer: AttemptWriter
) -> Outcome:
    """Pump until the stream ends or the store says stop; a silent model must not delay a stop."""
    pump = asyncio.create_task(_pump(stream, writer))
    try:
        awaited: set[asyncio.Future[Any]] = {pump, writer.stopped}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if not pump.done():
            writer.check_stopped()
    finally:
        pump.cancel()
        await asyncio.wait({pump})  # not gather: a second cancel must not cut its closing short
    return pump.result()


async def _pump(stream: AsyncIterator[str | Outcome], writer: AttemptWriter) -> Outcome:
    outcome = Outcome()
    generator = cast("AsyncGenerator[str | Outcome]", stream)
    async with contextlib.aclosing(generator):
        async for item in generator:
            if isinstance(item, Outcome):
                outcome = item
            elif isinstance(item, str):
                await writer.write(item)
            else:
                raise NonRetryableError(
                    f"The handler yielded {type(item).__name__}: expected text.",
                    code="handler_type",
                )
    return outcome


async def _write_ending(ending: Ending, writer: AttemptWriter) -> None:
    match ending.kind:
        case "end":
            outcome = ending.outcome
            await writer.end(usage=outcome.usage, finish_reason=outcome.finish_reason)
        case "retry":
            await writer.retry(ending.message, code=ending.code)
        case "fail":
            await writer.fail(ending.message, code=ending.code)
        case "cancel":
            await writer.cancel()


async def _compact(task_id: str, store: Store) -> None:
    """Make the log smaller if it can be; its readers have the end by now, and the answer stands."""
    try:
        await store.compact(task_id)
    except StoreError as exc:
        logger.warning("task %s: its log stays as large as it is: %s", task_id, exc)


async def _settle_cancelled(task_id: str, store: Store) -> Answer:
    match await store.settle(task_id, "cancelled", reason="cancelled on request"):
        case Busy(left_s):
            return busy(task_id, left_s)
        case _:
            return Answer(200, {"taskId": task_id, "status": "cancelled"})
