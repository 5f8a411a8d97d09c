"""Recorded answers: the model service says what a cassette holds, at the pace that it had.

For the app of this stack, which names the file in a header; whoever has the service's key may
read files with it, as with anything else of this computer's user. What a recording tells beyond
the shape of chat completions stands in a chunk's `longtask`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from longtask_kit.cassettes import ENCODING, UNDECODED, Cassette, Question, read_cassette
from longtask_kit.local.model.nearest import explain_missing
from longtask_kit.local.model.prose import split_tokens
from longtask_kit.local.model.request import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

_KINDS = (("reasoning", "reasoning_content"), ("text", "content"), ("refusal", "refusal"))
_MAX_FRAMES = 64  # a write


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the headers of a request say of a recording.

    Attributes:
        path: The file.
        speed: 1 is the recorded pace, 2 twice as fast, 0 as fast as it goes.
        sample: Which of several answers to one question.
        attempt: 1 is the first.
    """

    path: Path
    speed: float = 1.0
    sample: int = 0
    attempt: int = 1

    @classmethod
    def of_headers(cls, headers: Mapping[str, str]) -> Replay | None:
        """Return what they say; None where no recording is asked.

        Raises:
            ApiError: 400, a number is none.
        """
        path = headers.get("x-longtask-cassette")
        if path is None:
            return None
        try:
            speed = float(headers.get("x-longtask-speed", "1"))
            sample = int(headers.get("x-longtask-sample", "0"))
            attempt = int(headers.get("x-longtask-attempt", "1"))
        except ValueError as exc:
            raise ApiError(400, f"A header X-Longtask-… is no number: {exc}.") from exc
        if not (math.isfinite(speed) and speed >= 0):
            raise ApiError(400, "X-Longtask-Speed must be a number from 0 on.")
        return cls(path=Path(unquote(path)), speed=speed, sample=sample, attempt=attempt)


class Shelf:
    """The cassettes that were asked for, read again when they have changed."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[int, int, int], Cassette]] = {}

    async def open(self, path: Path) -> Cassette:
        """Return what a file holds.

        Raises:
            ApiError: 404, it can't be read.
        """
        return await asyncio.to_thread(self._open, path)

    def _open(self, path: Path) -> Cassette:
        try:
            facts = os.stat(path)
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if (known := self._read.get(path)) is None or known[0] != stamp:
                text = path.read_text(encoding=ENCODING, errors=UNDECODED)
                self._read[path] = known = stamp, read_cassette(text)
            return known[1]
        except OSError as exc:
            message = (
                f"The recording {path.name} can't be read ({type(exc).__name__}): is it still "
                "where connect(replay=…) found it?"
            )
            raise ApiError(404, message, code="not_recorded") from exc


def list_models(cassette: Cassette, file: str) -> list[dict[str, Any]]:
    """Return the models that answered, as `/v1/models` lists them."""
    return [
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "longtask-cassette",
            "description": f"Recorded answers, replayed from {file}.",
        }
        for name in cassette.models
    ]


def find_attempt(
    cassette: Cassette, body: Mapping[str, Any], replay: Replay
) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return the attempt that is asked for, and where it comes from.

    Raises:
        ApiError: 404, the question is not recorded; the message says which one is nearest.
    """
    question = Question.of_request(body, sample=replay.sample)
    answer = cassette.find(question)
    if answer is None:
        message = explain_missing(question, cassette, file=replay.path.name)
        raise ApiError(404, message, param="messages", code="not_recorded")
    attempt = answer.attempts[min(max(replay.attempt, 1), len(answer.attempts)) - 1]
    source = {"file": replay.path.name, "recorded": answer.recorded, "model": question.model}
    return attempt, source


async def stream_attempt(
    attempt: Mapping[str, Any], source: Mapping[str, str], *, model: str, speed: float
) -> AsyncIterator[str]:
    """Yield an attempt's frames as they fall due: what it said, and its end or its error."""
    began = time.monotonic()
    yield _frame({"longtask": {"replayed": dict(source)}})
    deltas = split_attempt(attempt)
    due_ms, end_ms = schedule(attempt.get("pace") or (0,), [len(text) for _, text in deltas])
    waiting = [(at_ms, _chunk(model, {name: text})) for at_ms, (name, text) in zip(due_ms, deltas)]  # noqa: B905
    at = 0
    while at < len(waiting):
        await _sleep_until(began, waiting[at][0], speed)
        elapsed_ms = (time.monotonic() - began) * 1000 * speed if speed else math.inf
        due = itertools.takewhile(
            lambda item: item[0] <= elapsed_ms,  # noqa: B023 - at once
            waiting[at + 1 : at + _MAX_FRAMES],
        )
        frames = [waiting[at][1], *(chunk for _, chunk in due)]
        at += len(frames)
        yield "".join(map(_frame, frames))
    await _sleep_until(began, end_ms, speed)
    if "error" in attempt:
        yield _frame({"longtask": {"error": _describe_error(attempt, speed)}})
        return
    for frame in _end(attempt, model):
        yield frame


