"""What happens to a task, as values: cursors, events, their two wire forms, and the fold.

An event has two encodings. In Redis it is a *log entry*, a flat list
`[id, field, value, …]` that is stored with XADD and announced, unchanged, with PUBLISH. Over HTTP
it is an *SSE frame*: an `id:` line and one `data:` line of JSON, without an `event:` line, so that
`EventSource.onmessage` clients see it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from longtask_kit.log.text import make_valid_text

if TYPE_CHECKING:
    from collections.abc import Mapping

EventType = Literal[
    "connected",
    "status",
    "start",
    "continue",
    "content",
    "reasoning",
    "tool_calls",
    "refusal",
    "data",
    "end",
    "error",
    "cancelled",
]
Status = Literal["pending", "running", "retrying", "completed", "failed", "cancelled"]

EVENT_TYPES: frozenset[str] = frozenset(get_args(EventType))
STATUSES: frozenset[str] = frozenset(get_args(Status))
TEXT_TYPES: frozenset[str] = frozenset({"content", "reasoning", "refusal"})
JSON_TYPES: frozenset[str] = frozenset({"tool_calls", "data"})
TERMINAL_TYPES: frozenset[str] = frozenset({"end", "error", "cancelled"})
TERMINAL_STATUSES: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


class Cursor(NamedTuple):
    """Where an event stands in its task's log: attempt 0, 1, 2, … and seq 1, 2, … within it.

    Attempt 0 is the submission itself. Cursors compare in log order.
    """

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read `<attempt>-<seq>`.

        Raises:
            ValueError: `text` is not two non-negative integers with a dash between.
        """
        attempt, dash, seq = text.partition("-")
        if not (
            dash and attempt.isascii() and attempt.isdigit() and seq.isascii() and seq.isdigit()
        ):
            raise ValueError(f"expected a cursor like '1-42', got {text[:40]!r}")
        # The length first: Python refuses to read a number of thousands of digits.
        if max(len(attempt), len(seq)) > 20 or max(int(attempt), int(seq)) >= 2**64:
            raise ValueError(f"expected a cursor of numbers below 2**64, got {text[:40]!r}")
        return cls(int(attempt), int(seq))


START = Cursor(0, 0)
"""Before the first event: reading after it replays everything."""

