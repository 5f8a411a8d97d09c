"""A task's log to the answer that a cassette keeps of it, and the file that it goes into."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from longtask_kit.cassettes import (
    ENCODING,
    UNDECODED,
    Answer,
    Cassette,
    Question,
    merge,
    read_cassette,
    write_cassette,
)
from longtask_kit.client.scrub import scrub
from longtask_kit.errors import ConfigError, SubmitError
from longtask_kit.log.events import TEXT_TYPES, to_ms
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from longtask_kit.log.events import TaskEvent, Usage

    Redact = Callable[[list[dict[str, Any]]], Sequence[Mapping[str, Any]]]

_LOCK_S = 30.0
_KINDS = ("reasoning", "content", "refusal")  # in the order in which a model says them
_NAMES = {"content": "text"}
_TOLERANCE_MS = 20
# What ends an attempt or a task without its model: it is no part of what that said.
_OURS = frozenset(
    {
        *("budget", "config", "deleted", "handler_error", "handler_type", "key_gone", "limit"),
        *("lost", "not_queued", "not_recorded", "shutdown", "store", "timeout", "unknown_handler"),
    }
)


@dataclass(slots=True)
class _Attempt:
    """What has been heard of one: pieces of a kind, their tokens, and when."""

    began_ms: int
    pieces: list[tuple[str, str, int, int]] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)


def make_question(
    wire: Mapping[str, Any], *, model: str, sample: int = 0, redact: Redact | None = None
) -> Question:
    """Return what a task asks, of its input as it is on record.

    Raises:
        ConfigError: `redact` returned something else than messages.
    """
    spec = TaskSpec.recall(wire)
    limits = {"max_tokens": spec.max_tokens, "temperature": spec.temperature}
    messages = redact_messages(spec, redact)
    body = {**limits, **spec.params, "model": spec.model or model, "messages": messages}
    return Question.of_request(body, sample=sample)


def redact_messages(spec: TaskSpec, redact: Redact | None) -> list[dict[str, Any]]:
    """Return a task's messages as `redact` leaves them.

    Raises:
        ConfigError: It returned something else.
    """
    messages = spec.to_messages()
    if redact is None:
        return messages
    redacted = redact(json.loads(json.dumps(messages)))
    try:
        return TaskSpec(messages=redacted).to_messages()
    except (SubmitError, TypeError) as exc:
        raise ConfigError(
            f"redact=… must return messages, as it was given them: {str(exc)[:200]}"
        ) from exc


def make_answer(
    question: Question, events: Iterable[TaskEvent], *, clean: Callable[[str], str] = scrub
) -> Answer | None:
    """Return what a cassette keeps of a task's log; None where its model ended nothing.

    Args:
        question: What the task asks.
        events: Its log.
        clean: From an error's text to what is kept of it.
    """
    attempts: list[dict[str, Any]] = []
    now: _Attempt | None = None
    before, failed_ms, ended_ms, day, replayed = _Attempt(0), None, 0, "", None
    for event in events:
        time_ms, kind = to_ms(event.time), str(event.type)
        if kind in ("start", "continue"):
            now = _go_on(before, time_ms) if kind == "continue" else _Attempt(time_ms)
            if failed_ms is not None and attempts:
                attempts[-1]["wait_ms"] = max(0, time_ms - failed_ms)
            before, failed_ms = now, None
        elif kind == "data" and event.name == "replayed":
            replayed = json.loads(event.data)
        elif now is None:
            if kind == "error" and event.code in _OURS:
                return None
        elif kind == "status" and event.data == "running" and not now.pieces:
            now.began_ms = time_ms  # it had waited for a limit
        elif kind in TEXT_TYPES:
            now.pieces.append((kind, event.data, event.tokens, time_ms))
        elif kind == "tool_calls":
            now.calls = json.loads(event.data)
        elif kind == "cancelled" or (kind == "error" and event.code in _OURS):
            return None
        elif kind in ("end", "error") or (kind == "status" and event.data == "retrying"):
            failed_ms, day = time_ms, event.time.date().isoformat()
            if event.code not in _OURS:
                attempts.append(_describe_attempt(now, event, clean))
            now = None
            ended_ms = time_ms
    if not attempts or not ended_ms:
        return None
    if isinstance(replayed, dict):  # it stays what the model said on that day
        day = str(replayed.get("recorded", day))
    return Answer(question, day, attempts)


def _go_on(before: _Attempt, time_ms: int) -> _Attempt:
    """Return an attempt that continues one, as if nothing had lain between them."""
    last_ms = before.pieces[-1][3] if before.pieces else before.began_ms
    shift_ms = time_ms - last_ms
    pieces = [(kind, text, tokens, at + shift_ms) for kind, text, tokens, at in before.pieces]
    return _Attempt(before.began_ms + shift_ms, pieces)


def _describe_attempt(
    heard: _Attempt, end: TaskEvent, clean: Callable[[str], str]
) -> dict[str, Any]:
    pieces = sorted(heard.pieces, key=lambda piece: _KINDS.index(piece[0]))  # stable
    told: dict[str, Any] = {}
    for kind in _KINDS:
        if text := "".join(piece[1] for piece in pieces if piece[0] == kind):
            told[_NAMES.get(kind, kind)] = text
    if heard.calls:
        told["tool_calls"] = heard.calls
    if deltas := sum(piece[2] for piece in pieces if piece[0] != "refusal"):
        told["deltas"] = deltas
    told["pace"] = make_pace(
        [(len(text), at - heard.began_ms) for _, text, _, at in pieces],
        end_ms=to_ms(end.time) - heard.began_ms,
    )
    if end.type == "end":
        if end.finish_reason != "stop":
            told["finish_reason"] = end.finish_reason or ""
        told["usage"] = None if end.usage is None else describe_usage(end.usage)
    else:
        told["error"] = clean(end.data if end.type == "error" else end.error or "")
        told["code"] = end.code
        told["final"] = True if end.type == "error" else None
    return {name: value for name, value in told.items() if value is not None}


def describe_usage(usage: Usage) -> dict[str, int]:
    """Return the counts by the short names of a cassette."""
    counts = {
        "in": usage.prompt_tokens,
        "out": usage.completion_tokens,
        "total": usage.total_tokens,
        "reasoning": usage.reasoning_tokens,
        "cached": usage.cached_tokens,
    }
    if usage.total_tokens == usage.prompt_tokens + usage.completion_tokens:
        del counts["total"]
    return {name: count for name, count in counts.items() if count is not None}


def make_pace(pieces: Sequence[tuple[int, int]], *, end_ms: int) -> list[int]:
    """Return when a text came: `[first ms, characters, ms, characters, ms, …, ms to the end]`.

    Between two of these points it comes evenly, which is true to 20 ms, or to what keeps the list
    small beside the text; first and last piece are exact.

    Args:
        pieces: Characters of each piece, and ms since the attempt began.
        end_ms: When the attempt ended.
    """
    points: list[tuple[int, int]] = []
    chars = latest_ms = 0
    for length, at_ms in pieces:
        chars, latest_ms = chars + length, max(latest_ms, at_ms)
        if not points:
            points.append((0, latest_ms))
        if length:
            points.append((chars, latest_ms))
    if len(points) < 2:
        return [max(0, end_ms)]
    tolerance_ms = _TOLERANCE_MS
    while len(kept := _straighten(points, tolerance_ms)) > 3 + chars // 100:
        tolerance_ms *= 2
    steps = [step for (c0, t0), (c1, t1) in itertools.pairwise(kept) for step in (c1 - c0, t1 - t0)]
    return [kept[0][1], *steps, max(0, end_ms - latest_ms)]


def _straighten(points: Sequence[tuple[int, int]], tolerance_ms: int) -> list[tuple[int, int]]:
    """Return the points of a line that is nowhere further away than that."""
    kept = [points[0]]
    low, high, last = float("-inf"), float("inf"), points[0]
    for point in points[1:]:
        chars, ms = point[0] - kept[-1][0], point[1] - kept[-1][1]
        if not low <= ms / chars <= high:
            kept.append(last)
            low, high = float("-inf"), float("inf")
            chars, ms = point[0] - last[0], point[1] - last[1]
        low = max(low, (ms - tolerance_ms) / chars)
        high = min(high, (ms + tolerance_ms) / chars)
        last = point
    return [*kept, last]


def check_redact(redact: object) -> None:
    """Refuse what can't be called, before anything is asked.

    Raises:
        ConfigError: It is no function.
    """
    if redact is not None and not callable(redact):
        raise ConfigError(
            f"redact=… is a function from messages to messages, got {type(redact).__name__}."
        )


def find_file(path: str | os.PathLike[str]) -> Path:
    """Return a cassette's whole path: the process that reads it has a folder of its own.

    Raises:
        ConfigError: It is no path.
    """
    try:
        if os.fspath(path):
            return Path(os.path.abspath(Path(path).expanduser()))
    except (TypeError, RuntimeError, ValueError):
        pass
    raise ConfigError(f"A cassette is a file like 'answers.jsonl', got {path!r:.80}.")


def load_cassette(path: Path) -> Cassette:
    """Read a file.

    Raises:
        ConfigError: It can't be read, or is something else.
    """
    try:
        facts = os.stat(path)
        cassette = _read(path, (facts.st_mtime_ns, facts.st_size, facts.st_ino))
    except OSError as exc:
        raise ConfigError(
            f"{path.name!r} can't be read as a cassette: {_explain_unread(path, exc)}. Expected a "
            "file that `kit.record()` or `kit.save_cassette()` wrote; a relative path begins at "
            "the notebook's folder."
        ) from exc
    if cassette.is_foreign:
        number, _, what = cassette.damaged[0]
        raise ConfigError(
            f"{path.name!r} can't be read as a cassette: it holds no answer, and of its lines the "
            f"first, line {number}, is none ({what}). Expected a file that `kit.record()` or "
            "`kit.save_cassette()` wrote; it is left as it is."
        )
    return cassette


@functools.lru_cache(maxsize=2)
def _read(path: Path, _stamp: tuple[int, int, int]) -> Cassette:
    """Read it once: `mode="extend"` looks into it at each submit."""
    return read_cassette(path.read_text(encoding=ENCODING, errors=UNDECODED))


def _explain_unread(path: Path, exc: OSError) -> str:
    if path.is_dir():
        return "it is a folder"
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r}"
    if isinstance(exc, FileNotFoundError):
        return f"it is not in {str(path.parent)!r}"
    return type(exc).__name__


def add_answers(path: Path, answers: Iterable[Answer]) -> Cassette:
    """Write answers into a file, beside what is there; returns what it holds then.

    Raises:
        ConfigError: It can't be read or written.
    """
    with _locked(path):
        before = load_cassette(path) if path.exists() else Cassette()
        cassette = merge(before, answers)
        _replace(path, write_cassette(cassette))
    return cassette


def replace_cassette(path: Path, change: Callable[[Cassette], Cassette]) -> Cassette:
    """Change what a file holds, while nobody else does.

    Raises:
        ConfigError: As `add_answers`.
    """
    with _locked(path):
        cassette = change(load_cassette(path))
        _replace(path, write_cassette(cassette))
    return cassette


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Be the only one of this machine who writes it; the lock is no file beside it."""
    name = hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:24]
    lock = FileLock(Path(tempfile.gettempdir()) / f"longtask-cassette-{name}.lock", mode=0o666)
    try:
        with lock.acquire(timeout=_LOCK_S):
            yield
    except Timeout as exc:
        raise ConfigError(
            f"{path.name!r} is being written by another process for {_LOCK_S:g} s now: end it."
        ) from exc


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole, or leave it; one that says so already is not touched."""
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and target.read_text(encoding="utf-8", errors=UNDECODED) == text:
            return
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        with tempfile.NamedTemporaryFile(
            "w",
            encoding="utf-8",
            errors=UNDECODED,
            newline="\n",
            dir=target.parent,
            prefix=".",
            delete=False,
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, mode if mode is not None else 0o666 & ~_read_umask())
        os.replace(file.name, target)
    except OSError as exc:
        raise ConfigError(
            f"{path.name!r} could not be written ({type(exc).__name__}: {exc.strerror}): is "
            f"{str(target.parent)!r} a folder that you may write to?"
        ) from exc


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
