"""Build a TaskSpec, record the task, hand it to the queue."""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from longtask_kit.errors import StoreError, SubmitError
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.record import Busy, Done, Gone, Settled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.log.events import Status
    from longtask_kit.log.store import Store
    from longtask_kit.submit.queue import Queue

logger = logging.getLogger(__name__)

MAX_PROMPT_CHARS = 500_000
MAX_TOKENS_RANGE = (1, 1_000_000)
TEMPERATURE_RANGE = (0.0, 2.0)
_MAX_METADATA_BYTES = 16_384
_MAX_DEPTH = 64
_MAX_SPEC_BYTES = 2_000_000  # a failure callback quotes it in base64, and must still be taken


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What to run.

    Attributes:
        prompt: The user message, 1 to 500,000 characters.
        model: Model name as the service knows it; None is the server's `LONGTASK_MODEL`.
        max_tokens: Longest answer, 1 to 1,000,000 tokens.
        temperature: 0 to 2.
        system: System message, or None.
        handler: Name of the server-side handler that runs it.
        metadata: Any JSON object; kept with the task and handed to the handler.

    Raises:
        SubmitError: A value is of the wrong type or out of range; the message says which.
    """

    prompt: str
    model: str | None = None
    max_tokens: int = 1000
    temperature: float = 0.7
    system: str | None = None
    handler: str = "openai"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt, most=MAX_PROMPT_CHARS)
        _check_text("model", self.model, most=200, optional=True)
        _check_number("max_tokens", self.max_tokens, *MAX_TOKENS_RANGE, whole=True)
        _check_number("temperature", self.temperature, *TEMPERATURE_RANGE)
        _check_text("system", self.system, most=MAX_PROMPT_CHARS, optional=True)
        _check_text("handler", self.handler, most=100)
        _check_metadata(self.metadata)
        size = len(json.dumps(self.to_wire(), ensure_ascii=False).encode())
        if size > _MAX_SPEC_BYTES:
            raise SubmitError(
                f"The task has {size:,} bytes as JSON, at most {_MAX_SPEC_BYTES:,}: shorten it."
            )

    def to_wire(self) -> dict[str, Any]:
        """Return the camelCase body of `POST /api/tasks/start`, without what is not set."""
        wire = {_TO_WIRE.get(n, n): getattr(self, n) for n in self.__dataclass_fields__}
        wire["metadata"] = deepcopy(self.metadata)
        return {name: value for name, value in wire.items() if value is not None and value != {}}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read such a body; keys that are not ours are ignored.

        Raises:
            SubmitError: A value is missing, of the wrong type, or out of range.
        """
        known = {
            _FROM_WIRE.get(name, name): value
            for name, value in wire.items()
            if name in _WIRE_NAMES and value is not None
        }
        if "prompt" not in known:
            raise SubmitError('"prompt" is missing: expected the text to send to the model.')
        return cls(**known)


_TO_WIRE = {"max_tokens": "maxTokens"}
_FROM_WIRE = {wire: name for name, wire in _TO_WIRE.items()}
_WIRE_NAMES = {_TO_WIRE.get(name, name) for name in TaskSpec.__dataclass_fields__}


async def submit_task(
    spec: TaskSpec, *, store: Store, queue: Queue, task_id: str | None = None
) -> tuple[str, str]:
    """Record a task as pending and publish it.

    Args:
        spec: What to run.
        store: Where the task is recorded.
        queue: Where it is published.
        task_id: Id to use; a fresh one if None. Submitting the same id again is harmless.

    Returns:
        Task id and the queue's message id, if known. Once this returns, the task survives whoever
        submitted it.

    Raises:
        SubmitError: It was not queued; its record, if any, says failed.
    """
    task_id = task_id or new_task_id()
    wire = spec.to_wire()
    try:
        # Record before publish: a delivery may arrive before the publish call returns.
        await store.create(task_id, wire)
    except StoreError as exc:
        await _give_up(task_id, "It could not be recorded.", store)  # perhaps it was
        raise SubmitError(f"The task was not queued. {exc}", task_id=task_id) from exc
    return task_id, await _publish(task_id, wire, store=store, queue=queue)


async def retry_task(task_id: str, *, store: Store, queue: Queue) -> str | None:
    """Run a failed task again as a new attempt.

    Returns:
        The queue's id of the new message; None when the task is unknown.

    Raises:
        SubmitError: It has not failed, or the queue refused.
        StoreError: Redis did not answer; try again.
    """
    record = await store.read_task(task_id)
    if record is None:
        return None
    match await store.retry(task_id):
        case Gone():
            return None
        case Done(status):
            raise SubmitError(f"Only a failed task can be retried; {task_id} is {status}.")
        case cursor:
            # The cursor makes it another message than the last one's, and the same if sent again.
            return await _publish(
                task_id,
                record.spec,
                store=store,
                queue=queue,
                deduplication_id=f"{task_id}-{cursor}",
            )