LAST = Cursor(2**64 - 1, 2**64 - 1)
"""Nothing can follow it: Redis refuses even to look."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Usage:
    """Tokens a model counted for one answer.

    Attributes:
        prompt_tokens: What was asked.
        completion_tokens: What was answered, reasoning included.
        total_tokens: Both.
        reasoning_tokens: Of the answer's, those spent on reasoning; None if the model doesn't say.
        cached_tokens: Of the prompt's, those that a cache had; None if the model doesn't say.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None

    def __repr__(self) -> str:
        counts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        shown = (f"{name}={count}" for name, count in counts.items() if count is not None)
        return f"Usage({', '.join(shown)})"

    def to_wire(self) -> dict[str, int]:
        """Return the camelCase form of the HTTP contract, without what the model did not say."""
        wire = {
            "promptTokens": self.prompt_tokens,
            "completionTokens": self.completion_tokens,
            "totalTokens": self.total_tokens,
        }
        details = {"reasoningTokens": self.reasoning_tokens, "cachedTokens": self.cached_tokens}
        return wire | {name: count for name, count in details.items() if count is not None}

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Usage:
        """Read what `to_wire` wrote, now or before it had the details."""
        try:
            reasoning, cached = wire.get("reasoningTokens"), wire.get("cachedTokens")
            return cls(
                prompt_tokens=int(wire["promptTokens"]),
                completion_tokens=int(wire["completionTokens"]),
                total_tokens=int(wire["totalTokens"]),
                reasoning_tokens=None if reasoning is None else int(reasoning),
                cached_tokens=None if cached is None else int(cached),
            )
        except (TypeError, KeyError, AttributeError, OverflowError) as exc:
            raise ValueError(f"expected token counts, got {str(wire)[:80]}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One thing that happened to a task.

    Attributes:
        type: `status`, `start` (or `continue`: the text stands, and the attempt goes on behind
            it), then `content` and what else a model says (`reasoning`, `refusal`,
            `tool_calls`) or a handler tells (`data`), then one of `end`, `error`, `cancelled`;
            over HTTP a `connected` comes first.
        data: status word; attempt number as text (`start`); cursor of the last entry that stands
            (`continue`); text delta (`content`, `reasoning`,
            `refusal`); JSON (`tool_calls`: a list of the complete calls; `data`: any value); full
            text (`end`, empty in the log itself); message (`error`); reason (`cancelled`).
        cursor: Place in the log; START for `connected`, which is not in the log.
        time: When Redis stored it, UTC.
        tokens: Deltas that were merged into this event, >= 1.
        usage: Token counts (`end`), if the model gave them.
        finish_reason: The model's reason to stop (`end`): `stop`, `length`, …
        code: Short reason of an `error` or of a `retrying` status.
        error: Message of a `retrying` status: what went wrong in the attempt.
        name: What the value of a `data` event is called.
        prompts: Tokens of the prompt that were paid for each attempt (`end`), by its number, where
            there was more than one and the model counts.
        arrived: When the delivery came that a `running` status tells of, by Redis' clock.
    """

    type: EventType
    cursor: Cursor
    time: datetime
    data: str = ""
    tokens: int = 1
    usage: Usage | None = None
    finish_reason: str | None = None
    code: str | None = None
    error: str | None = None
    name: str | None = None
    prompts: Mapping[int, int] | None = None
    arrived: datetime | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows this event."""
        return self.type in TERMINAL_TYPES

    @property
    def is_known(self) -> bool:
        """Whether this version knows its type; of a newer one's only place and time are read."""
        return self.type in EVENT_TYPES


# Field names are one letter, and `content` leaves its type out: an entry is stored for every flush.
# One more, `p`, is of an ended task's log alone: see `expand_entry`.
_TYPE, _DATA, _TIME, _TOKENS = "k", "d", "t", "n"
_USAGE, _FINISH, _CODE, _ERROR, _NAME, _PROMPTS, _ARRIVED = "u", "f", "c", "e", "m", "a", "r"


def encode_entry(
    type_: EventType,
    data: str,
    *,
    tokens: int = 1,
    usage: Usage | None = None,
    finish_reason: str | None = None,
    code: str | None = None,
    error: str | None = None,
    name: str | None = None,
    prompts: Mapping[int, int] | None = None,
    arrived: datetime | None = None,
) -> list[str]:
    """Return an entry's fields, without its id and time, which the append script adds."""
    data = make_valid_text(data)
    fields = [] if type_ == "content" else [_TYPE, type_]
    fields += [_DATA, data]
    if tokens != 1:
        fields += [_TOKENS, str(tokens)]
    if usage is not None:
        fields += [_USAGE, json.dumps(usage.to_wire(), separators=(",", ":"))]
    told = None if prompts is None else json.dumps(prompts, separators=(",", ":"))
    optional = (
        *((_FINISH, finish_reason), (_CODE, code), (_ERROR, error), (_NAME, name)),
        (_PROMPTS, told),
    )
    for letter, value in optional:
        if value is not None:
            fields += [letter, make_valid_text(value)]
    if arrived is not None:
        fields += [_ARRIVED, str(to_ms(arrived))]
    return fields


def decode_entry(entry: list[str]) -> TaskEvent:
    """Read `[id, field, value, …]`, from XRANGE or from the channel; unknown fields are ignored.

    An entry of a type that this version does not know is an event all the same, since its place
    counts: without it there would be a hole.

    Raises:
        ValueError: The list is not an entry of ours.
    """
    if (
        not isinstance(entry, list)
        or len(entry) % 2 == 0
        or not all(isinstance(part, str) for part in entry)
    ):
        raise ValueError(f"expected a log entry [id, field, value, …], got {str(entry)[:80]}")
    cursor = Cursor.parse(entry[0])
    fields = dict(zip(entry[1::2], entry[2::2], strict=True))
    type_, time = fields.get(_TYPE, "content"), from_ms(int(fields.get(_TIME, "0")))
    if type_ not in EVENT_TYPES:
        return TaskEvent(type=type_, cursor=cursor, time=time)  # type: ignore[arg-type]
    if type_ in JSON_TYPES:
        json.loads(fields.get(_DATA, ""))
    usage, arrived = fields.get(_USAGE), fields.get(_ARRIVED)
    return TaskEvent(
        type=type_,  # type: ignore[arg-type]  # checked against EVENT_TYPES above
        cursor=cursor,
        time=time,
        data=fields.get(_DATA, ""),
        tokens=int(fields.get(_TOKENS, "1")),
        usage=None if usage is None else Usage.from_wire(json.loads(usage)),
        finish_reason=fields.get(_FINISH),
        code=fields.get(_CODE),
        error=fields.get(_ERROR),
        name=fields.get(_NAME),
        prompts=_read_prompts(json.loads(fields.get(_PROMPTS, "null"))),
        arrived=None if arrived is None else from_ms(int(arrived)),
    )


def to_wire(task_id: str, event: TaskEvent) -> dict[str, Any]:
    """Return the JSON object of the HTTP contract, camelCase."""
    wire: dict[str, Any] = {"type": event.type, "data": event.data}
    if event.type == "start":
        wire["data"] = int(event.data)
    if event.type in JSON_TYPES:
        wire["data"] = json.loads(event.data)
    if event.tokens != 1:
        wire["tokens"] = event.tokens
    if event.usage is not None:
        wire["usage"] = event.usage.to_wire()
    optional = {
        "finishReason": event.finish_reason,
        "code": event.code,
        "error": event.error,
        "name": event.name,
        "prompts": event.prompts,
        "arrivedAt": None if event.arrived is None else to_ms(event.arrived),
    }
    wire |= {name: value for name, value in optional.items() if value is not None}
    return wire | {"taskId": task_id, "timestamp": to_ms(event.time)}


def encode_frame(task_id: str, event: TaskEvent) -> bytes:
    """Return the SSE frame; JSON escapes line breaks, so one `data:` line always suffices."""
    body = json.dumps(to_wire(task_id, event), ensure_ascii=False, separators=(",", ":"))
    id_line = "" if event.cursor == START else f"id: {event.cursor}\n"
    return f"{id_line}data: {body}\n\n".encode()


def decode_frame(data: str, cursor: str) -> TaskEvent:
    """Read the `data:` and `id:` of a frame that `encode_frame` wrote, of this version or another.

    Raises:
        ValueError: It is not such a frame.
    """
    try:
        wire = json.loads(data)
        type_ = wire["type"]
        place = Cursor.parse(cursor) if cursor and type_ != "connected" else START
        if type_ not in EVENT_TYPES:
            time = from_ms(int(wire.get("timestamp", 0)))
            return TaskEvent(type=str(type_), cursor=place, time=time)  # type: ignore[arg-type]
        usage, value, arrived = wire.get("usage"), wire.get("data", ""), wire.get("arrivedAt")
        return TaskEvent(
            type=type_,
            cursor=place,
            time=from_ms(int(wire["timestamp"])),
            data=to_json(value) if type_ in JSON_TYPES else str(value),
            tokens=int(wire.get("tokens", 1)),
            usage=None if usage is None else Usage.from_wire(usage),
            finish_reason=_read_text(wire, "finishReason"),
            code=_read_text(wire, "code"),
            error=_read_text(wire, "error"),
            name=_read_text(wire, "name"),
            prompts=_read_prompts(wire.get("prompts")),
            arrived=None if arrived is None else from_ms(int(arrived)),
        )
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"expected a task event as JSON, got {data[:80]!r}") from exc


