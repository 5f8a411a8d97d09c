"""A cassette: a file of recorded answers, one line of JSON each, for `connect(replay=…)`.

Ground, since it travels: the kernel writes it, the local stack's model service reads it, the
command line shows it. README, "Record and replay", has the format in words.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ENCODING = "utf-8-sig"
"""How a file is read: some editors write a mark before its first line."""

UNDECODED = "surrogateescape"
"""How a file's bytes are read and written: those that are no text damage their line alone."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NOT_ASKED = ("stream", "stream_options")  # how it is sent, not what is asked
_BASE64_CHARS = 200  # shorter data may stay as it is
_SHOWN_MODELS = 3
_SHOWN_CHARS, _MESSAGE_CHARS = 30, 160
# What differs between two recordings of the same answer.
_TIMES = ("pace", "wait_ms", "deltas")


@dataclass(frozen=True)
class Question:
    """What an answer is found by: all that was asked, and nothing of who asked whom, or when.

    Attributes:
        messages: The conversation; of images and other data the hash alone.
        params: Further model parameters.
        sample: Which of several answers to one question, from 0 on.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    max_tokens: int | None = None
    temperature: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0

    def to_wire(self) -> dict[str, Any]:
        """Return the beginning of its line; a plain prompt stands without its wrapping."""
        wire: dict[str, Any] = {"model": self.model, **_unwrap(self.messages)}
        if self.max_tokens is not None:
            wire["max_tokens"] = self.max_tokens
        if self.temperature is not None:
            wire["temperature"] = self.temperature
        if self.params:
            wire["params"] = dict(self.params)
        return wire | ({"sample": self.sample} if self.sample else {})

    @cached_property
    def key(self) -> str:
        """The same for the same question."""
        ordered = {name: _sort(value) for name, value in self.to_wire().items()}
        return _dump(ordered)

    @property
    def place(self) -> tuple[str, int]:
        """What a file is sorted by: the samples of a question stand together, in their order."""
        return (replace(self, sample=0).key if self.sample else self.key), self.sample

    @classmethod
    def of_request(cls, body: Mapping[str, Any], *, sample: int = 0) -> Question:
        """Return what a request for chat completions asks; also one that is not sent."""
        params = {name: v for name, v in body.items() if name not in _NOT_ASKED and v is not None}
        model, messages = str(params.pop("model", "")), params.pop("messages", ())
        max_tokens, temperature = params.pop("max_tokens", None), params.pop("temperature", None)
        return cls(
            model=model,
            messages=[_hash_data(message) for message in messages],
            max_tokens=None if "max_completion_tokens" in params else max_tokens,
            temperature=None if temperature is None else float(temperature),
            params=params,
            sample=sample,
        )


@dataclass(frozen=True)
class Answer:
    """What one question led to.

    Attributes:
        recorded: The day, `2026-11-28`.
        attempts: Of each what it said, `text`, `reasoning`, `refusal`, `tool_calls`, `deltas`,
            `pace`, `finish_reason`, `usage`; or how it failed, `error`, `code`, `final`, `wait_ms`.
        line: Where it stands in its file, from 1 on; 0 in none.
        raw: That line.
    """

    question: Question
    recorded: str
    attempts: Sequence[Mapping[str, Any]]
    line: int = 0
    raw: str = ""

    def to_line(self) -> str:
        """Return its line."""
        attempts = [_sort(attempt) for attempt in self.attempts]
        wire = json.loads(self.question.key) | {"recorded": self.recorded, "attempts": attempts}
        return _dump(wire)

    def says_the_same(self, other: Answer) -> bool:
        """Tell whether it is the same answer, whenever and however fast it came."""
        return _without_times(self.attempts) == _without_times(other.attempts)


@dataclass(frozen=True)
class Cassette:
    """What a file holds.

    Attributes:
        answers: By their questions' keys.
        damaged: Number of each line that is no answer, with the line and what is wrong with it.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    damaged: Sequence[tuple[int, str, str]] = ()

    @property
    def models(self) -> list[str]:
        """Those that answered, the one with most answers first."""
        names = [answer.question.model for answer in self.answers.values()]
        return sorted({*names}, key=lambda name: (-names.count(name), name))

    def find(self, question: Question) -> Answer | None:
        """Return the answer to a question, if it is here."""
        return self.answers.get(question.key)

    def describe(self, file: str) -> str:
        """Return `replayed from answers.jsonl (recorded 28 Nov, gpt-4o-mini)`."""
        if not self.answers:
            return f"replayed from {file}, which holds no answer"
        days = sorted({answer.recorded for answer in self.answers.values()})
        shown = self.models[:_SHOWN_MODELS] + ["…"] * (len(self.models) > _SHOWN_MODELS)
        return _describe(file, days[:1] + days[1:][-1:], shown)

    @property
    def is_foreign(self) -> bool:
        """Whether a file that says something says no answer: it is something else."""
        return bool(self.damaged) and not self.answers

    def describe_damage(self, most: int | None = None) -> list[str]:
        """Return a line for each that is damaged, and one for those beyond `most`."""
        told = [
            f"line {number} is damaged, {what}; the others stand"
            for number, _, what in self.damaged[:most]
        ]
        if more := len(self.damaged) - len(told):
            told.append(f"{more} more are damaged: `longtask cassette check` lists them")
        return told


