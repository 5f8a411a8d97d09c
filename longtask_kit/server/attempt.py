"""One delivery of a task: lease an attempt, run it into the log, answer in QStash's terms."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import LongTaskError, StoreError, SubmitError
from longtask_kit.log.events import START
from longtask_kit.log.record import CANCELLED, Begun, Busy, CancelPending, Done, Gone, Late
from longtask_kit.log.waiting import TOO_LATE
from longtask_kit.server.continuation import OWN, Past, let_continue, read_past
from longtask_kit.server.duration import end_in_time
from longtask_kit.server.ending import (
    HANDED_ON,
    OUT_OF_TIME,
    SHUTDOWN,
    TOO_LONG,
    Ending,
    fail_at_once,
)
from longtask_kit.server.hand_on import hand_on
from longtask_kit.server.handlers import Handler, TaskContext, find_declaration
from longtask_kit.server.pump import outlast, run_handler, start_hidden
from longtask_kit.server.stop import CONSEQUENCES, AttemptStopped, Stop
from longtask_kit.stages import tell, tell_delivery
from longtask_kit.submit.spec import TaskSpec
from longtask_kit.traces import note_attempt

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from longtask_kit.log.store import Store
    from longtask_kit.server.attempt_writer import AttemptWriter
    from longtask_kit.server.limiter import Limiter
    from longtask_kit.server.writer import LogWriter
    from longtask_kit.submit.queue import Queue

logger = logging.getLogger(__name__)

_SHUTDOWN_GRACE_S = 2.0
_CANCEL_S = 5.0
_HANDLER_GRACE_S = 5.0  # writer.py waits for both at an app's end


@dataclass(frozen=True, slots=True)
class Answer:
    """What the webhook tells the queue."""

    status_code: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


async def run_delivery(
    task_id: str,
    *,
    delivery_id: str,
    arrived: float | None = None,
    store: Store,
    log_writer: LogWriter,
    handlers: Mapping[str, Handler],
    grace_s: float = _HANDLER_GRACE_S,
    fail_fast: bool = False,
    limiter: Limiter | None = None,
    queue: Queue | None = None,
    max_duration_s: float | None = None,
) -> Answer:
    """Run a task's next attempt, or say why not.

    Args:
        task_id: The task.
        delivery_id: The queue's message id, the same on every redelivery.
        arrived: When it came, on this process' monotonic clock; its log says so.
        store: Where its record is.
        log_writer: Where its text goes.
        handlers: By name; the task's spec says which.
        grace_s: How long a handler may take to end once it was cancelled, in seconds, >= 0.
        fail_fast: As `create_app` was told.
        limiter: Asked before each call of a model; None where there is no limit.
        queue: Where a task that waits for long, or is continued later, is handed on.
        max_duration_s: How long the host lets a delivery run, in seconds; None where nobody says.

    Returns:
        The answer of the table in README, "What the webhook answers".

    Raises:
        StoreError: Redis did not answer before anything began.
    """
    # Lease before model call: two deliveries at once would otherwise both pay for the model.
    waited_s = None if arrived is None else time.monotonic() - arrived
    tell_delivery(task_id, delivery_id)
    match await store.begin(task_id, delivery_id=delivery_id, waited_s=waited_s):
        case Begun(attempt, _, left_s, first_seq) as begun:
            tell("attempt", task_id, attempt=attempt, message_id=delivery_id)
            past = await _read_past(begun, task_id, store)
            writer = log_writer.open_attempt(task_id, attempt, first_seq=first_seq, past=past)
            clock = asyncio.get_running_loop()
            alarm = left_s and clock.call_later(left_s, writer.stop, Stop.TIMEOUT)
            try:
                run = _run(
                    *(begun, writer, handlers, limiter, past),
                    max_duration_s=max_duration_s,
                    grace_s=grace_s,
                    fail_fast=fail_fast,
                )
                ended = await _run_attempt(writer, run, store)
            except asyncio.CancelledError:
                await _give_back(writer, log_writer)
                raise
            finally:
                if alarm:
                    alarm.cancel()
                log_writer.close_attempt(writer)
            if isinstance(ended, Answer):
                if writer.is_short:
                    return ended
                answer = ended
            else:
                return await _hand_over(
                    ended, begun, writer, delivery_id=delivery_id, store=store, queue=queue
                )
        case Busy(left_s):
            answer = busy(task_id, left_s)
        case Done(status):
            answer = Answer(200, {"taskId": task_id, "status": status})
        case CancelPending(place):
            await _cancel_left(task_id, place, store, handlers)
            answer = await _settle_cancelled(task_id, store)
        case Late():
            answer = await _settle_late(task_id, store)
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


def _ending_for_stop(stop: AttemptStopped) -> Ending:
    match CONSEQUENCES[stop.stop].ends_as:
        case "cancel":
            return Ending(kind="cancel")
        case "retry":
            return SHUTDOWN
        case "fail":
            return TOO_LONG if stop.stop is Stop.TOO_LONG else OUT_OF_TIME
        case "hand_on":
            return HANDED_ON[stop.stop]
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
        case _:
            headers = {}
            wait_s = ending.retry_after_s
            if wait_s is not None and math.isfinite(wait_s) and wait_s >= 0:
                headers["Retry-After"] = str(math.ceil(wait_s))
            return Answer(500, {"taskId": task_id, "error": ending.message}, headers)


async def _read_past(begun: Begun, task_id: str, store: Store) -> Past:
    if begun.attempt == 1 and not begun.keeps:
        return Past()
    # All who wrote before are fenced by now: what is read is all there will be.
    try:
        events = await store.read_log(task_id, after=START)
    except StoreError:
        if begun.keeps:
            raise
        return Past()  # it would only say what was paid before
    return read_past(events, attempt=begun.attempt, way=begun.keeps, place=begun.place)


async def _run_attempt(
    writer: AttemptWriter, run: Coroutine[Any, Any, Ending], store: Store
) -> Answer | Ending:
    """Return the answer, or the ending of an attempt that another delivery goes on with."""
    task_id = writer.task_id
    try:
        ending = await run
        await _write_ending(ending, writer)
        if ending.kind in ("retry", "wait", "park") and writer.is_cancel_requested:
            return await _settle_cancelled(task_id, store)
        if ending.kind in ("wait", "park", "hand_on"):
            return ending
        return answer_for(task_id, ending)
    except AttemptStopped as stop:
        logger.info("task %s: attempt %d stopped: %s", task_id, writer.attempt, stop)
        return refuse("Deleted.", task_id) if stop.stop is Stop.GONE else busy(task_id, 0)
    except StoreError as exc:
        logger.warning("task %s: attempt %d lost its store: %s", task_id, writer.attempt, exc)
        return Answer(503, {"taskId": task_id, "error": str(exc)})


async def _hand_over(
    ending: Ending,
    begun: Begun,
    writer: AttemptWriter,
    *,
    delivery_id: str,
    store: Store,
    queue: Queue | None,
) -> Answer:
    """Have another message go on with a task that waits or is continued; a parked one has none."""
    task_id = writer.task_id
    try:
        if ending.kind == "park":
            await store.set_message_id(task_id, "", handed=delivery_id)
        elif queue is not None:
            await hand_on(
                task_id,
                cursor=writer.cursor,
                delivery_id=delivery_id,
                delay_s=0.0 if ending.kind == "hand_on" else ending.retry_after_s or 1.0,
                brief=begun.brief,
                store=store,
                queue=queue,
            )
        else:
            return answer_for(task_id, replace(ending, kind="retry"))
    except (SubmitError, StoreError) as exc:
        logger.warning("task %s was not handed on, so this delivery comes again: %s", task_id, exc)
        return answer_for(task_id, replace(ending, kind="retry"))
    return Answer(200, {"taskId": task_id, "status": "pending"})


async def _give_back(writer: AttemptWriter, log_writer: LogWriter) -> None:
    """Free the lease at a server's end, so that the redelivery need not wait for it to run out."""
    giving = start_hidden(log_writer.give_back(writer, SHUTDOWN.message, code=SHUTDOWN.code))
    try:
        await outlast(giving, limit_s=_SHUTDOWN_GRACE_S)
    finally:
        giving.cancel()