def split_attempt(attempt: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what it said in as many pieces as it came in, each with its name in a delta."""
    texts = [(name, str(attempt.get(kind) or "")) for kind, name in _KINDS]
    whole = sum(len(text) for name, text in texts if name != "refusal") or 1
    count = int(attempt.get("deltas") or 1)
    deltas: list[tuple[str, str]] = []
    for name, text in texts:
        share = len(text) / whole
        pieces = max(1, round(count * share)) if name != "refusal" else len(text) // 5 + 1
        if name == "content" and deltas:  # all that reasoning has left
            pieces = max(1, count - len(deltas))
        deltas += [(name, piece) for piece in _cut(text, pieces)]
    return deltas


def _cut(text: str, count: int) -> list[str]:
    """Return a text in so many pieces: as the demo model says it, else evenly."""
    if not text:
        return []
    tokens = split_tokens(text)
    if len(tokens) == count:
        return tokens
    count = min(count, len(text))
    ends = [len(text) * i // count for i in range(count + 1)]
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def schedule(pace: Sequence[int], lengths: Sequence[int]) -> tuple[list[float], float]:
    """Return when each piece is due, and the end, in ms since the attempt began.

    Args:
        pace: `[first ms, characters, ms, …, ms to the end]`, as it is recorded.
        lengths: Characters of the pieces.
    """
    first_ms, steps, tail_ms = pace[0], pace[1:-1], pace[-1] if len(pace) > 1 else 0
    points = list(
        itertools.accumulate(
            zip(steps[::2], steps[1::2]),  # noqa: B905
            lambda at, step: (at[0] + step[0], at[1] + step[1]),
            initial=(0, first_ms),
        )
    )
    ends = list(itertools.accumulate(lengths))
    due: list[float] = [float(first_ms)] * bool(ends)  # what comes first is told as it was
    segment = 0
    for chars in ends[1:]:
        while segment < len(points) - 2 and points[segment + 1][0] < chars:
            segment += 1
        due.append(_interpolate(points[segment : segment + 2], chars))
    return due, float(points[-1][1] + tail_ms)


def _interpolate(points: Sequence[tuple[int, int]], chars: int) -> float:
    (c0, t0), (c1, t1) = points[0], points[-1]
    if c1 == c0:
        return float(t1)
    return t0 + (t1 - t0) * min(1.0, (chars - c0) / (c1 - c0))


async def _sleep_until(began: float, at_ms: float, speed: float) -> None:
    # Sleeping even for 0 s lets the loop run, and is where a departed client is noticed.
    due_s = began + at_ms / 1000 / speed - time.monotonic() if speed else 0.0
    await asyncio.sleep(max(0.0, due_s))


def _describe_error(attempt: Mapping[str, Any], speed: float) -> dict[str, Any]:
    wait_ms = attempt.get("wait_ms")
    told = {"message": attempt["error"], "code": attempt.get("code") or "model_error"}
    told["is_final"] = bool(attempt.get("final"))
    # Whole seconds are what the queue waits for; a wait that was measured is a little longer.
    if wait_ms is not None:
        told["retry_after_s"] = int(wait_ms / 1000 / speed) if speed else 0
    return told


def explain_as_recorded(exc: ApiError) -> str:
    """Return the frame of an error that no recording holds, and no other attempt mends."""
    error = exc.body["error"]
    told = {"message": error["message"], "code": error["code"] or "not_recorded", "is_final": True}
    return _frame({"longtask": {"error": told}})


def _end(attempt: Mapping[str, Any], model: str) -> Iterator[str]:
    if calls := attempt.get("tool_calls"):
        told = [{"index": i, **call} for i, call in enumerate(calls)]
        yield _frame(_chunk(model, {"tool_calls": told}))
    yield _frame(_chunk(model, {}, attempt.get("finish_reason", "stop") or None))
    if usage := attempt.get("usage"):
        yield _frame(_chunk(model, None) | {"usage": _write_usage(usage)})
    yield "data: [DONE]\n\n"


def _write_usage(usage: Mapping[str, int]) -> dict[str, Any]:
    asked, said = usage.get("in", 0), usage.get("out", 0)
    wire: dict[str, Any] = {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": usage.get("total", asked + said),
    }
    if "cached" in usage:
        wire["prompt_tokens_details"] = {"cached_tokens": usage["cached"]}
    if "reasoning" in usage:
        wire["completion_tokens_details"] = {"reasoning_tokens": usage["reasoning"]}
    return wire


def _chunk(model: str, delta: dict[str, Any] | None, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-replayed", "object": "chat.completion.chunk", "model": model}
    return chunk | {"choices": [] if delta is None else [choice]}


def _frame(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # Half a surrogate pair, which a line may hold, stays the escape that it is there.
    return f"data: {text.encode(errors='backslashreplace').decode()}\n\n"