def _read_prompts(told: Any) -> dict[int, int] | None:  # noqa: ANN401
    if told is None:
        return None
    if not isinstance(told, dict) or not all(type(count) is int for count in told.values()):
        raise ValueError(f"expected prompt tokens by attempt, got {str(told)[:80]}")
    return {int(number): count for number, count in told.items()}


def _read_text(wire: dict[str, Any], name: str) -> str | None:
    value = wire.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"expected {name} as text, got {type(value).__name__}")
    return value


def to_json(value: Any) -> str:  # noqa: ANN401
    """Return the data of an event of `JSON_TYPES`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def to_ms(time: datetime) -> int:
    """Return a wire timestamp: unix milliseconds."""
    return round(time.timestamp() * 1000)


def from_ms(milliseconds: int) -> datetime:
    """Read a wire timestamp."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, OSError) as exc:
        raise ValueError(f"expected unix milliseconds, got {str(milliseconds)[:20]}") from exc


_PIECES = "p"
_PIECE = re.compile(r"([0-9]+) (-?[0-9]+)(?: ([0-9]+))?")
_PIECES_LISTED = re.compile(f"{_PIECE.pattern}(?:,{_PIECE.pattern})*")


def expand_entry(entry: list[str], *, after: Cursor) -> list[TaskEvent]:
    """Read an entry of a log, merged or not: its events after a cursor.

    Raises:
        ValueError: It is not an entry of ours, or its pieces don't add up.
    """
    merged = decode_entry(entry)
    names = entry[1::2]
    if _PIECES not in names or not merged.is_known:
        return [merged]
    listed = entry[2::2][names.index(_PIECES)]
    text = merged.data.encode()
    pieces = _read_pieces(listed)
    seq = merged.cursor.seq - len(pieces)
    if (
        merged.type not in TEXT_TYPES
        or seq < 0
        or sum(length for length, *_ in pieces) != len(text)
    ):
        raise ValueError(f"expected {len(text)} bytes of text in pieces, got {listed[:80]!r}")
    time_ms = to_ms(merged.time) - sum(gap_ms for _, gap_ms, _ in pieces)
    events: list[TaskEvent] = []
    at = 0
    for length, gap_ms, tokens in pieces:
        seq, start, at, time_ms = seq + 1, at, at + length, time_ms + gap_ms
        cursor = Cursor(merged.cursor.attempt, seq)
        if cursor > after:
            data, time = text[start:at].decode(), from_ms(time_ms)
            events.append(
                TaskEvent(type=merged.type, cursor=cursor, time=time, data=data, tokens=tokens)
            )
    return events


def _read_pieces(listed: str) -> list[tuple[int, int, int]]:
    """Return each piece's bytes, milliseconds since the one before, and tokens."""
    if not _PIECES_LISTED.fullmatch(listed):
        raise ValueError(f"expected pieces like '5 0,6 20', got {listed[:80]!r}")
    found = _PIECE.findall(listed)
    return [(int(length), int(gap_ms), int(tokens or 1)) for length, gap_ms, tokens in found]
