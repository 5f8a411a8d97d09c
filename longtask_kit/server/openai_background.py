"""Responses in the background: the model runs at its service, whoever listens; attempts read on.

https://platform.openai.com/docs/guides/background: each event has a number, behind which the
response is streamed again (`starting_after`) for about five minutes; later it is asked for until it
has ended. Its id and the last number are stored in the same append as the text.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.server.handlers import Delta, Keep, Outcome, StartOver, TakeUp
from longtask_kit.server.openai_responses import ResponsesDecoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from openai import AsyncOpenAI

    from longtask_kit.server.continuation import Standing
    from longtask_kit.server.handlers import Control
    from longtask_kit.server.openai_decoder import Piece
    from longtask_kit.submit.spec import TaskSpec

RESPONSE = "response"
"""The way of a response in the background: it is read on."""

_POLL_S = 2.0
_RUNNING = ("queued", "in_progress")


def is_in_background(spec: TaskSpec) -> bool:
    """Tell whether a task is to run in the background of its model service."""
    return spec.api == "responses" and spec.params.get("background") is True


def name_run(run_id: str, request: Mapping[str, Any]) -> str:
    """Return the `Idempotency-Key` of a request that begins a response.

    Its id may be lost with the process that asked; whoever knows such keys begins no second one.
    Another request, as one that was adapted to what the service takes, has another key.
    """
    asked = f"{run_id}\n{json.dumps(request, sort_keys=True)}"
    return hashlib.sha256(asked.encode()).hexdigest()[:40]


class BackgroundDecoder(ResponsesDecoder):
    """Reads the events of a response in the background, and tells where it is.

    The place that is told with an event is that of the one before: what an event says may be
    stored in parts, and is then said again from its beginning.

    Args:
        key: As in `Decoder`.
        place: Where it was, of a response that is read on.
        goes_on: Whether something of it stands.
    """

    def __init__(
        self, key: str = "", *, place: Mapping[str, Any] | None = None, goes_on: bool = False
    ) -> None:
        super().__init__(key, place=place)
        if goes_on:  # behind what stands, of which the end repeats all
            self._said |= {"content", "reasoning", "refusal"}
        if thought := self._place.get("thought"):  # or a paragraph of it would begin unseen
            self._thought = tuple(thought)

    def find_plain_text(self, event: dict[str, Any]) -> str:
        """Return nothing: every event has a number."""
        return ""

    def feed(self, event: dict[str, Any]) -> Sequence[Piece] | None:
        """Return what an event says, and where it stands."""
        former = dict(self._place)
        response = event.get("response")
        if isinstance(response, dict) and isinstance(response.get("id"), str):
            self._place.setdefault("id", response["id"])
        pieces = super().feed(event)
        number = event.get("sequence_number")
        if isinstance(number, int) and "id" in self._place:
            self._place["seq"] = number
            if self._thought is not None:
                self._place["thought"] = [*self._thought]
        if pieces:
            return [Keep(RESPONSE, former), *pieces] if "seq" in former else pieces
        return [Keep(RESPONSE, dict(self._place))] if self._place != former else pieces


class GoneError(Exception):
    """A response is not there any more, or came to nothing: it is to be begun anew."""


async def wait_for_end(client: AsyncOpenAI, place: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response once it has ended, however long that takes.

    Raises:
        GoneError: It is not there, or it failed.
    """
    from openai import NotFoundError

    while True:
        try:
            answer = await client.responses.with_raw_response.retrieve(place["id"])
        except NotFoundError as exc:
            raise GoneError from exc
        response = answer.http_response.json()
        if not isinstance(response, dict):
            raise RetryableError("The model told of no response.", code="model_protocol")
        if response.get("status") in ("failed", "cancelled"):
            raise GoneError
        if response.get("status") not in _RUNNING:
            return response
        await asyncio.sleep(_POLL_S)


async def tell_rest(
    response: dict[str, Any], standing: Standing, key: str
) -> AsyncIterator[Piece | Outcome | Control]:
    """Yield a response that has ended, from its beginning; what stands of it is swallowed.

    Of reasoning there are other texts in a whole response than in its events, so that what stands
    of it stays as it is.
    """
    yield TakeUp({"content": 0, "refusal": 0}, is_paid_again=False)
    async for said in tell_whole(response, key):
        is_thought = isinstance(said, Delta) and said.type == "reasoning"
        if not (is_thought and standing.texts["reasoning"]):
            yield said


async def tell_whole(response: dict[str, Any], key: str) -> AsyncIterator[Piece | Outcome]:
    """Yield a response that has ended."""
    decoder = ResponsesDecoder(key)
    for said in [*(decoder.feed(response) or ()), *decoder.end()]:
        yield said


async def begin_anew(
    said: AsyncIterator[Piece | Outcome | Control], *, is_paid_again: bool = True
) -> AsyncIterator[Piece | Outcome | Control]:
    """Yield what is said instead of all before: that stands until there is something."""
    has_begun = False
    async for item in said:
        if not has_begun:
            has_begun = True
            yield StartOver(is_paid_again)
        yield item


async def cancel_response(client: AsyncOpenAI, place: Mapping[str, Any]) -> None:
    """Have a response end at its service, which goes on by itself else."""
    from openai import OpenAIError

    try:
        await client.responses.cancel(place["id"])
    except OpenAIError as exc:
        message = f"The response was not cancelled ({type(exc).__name__})."
        raise NonRetryableError(message, code="model_cancel") from None