def describe_replay(told: object) -> str | None:
    """Return what is to be said of a task that tells `told` as its `data["replayed"]`."""
    if not isinstance(told, dict) or not all(
        isinstance(told.get(name), str) for name in ("file", "recorded", "model")
    ):
        return None
    return _describe(told["file"], [told["recorded"]], [told["model"]])


def describe_place(place: str) -> str:
    """Return what is to be said of tasks that ran there, "" for a model service's URL."""
    mode, _, rest = place.partition(":")
    file = rest.rpartition(":")[0]
    words = {"replay": "replayed", "extend": "in part replayed"}
    return f"{words[mode]} from {file}" if mode in words and file else ""


def is_replayed(place: str) -> bool:
    """Tell whether all that ran there was replayed, so that nobody paid for it."""
    return place.startswith("replay:")


def _describe(file: str, days: Sequence[str], models: Sequence[str]) -> str:
    facts = [f"recorded {' to '.join(map(_show_day, days))}"] if days else []
    facts += [name for name in models if name]
    return f"replayed from {file}" + (f" ({', '.join(facts)})" if facts else "")


def _show_day(day: str) -> str:
    _, month, number = [*day.split("-"), "", "", ""][:3]
    known = month.isdecimal() and 1 <= int(month) <= 12 and number.isdecimal()
    return f"{int(number)} {_MONTHS[int(month) - 1]}" if known else day[:20]


def read_cassette(text: str) -> Cassette:
    """Read a file's text; a line that is damaged costs no other one."""
    answers: dict[str, Answer] = {}
    damaged: list[tuple[int, str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            answer = _read_line(line, number)
            key = answer.question.key
        except (ValueError, OverflowError, RecursionError) as exc:
            damaged.append((number, line, _explain_damage(line, exc)))
        else:
            answers[key] = answer
    return Cassette(answers, damaged)


def _explain_damage(line: str, exc: Exception) -> str:
    if isinstance(exc, UnicodeEncodeError):
        return "some of its bytes are no UTF-8"
    if isinstance(exc, json.JSONDecodeError):
        return f"no JSON: {line.strip()[:_SHOWN_CHARS]!r}"
    return str(exc)[:_MESSAGE_CHARS] or type(exc).__name__


def _read_line(line: str, number: int) -> Answer:
    line.encode()  # what is no UTF-8 can't be sent
    wire = json.loads(line)
    if not isinstance(wire, dict):
        raise ValueError(f"expected a JSON object, got {type(wire).__name__}")  # noqa: TRY004
    _check_fields(wire, _LINE, "")
    for name in ("model", "recorded", "attempts"):
        if name not in wire:
            raise ValueError(f"{name!r} is missing")
    for number_of, attempt in enumerate(wire["attempts"]):
        _check_fields(attempt, _ATTEMPT, f"attempts[{number_of}].")
    question = Question(
        model=wire["model"],
        messages=_read_messages(wire),
        max_tokens=wire.get("max_tokens"),
        temperature=float(wire["temperature"]) if "temperature" in wire else None,
        params=wire.get("params", {}),
        sample=wire.get("sample", 0),
    )
    return Answer(question, wire["recorded"], wire["attempts"], number, line)


def _read_messages(wire: Mapping[str, Any]) -> list[dict[str, Any]]:
    if ("messages" in wire) == ("prompt" in wire):
        raise ValueError("expected 'prompt' or 'messages'")
    if "messages" in wire:
        return list(wire["messages"])
    system = [{"role": "system", "content": wire["system"]}] if "system" in wire else []
    return [*system, {"role": "user", "content": wire["prompt"]}]


def _check_fields(
    wire: Mapping[str, Any], known: Mapping[str, Callable[[Any], bool]], place: str
) -> None:
    """Refuse a field that is not as it must be, or that another version gave a meaning to."""
    for name, value in wire.items():
        if (is_right := known.get(name)) is None:
            raise ValueError(
                f"{place}{name[:_SHOWN_CHARS]} is unknown here: if a later version wrote it, "
                "pip install -U longtask_kit"
            )
        if not is_right(value):
            raise ValueError(f"{place}{name} can't be {json.dumps(value)[:_SHOWN_CHARS]}")


def _is_text(value: Any) -> bool:  # noqa: ANN401 - whatever the file holds, as below
    return isinstance(value, str)


def _is_count(value: Any) -> bool:  # noqa: ANN401
    return type(value) is int and value >= 0


def _are_counts(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _are_objects(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _are_messages(value: Any) -> bool:  # noqa: ANN401
    return _are_objects(value) and all(_is_content(one.get("content")) for one in value)


def _is_content(value: Any) -> bool:  # noqa: ANN401
    return value is None or isinstance(value, str) or _are_objects(value)


_LINE: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("model", "prompt", "system", "recorded"), _is_text),
    **dict.fromkeys(("max_tokens", "sample"), _is_count),
    "messages": _are_messages,
    "temperature": lambda value: type(value) in (int, float),
    "params": lambda value: isinstance(value, dict),
    "attempts": lambda value: _are_objects(value) and bool(value),
}
_ATTEMPT: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("text", "reasoning", "refusal", "error", "code", "finish_reason"), _is_text),
    **dict.fromkeys(("deltas", "wait_ms"), _is_count),
    "pace": _are_counts,
    "tool_calls": _are_objects,
    "usage": lambda value: isinstance(value, dict) and all(map(_is_count, value.values())),
    "final": lambda value: isinstance(value, bool),
}


