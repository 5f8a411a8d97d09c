"""What has become of tasks, as one stream that a view of many reads: never task by task.

It is news, and short: a reader that has fallen behind, or hears of a hole, reads the records. What
a change says in words of the model or of an error lies beside the stream, where a delete ends it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StoreError
from longtask_kit.log.events import TERMINAL_STATUSES, Status, Usage, to_ms
from longtask_kit.log.keys import CHANGE_KEYS, CHANGES
from longtask_kit.log.redis import load_script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.redis import RedisClient

logger = logging.getLogger(__name__)

_GATHER_S = 0.01
_CLOSE_S = 2.0
_KEPT = 5000  # entries, each of all tasks that a flush changed
_WORDS_KEPT = 10_000  # tasks', and as many of before
_TTL_S = 7 * 86_400
_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a task has become.

    Attributes:
        status: None when it was deleted.
        attempt: Of a task that was retried the one that it waits for: what is told late of those
            before is told of a smaller one.
        answer: What its answer begins with, once completed: a view of many reads no logs.
        run_ms: How long it ran, as its record tells.
        prompt: What it was asked begins with; told only when one looks.
        updated_ms: When its record last changed, unix time; told only when one looks.
    """

    task_id: str
    status: Status | None
    attempt: int = 0
    error: str | None = None
    code: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    answer: str | None = None
    run_ms: int | None = None
    prompt: str | None = None
    updated_ms: int | None = None

    @classmethod
    def of(cls, record: TaskRecord) -> Change:
        """Return what a record says."""
        was_retried = record.status == "pending" and record.code is None and record.attempt > 0
        return cls(
            task_id=record.task_id,
            status=record.status,
            attempt=record.attempt + (was_retried and not record.continues),
            error=record.error,
            code=record.code,
            usage=record.usage,
            finish_reason=record.finish_reason,
            answer=record.answer,
            run_ms=record.run_ms,
            prompt=record.wire.get("prompt"),
            updated_ms=to_ms(record.updated),
        )

    @classmethod
    def of_fields(cls, task_id: str, attempt: int, fields: Sequence[str]) -> Change:
        """Return what an attempt's end sets in the record, `[field, value, …]`."""
        told = dict(zip(fields[::2], fields[1::2], strict=True))
        usage = told.get("usage")
        return cls(
            task_id=task_id,
            status=told.get("status"),  # type: ignore[arg-type]  # of ours
            attempt=attempt,
            error=told.get("error") or None,
            code=told.get("code") or None,
            usage=Usage.from_wire(json.loads(usage)) if usage else None,
            finish_reason=told.get("finish_reason"),
            answer=told.get("answer"),
            run_ms=int(told["run_ms"]) if "run_ms" in told else None,
        )

    @property
    def is_parked(self) -> bool:
        """Whether it waits until somebody raises its group's budget."""
        return self.status == "pending" and self.code == "budget"

    def supersedes(self, known: Change | None) -> bool:
        """Tell whether this is later than what is known: news and a look come in any order."""
        if known is None or self.status is None:
            return True
        is_open = known.status not in TERMINAL_STATUSES
        ends = self.status in TERMINAL_STATUSES
        return self.attempt >= known.attempt + (not is_open and not ends)

    def to_wire(self) -> dict[str, Any]:
        """Return what is stored and sent."""
        wire = {_TO_WIRE[name]: value for name, value in asdict(self).items() if value is not None}
        return wire | ({"u": self.usage.to_wire()} if self.usage else {})

    def find_words(self) -> str | None:
        """Return what it says in words, and of when; None where it says nothing, '' of a delete."""
        if self.status is None:
            return ""
        words = {_TO_WIRE[n]: v for n in _SPOKEN if (v := getattr(self, n)) is not None}
        return _dump({"s": self.status, "a": self.attempt} | words) if words else None

    def add_words(self, words: str) -> Change:
        """Return it with its words; those of another time are not its own."""
        told = json.loads(words) if words else {}
        if (told.get("s"), told.get("a")) != (self.status, self.attempt):
            return self
        return replace(self, error=told.get("e"), answer=told.get("t"))

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Change:
        """Read what `to_wire` wrote, by this version or another."""
        known = {name: wire[short] for name, short in _TO_WIRE.items() if short in wire}
        usage = known.pop("usage", None)
        return cls(**{"status": None} | known, usage=Usage.from_wire(usage) if usage else None)


_TO_WIRE = {
    "task_id": "i",
    "status": "s",
    "attempt": "a",
    "error": "e",
    "code": "c",
    "usage": "u",
    "finish_reason": "f",
    "answer": "t",
    "run_ms": "r",
    "prompt": "p",
    "updated_ms": "m",
}


_SPOKEN = ("error", "answer")
_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _make_call(changes: Sequence[Change]) -> list[Any]:
    """Return the keys and arguments of `tell.lua`."""
    told = [replace(change, error=None, answer=None, prompt=None).to_wire() for change in changes]
    spoken = {c.task_id: words for c in changes if (words := c.find_words()) is not None}
    pairs = [part for pair in spoken.items() for part in pair]
    return [len(CHANGE_KEYS), *CHANGE_KEYS, _dump(told), _KEPT, _WORDS_KEPT, _TTL_S, *pairs]


class ChangeLog:
    """The stream: told without waiting, together with what else changes at that moment; and read.

    What is told is lost when the process dies in that moment, as news may be.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._waiting: list[Change] = []
        self._telling: asyncio.Task[None] | None = None

    def tell(self, change: Change) -> None:
        """Tell of a change soon."""
        self._waiting.append(change)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_all())

    async def aclose(self) -> None:
        """Wait for a moment until all is told."""
        if self._telling is not None:
            await asyncio.wait({self._telling}, timeout=_CLOSE_S)
            self._telling.cancel()

    async def _tell_all(self) -> None:
        await asyncio.sleep(_GATHER_S)
        while self._waiting:
            changes, self._waiting = self._waiting, []
            try:
                await self._redis.run_script("tell", [_make_call(changes)], is_urgent=True)
            except StoreError as exc:
                logger.info("%d changes were not told: %s", len(changes), exc)

    def make_forgetting(self, task_id: str) -> list[Any]:
        """Return the command that tells of a delete and forgets its words, those to come too."""
        self._waiting = [change for change in self._waiting if change.task_id != task_id]
        source, _ = load_script("tell")
        return ["EVAL", source, *_make_call([Change(task_id=task_id, status=None)])]

    async def find_end(self) -> str:
        """Return the place after the last change: what is read after it has happened since."""
        [last] = await self._redis.run([["XREVRANGE", CHANGES, "+", "-", "COUNT", 1]])
        return str(last[0][0]) if last else "0-0"

    async def read(self, after: str) -> tuple[list[Change], str, bool]:
        """Return what has changed after a place, the new place, and whether some is missing.

        One command, two where there is more than a page of it.
        """
        changes: list[Change] = []
        is_whole = True
        while True:
            # From the place itself on: where it is not there any more, some was cut off.
            call = [len(CHANGE_KEYS), *CHANGE_KEYS, after, _PAGE]
            [(page, spoken)] = await self._redis.run_script("changes", [call])
            words = dict(zip(spoken[::2], spoken[1::2], strict=True))
            if after != "0-0" and (not page or page[0][0] != after):
                is_whole = False
            fresh = [entry for entry in page if entry[0] != after]
            for entry_id, fields in fresh:
                after = entry_id
                for wire in json.loads(fields[1]):
                    change = Change.from_wire(wire)
                    changes.append(change.add_words(words.get(change.task_id, "")))
            if len(page) < _PAGE:
                return changes, after, not is_whole