async def _run(
    begun: Begun,
    writer: AttemptWriter,
    handlers: Mapping[str, Handler],
    limiter: Limiter | None,
    past: Past,
    *,
    max_duration_s: float | None,
    grace_s: float,
    fail_fast: bool,
) -> Ending:
    """Run what is recorded into the writer; whatever is wrong with it becomes an ending."""
    try:
        spec = TaskSpec.from_wire(begun.wire)
    except SubmitError as exc:
        return Ending(kind="fail", message=str(exc), code="bad_request")
    if spec.handler not in handlers:
        known = ", ".join(sorted(handlers))
        name = spec.handler[:80]
        message = (
            f"No handler {name!r} on this server: it has {known}. Bring it by "
            f"kit.serve({{{name!r}: …}}) or create_app(handlers=…)."
        )
        return Ending(kind="fail", message=message, code="unknown_handler")
    own, standing = handlers[spec.handler], past.standing
    goes_on = standing is not None and standing.way == OWN and find_declaration(own).continues
    handler = let_continue(own)
    context = TaskContext(
        task_id=writer.task_id,
        attempt=writer.attempt,
        spec=spec,
        text=standing.text if standing and goes_on else "",
        standing=standing,
        sample=begun.brief.get("sample", 0),
        run_id=f"{writer.task_id}/{begun.since}" if begun.since else writer.task_id,
    )
    source = handler
    if limiter is not None:
        handler = limiter.limit(handler, spec, begun.brief, writer, past)
    clock = asyncio.create_task(end_in_time(writer, source, spec, limit_s=max_duration_s))
    try:
        ending = await run_handler(handler, context, writer, past.attempts, grace_s=grace_s)
    except AttemptStopped as stop:
        if stop.stop in (Stop.CANCEL, Stop.GONE, Stop.TIMEOUT):
            await _cancel_run(source, spec, writer.place)
        return _ending_for_stop(stop)
    finally:
        clock.cancel()
    return fail_at_once(ending) if fail_fast and spec.retries is None else ending