def merge(cassette: Cassette, new: Iterable[Answer]) -> Cassette:
    """Return a cassette with new answers; what says the same as before stays to the byte."""
    answers = dict(cassette.answers)
    for answer in new:
        known = answers.get(answer.question.key)
        if known is None or not answer.says_the_same(known):
            answers[answer.question.key] = answer
    return Cassette(answers, cassette.damaged)


def write_cassette(cassette: Cassette) -> str:
    """Return a file's text: sorted, and at its end what is damaged, for somebody to mend."""
    answers = sorted(cassette.answers.values(), key=lambda answer: answer.question.place)
    lines = [answer.raw or answer.to_line() for answer in answers]
    return "".join(f"{line}\n" for line in (*lines, *(raw for _, raw, _ in cassette.damaged)))


def _unwrap(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the messages, a prompt with or without a system message under these names."""
    roles = [message.get("role") for message in messages]
    plain = all(
        set(message) == {"role", "content"} and isinstance(message["content"], str)
        for message in messages
    )
    if plain and roles == ["user"]:
        return {"prompt": messages[0]["content"]}
    if plain and roles == ["system", "user"]:
        return {"prompt": messages[1]["content"], "system": messages[0]["content"]}
    return {"messages": list(messages)}


def _hash_data(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return messages with the hash of each image, recording and file in its place."""
    if isinstance(value, dict):
        return {name: _hash_data(inner) for name, inner in value.items()} | _hash_named(value)
    if isinstance(value, list | tuple):
        return [_hash_data(inner) for inner in value]
    if isinstance(value, str) and is_data(value) and len(value) > _BASE64_CHARS:
        head, _, data = value.partition(",")
        return f"{head},{_hash(data)}"
    return value


def is_data(text: str) -> bool:
    """Tell whether it is an image or a file, not what somebody says who begins with `data:`."""
    return text.startswith("data:") and text.partition(",")[0].endswith(";base64")


def _hash_named(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a recording, which has no `data:` before it."""
    data = value.get("data")
    if "format" in value and isinstance(data, str) and len(data) > _BASE64_CHARS:
        return {"data": _hash(data)}
    return {}


def _hash(data: str) -> str:
    return f"sha256-{hashlib.sha256(data.encode()).hexdigest()}"


def _without_times(attempts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{n: v for n, v in attempt.items() if n not in _TIMES} for attempt in attempts]


def _sort(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {name: _sort(value[name]) for name in sorted(value)}
    return [_sort(inner) for inner in value] if isinstance(value, list | tuple) else value


def _dump(value: object) -> str:
    # A lone surrogate can't be written as UTF-8, and some editors break lines at U+2028.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode().translate(_BREAKS)


_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
