"""Cassettes: how true a replay is to the time that was recorded, and what a large file costs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtask_kit import LocalStack, connect
from longtask_kit.cassettes import Answer, Question
from longtask_kit.client.cassette import add_answers, load_cassette, make_pace
from longtask_kit.local.model.prose import split_tokens, write_reply
from tests.benchmarks.measure import Row, time_s
from tests.benchmarks.workbench import ask_task, check_same_text
from tests.serving import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive, Scope, Send

    from longtask_kit import Kit
    from tests.benchmarks.workbench import Answer as Heard
    from tests.benchmarks.workbench import Workbench

_MODEL = "jittery"
_FIRST_S, _STALL_S, _MEAN_S = 0.4, 0.8, 0.017
_DAY = "2026-11-28"


def measure_cassette(bench: Workbench) -> list[Row]:
    """A jittery service, recorded and then replayed; and a file of 1,000 answers.

    Bound by nothing but the pace that was recorded, which is told to 20 ms, and by what the way
    from the log to a second service adds; the file by JSON, a quarter of the time, and by the check
    of each line.
    """
    tokens = bench.scaled(150, 20)
    first, whole = [], []
    with tempfile.TemporaryDirectory(prefix="longtask-cassette-") as folder:
        file = Path(folder) / "answers.jsonl"
        prompts = [f"Explain jitter, part {number}" for number in range(bench.runs)]
        with (
            serve(_Jittery(tokens)) as url,
            connect(model=_MODEL, model_url=f"{url}/v1", quiet=True) as kit,
            kit.record(file),
        ):
            recorded = _ask(kit, prompts)
        with connect(replay=file, quiet=True) as kit:
            replayed = _ask(kit, prompts)
        for again, heard in zip(replayed, recorded, strict=True):
            check_same_text(again, heard)
            first.append(abs(again.first_s / heard.first_s - 1))
            whole.append(abs(again.ended_s / heard.ended_s - 1))
        if (stack := LocalStack.find()) is not None:
            stack.stop()
        opened, added = _measure_file(file.with_name("many.jsonl"), bench)
    note = f"recorded {recorded[-1].first_s:.2f} and {recorded[-1].ended_s:.2f} s"

    def row(
        what: str, unit: str, values: Sequence[float], aim: float | None, note: str = ""
    ) -> Row:
        return Row(benchmark="cassette", what=what, unit=unit, values=values, aim=aim, note=note)

    return [
        row("replay's first token, off by", "x", first, 0.1, note),
        row("replay's whole time, off by", "x", whole, 0.1),
        row("1,000 answers, opened", "s", opened, 0.3),
        row("1,000 answers, one more recorded", "s", added, None),
    ]


def _ask(kit: Kit, prompts: Sequence[str]) -> list[Heard]:
    kit.submit("Explain what loads late", model=_MODEL).result(60)
    return [ask_task(kit, prompt, model=_MODEL) for prompt in prompts]


def _measure_file(path: Path, bench: Workbench) -> tuple[list[float], list[float]]:
    count = bench.scaled(1000, 20)
    add_answers(path, [_make_answer(number) for number in range(count)])
    opened, added = [], []
    for number in range(bench.runs):
        os.utime(path)  # or it is known
        opened.append(time_s(lambda: load_cassette(path)))
        assert len(load_cassette(path).answers) == count + number
        more = _make_answer(count + number)
        os.utime(path)
        added.append(time_s(lambda: add_answers(path, [more])))  # noqa: B023 - at once
    return opened, added


def _make_answer(number: int) -> Answer:
    """Return one of about 200 tokens, as a jittery network would have brought it."""
    dice, prompt = random.Random(number), f"Tell me about number {number}, in a few words."
    text, at_ms, pieces = write_reply(prompt, seed=number), 300.0, []
    for token in split_tokens(text):
        at_ms += dice.expovariate(1 / (1000 * _MEAN_S))
        pieces.append((len(token), round(at_ms)))
    asked = {"model": _MODEL, "messages": [{"role": "user", "content": prompt}]}
    pace = make_pace(pieces, end_ms=round(at_ms))
    told = {"text": text, "deltas": len(pieces), "pace": pace, "usage": {"in": 9, "out": 200}}
    return Answer(Question.of_request(asked), _DAY, [told])


class _Jittery:
    """A model service whose tokens come at random moments, after a silence and with a stall."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        is_asked = scope["path"].endswith("/chat/completions")
        headers = [(b"content-type", b"text/event-stream" if is_asked else b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not is_asked:
            await send({"type": "http.response.body", "body": b'{"data":[{"id":"jittery"}]}'})
            return
        dice = random.Random(7)
        for number in range(self._tokens):
            extra_s = {0: _FIRST_S, self._tokens // 2: _STALL_S}.get(number, 0.0)
            await asyncio.sleep(dice.expovariate(1 / _MEAN_S) + extra_s)
            await _say(send, {"delta": {"content": f"word{number} "}})
        await _say(send, {"delta": {}, "finish_reason": "stop"})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _say(send: Send, choice: dict[str, Any]) -> None:
    body = f"data: {json.dumps({'choices': [{'index': 0} | choice]})}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})