async def _cancel_left(
    task_id: str, place: Mapping[str, Any], store: Store, handlers: Mapping[str, Handler]
) -> None:
    """End what an attempt that is gone has left running."""
    if value := place.get("value"):
        spec = TaskSpec.recall(await store.read_input(task_id) or {})
        if spec.handler in handlers:
            await _cancel_run(handlers[spec.handler], spec, value)


async def _cancel_run(source: Handler, spec: TaskSpec, place: Mapping[str, Any]) -> None:
    """End what runs at a service of its own accord; nobody would read it."""
    cancel = getattr(source, "cancel_run", None)
    if cancel is None or not place:
        return
    try:
        async with asyncio.timeout(_CANCEL_S):
            await cancel(spec, place)
    except (LongTaskError, TimeoutError) as exc:
        logger.warning("a run at the model's service may go on: %s", exc)


_ENDS_AS = {"end": "completed", "retry": "retrying", "fail": "failed", "cancel": "cancelled"}


async def _write_ending(ending: Ending, writer: AttemptWriter) -> None:
    status, code, number = _ENDS_AS.get(ending.kind, "pending"), ending.code, writer.attempt
    note_attempt(number, status=status, code=code)
    tell("end", writer.task_id, attempt=number, status=status, code=code, runMs=writer.run_ms)
    match ending.kind:
        case "end":
            outcome = ending.outcome
            await writer.end(
                usage=outcome.usage, finish_reason=outcome.finish_reason, prompts=ending.prompts
            )
        case "retry":
            await writer.retry(ending.message, code=ending.code)
        case "fail":
            await writer.fail(ending.message, code=ending.code)
        case "cancel":
            await writer.cancel()
        case "wait" | "park":
            await writer.pause(ending.message, code=ending.code, line=ending.line)
        case "hand_on":
            await writer.hand_over(ending.message, code=ending.code)


async def _compact(task_id: str, store: Store) -> None:
    """Make the log smaller if it can be; its readers have the end by now, and the answer stands."""
    try:
        await store.compact(task_id)
    except StoreError as exc:
        logger.warning("task %s: its log stays as large as it is: %s", task_id, exc)


async def _settle_late(task_id: str, store: Store) -> Answer:
    outcome = await store.settle(task_id, "failed", reason=TOO_LATE, code="timeout", only="late")
    return busy(task_id, outcome.left_s) if isinstance(outcome, Busy) else refuse(TOO_LATE, task_id)


async def _settle_cancelled(task_id: str, store: Store) -> Answer:
    match await store.settle(task_id, "cancelled", reason=CANCELLED):
        case Busy(left_s):
            return busy(task_id, left_s)
        case _:
            return Answer(200, {"taskId": task_id, "status": "cancelled"})
