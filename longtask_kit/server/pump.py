"""Runs a handler into its attempt's writer until it ends, or must."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
from asyncio.tasks import _unregister_task
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from longtask_kit.errors import NonRetryableError
from longtask_kit.server.continuation import Lost, Overlap, OverlapDiffersError, add_up
from longtask_kit.server.ending import Ending, ending_for
from longtask_kit.server.handlers import (
    DataEvent,
    Delta,
    Keep,
    Outcome,
    Progress,
    Replayed,
    StartOver,
    TakeUp,
)
from longtask_kit.server.openai_background import is_in_background
from longtask_kit.server.stop import Stop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence

    from longtask_kit.log.attempts import Attempt
    from longtask_kit.server.attempt_writer import AttemptWriter
    from longtask_kit.server.continuation import Standing
    from longtask_kit.server.handlers import Handler, Said, TaskContext

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_NO_OUTCOME = Outcome()


async def run_handler(
    handler: Handler,
    context: TaskContext,
    writer: AttemptWriter,
    attempts: Sequence[Attempt],
    *,
    grace_s: float,
) -> Ending:
    """Run a handler until it ends or the writer says stop; a silent model must not delay a stop.

    Args:
        handler: What to run.
        context: What it gets.
        writer: Where its text goes.
        attempts: The task's runs so far.
        grace_s: How long it may take to end once it was cancelled, in seconds; one that swallows
            the cancel is left behind then, and writes nothing any more.

    Returns:
        How the attempt ends, whatever the handler raised.

    Raises:
        AttemptStopped: Somebody cancelled, or another attempt took over.
        StoreError: Redis was away for too long.
    """
    pump = start_hidden(_pump(handler, context, writer, attempts))
    try:
        awaited: set[asyncio.Future[Any]] = {pump, writer.stopped}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if not pump.done():
            writer.check_stopped()
        if pump.cancelled():  # by the handler: `current_task().cancel()`
            return ending_for(asyncio.CancelledError())
        return pump.result()
    finally:
        if not pump.done():
            writer.stop(Stop.SHUTDOWN)  # unless it was stopped: what comes now counts no more
            await _let_go(pump, context.task_id, grace_s)


def start_hidden(work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
    """Start a task that ends only by itself or by whoever started it.

    `asyncio.run()`, at a server's end, cancels all tasks there are, and waits for each: for ever if
    one swallows that. It does not see this one (docs.python.org, Extending asyncio).
    """
    task = asyncio.create_task(work)
    _unregister_task(task)
    return task


async def outlast(task: asyncio.Task[Any], *, limit_s: float) -> None:
    """Wait until a hidden task has ended, in spite of cancels: a server that ends sends several.

    Raises:
        asyncio.CancelledError: There was one.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + limit_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and (left_s := give_up_at - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left_s)
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled


async def _let_go(pump: asyncio.Task[Any], task_id: str, grace_s: float) -> None:
    pump.cancel()
    pump.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen
    try:
        await outlast(pump, limit_s=grace_s)
    finally:
        if not pump.done():
            logger.warning(
                "task %s: its handler did not end within %g s of its cancel, and is left behind; "
                "it must let asyncio.CancelledError through",
                task_id,
                grace_s,
            )
            # Never freed: that would throw GeneratorExit at it, which it may swallow as well, and
            # where no loop runs any more its next `await` returns at once, again and again.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pump))


async def _pump(
    handler: Handler, context: TaskContext, writer: AttemptWriter, attempts: Sequence[Attempt]
) -> Ending:
    call, lost = _Call(context.standing), None
    try:
        try:
            await _write_all(handler(context), writer, call)
        except OverlapDiffersError:
            logger.info("task %s: what came differs from what stands", context.task_id)
            writer.start_over()
            lost = Lost(call.tokens, call.sent) if call.is_paid else None
            fresh = replace(context, text="", standing=None)
            call = _Call(None)
            await _write_all(handler(fresh), writer, call)
    # All of them: SystemExit and KeyboardInterrupt would end the loop, and the app with it.
    except BaseException as exc:
        writer.check_stopped()  # then it does not matter how the handler left
        ending = ending_for(exc)
        if ending.code == "handler_error":
            logger.exception("task %s: the handler failed", context.task_id)
        return ending
    usage, prompts = add_up(
        call.outcome.usage,
        number=context.attempt,
        attempts=() if call.is_replay else attempts,
        sent=call.sent,
        is_one_run=is_in_background(context.spec),
        reads_on=not call.is_paid,
        lost=lost,
    )
    outcome = Outcome(usage=usage, finish_reason=call.outcome.finish_reason)
    return Ending(kind="end", outcome=outcome, prompts=prompts)


@dataclass(slots=True)
class _Call:
    """What a source was given, and has told.

    Attributes:
        standing: What it may go on behind.
        taken: How it does; None: it starts over.
        tokens: Deltas that it said, those also that stand.
        outcome: What it told last.
        is_same_run: It is told whole, from its beginning, and paid once.
        is_replay: It is a recorded answer, whose counts are of all that was paid then.
    """

    standing: Standing | None
    taken: TakeUp | None = None
    tokens: int = 0
    outcome: Outcome = _NO_OUTCOME
    is_same_run: bool = False
    is_replay: bool = False

    @property
    def is_paid(self) -> bool:
        return not self.is_same_run if self.taken is None else self.taken.is_paid_again

    @property
    def sent(self) -> int:
        return self.standing.sent_tokens if self.standing and self.taken and self.is_paid else 0


def _starts_over(item: Said, writer: AttemptWriter) -> bool:
    """Tell whether the text begins anew here.

    A place, too, that nothing was taken up before: it is not that of the text that stands.
    """
    goes_on = isinstance(item, TakeUp) or (isinstance(item, Keep) and item.place is None)
    return isinstance(item, StartOver) or (writer.is_open and not goes_on)


async def _write_all(stream: AsyncIterator[Said], writer: AttemptWriter, call: _Call) -> None:
    overlap: Overlap | None = None
    generator = cast("AsyncGenerator[Said]", stream)
    async with contextlib.aclosing(generator):
        async for item in generator:
            if _starts_over(item, writer):
                writer.start_over()
            match item:
                case StartOver(is_paid_again):
                    call.taken = overlap = None
                    call.is_same_run = not is_paid_again
                case str():
                    call.tokens += bool(item)
                    await writer.write(item, overlap=overlap)
                case Keep(way, place):
                    writer.keep(way, place, unsaid=overlap.left if overlap else {})
                case TakeUp(stood) if call.standing is not None:
                    call.taken, overlap = item, Overlap(call.standing, stood)
                    writer.go_on(call.standing)
                case Outcome():
                    call.outcome = item
                case Delta("tool_calls", calls):
                    await writer.tell("tool_calls", json.loads(calls))
                case Delta(type_, text):
                    call.tokens += bool(text)
                    await writer.write(text, type_, overlap=overlap)
                case DataEvent(name, value):
                    await writer.tell("data", value, name=name)
                case Replayed(source):
                    call.is_replay = True
                    await writer.tell("data", source, name="replayed")
                case Progress():
                    told = item.to_data()
                    await writer.tell("data", told.value, name=told.name)
                case _:
                    raise NonRetryableError(
                        f"The handler yielded {type(item).__name__}: expected text, DataEvent, "
                        "Progress or Outcome.",
                        code="handler_type",
                    )
            await writer.make_room()
    if writer.is_open:  # it had nothing to say
        writer.start_over()
    if overlap is not None:
        overlap.check_end()