async def delete_task(task_id: str, *, store: Store, queue: Queue) -> bool:
    """Forget a task, and its message in the queue; an attempt under way stops.

    Returns:
        Whether there was such a task.

    Raises:
        StoreError: Redis did not answer; try again.
    """
    record = await store.read_task(task_id)
    if record is not None and record.message_id is not None and not record.is_over:
        await queue.cancel(record.message_id)
    return await store.delete(task_id)


async def cancel_task(task_id: str, *, store: Store, queue: Queue) -> Status | None:
    """Cancel a task: at once when nothing runs it, else at the attempt's next flush.

    Returns:
        `cancelled`; `running` when the attempt under way was asked to stop; the status the task
        had already ended with; None when it is unknown.

    Raises:
        StoreError: Redis did not answer; try again.
    """
    record = await store.read_task(task_id)
    outcome = await store.settle(
        task_id, "cancelled", reason="cancelled on request", ask_to_stop=True
    )
    match outcome:
        case Gone():
            return None
        case Done(status):
            return status
        case Settled():
            if record is not None and record.message_id is not None:
                await queue.cancel(record.message_id)
            return "cancelled"
        case _:
            return "running"


async def _publish(
    task_id: str,
    wire: dict[str, Any],
    *,
    store: Store,
    queue: Queue,
    deduplication_id: str | None = None,
) -> str:
    """Publish a task that is on record; when the queue does not take it, it ends as failed.

    Returns:
        The queue's message id; empty when it took the message and nobody heard.
    """
    try:
        message_id = await queue.publish(task_id, wire, deduplication_id=deduplication_id)
    except SubmitError as exc:
        if not await _give_up(task_id, str(exc), store):
            raise
        logger.warning("task %s runs, though its publish was not answered: %s", task_id, exc)
        return ""  # the queue took it, and nobody heard its id
    try:
        await store.set_message_id(task_id, message_id)
    except StoreError as exc:
        # The task is queued and will run; only a cancel in the queue is no longer possible.
        logger.warning("task %s: message id not recorded: %s", task_id, exc)
    return message_id


async def _give_up(task_id: str, reason: str, store: Store) -> bool:
    """End a task as failed; whether that came too late, because a delivery runs or ran it."""
    try:
        outcome = await store.settle(task_id, "failed", reason=reason, code="not_queued")
    except StoreError as exc:
        logger.warning("task %s could not be marked failed: %s", task_id, exc)
        return False
    return isinstance(outcome, Busy | Done)


def _check_text(name: str, value: object, *, most: int, optional: bool = False) -> None:
    if value is None and optional:
        return
    shown = _TO_WIRE.get(name, name)
    if not isinstance(value, str):
        raise SubmitError(f'"{shown}" must be text, got {type(value).__name__}.')
    if not value.strip():
        raise SubmitError(f'"{shown}" is empty: expected 1 to {most:,} characters.')
    if len(value) > most:
        raise SubmitError(f'"{shown}" has {len(value):,} characters: at most {most:,}.')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SubmitError(f'"{shown}" holds half a surrogate pair: not valid Unicode.') from None


def _check_number(
    name: str, value: object, least: float, most: float, *, whole: bool = False
) -> None:
    shown = _TO_WIRE.get(name, name)
    kind = "a whole number" if whole else "a number"
    allowed = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise SubmitError(f'"{shown}" must be {kind}, got {type(value).__name__}.')
    if not least <= value <= most:
        raise SubmitError(
            f'"{shown}" is {_show(value)}: expected {kind} from {least:,} to {most:,}.'
        )


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict):
        raise SubmitError(f'"metadata" must be a JSON object, got {type(value).__name__}.')
    try:
        # Not ASCII: half a surrogate pair is then a UnicodeEncodeError, which is a ValueError.
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
        _check_depth(value)
    except (TypeError, ValueError, RecursionError) as exc:
        raise SubmitError(f'"metadata" must be a JSON object: {exc}.') from exc
    if size > _MAX_METADATA_BYTES:
        raise SubmitError(f'"metadata" has {size:,} bytes: at most {_MAX_METADATA_BYTES:,}.')


def _show(value: object) -> str:
    try:
        return f"{value}"
    except ValueError:
        return "too large a number"


def _check_depth(value: object, left: int = _MAX_DEPTH) -> None:
    if left == 0:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(value, dict):
        value = [*value.values()]
    for item in value if isinstance(value, list | tuple) else ():
        _check_depth(item, left - 1)
