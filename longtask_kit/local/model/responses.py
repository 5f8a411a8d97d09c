"""The demo models at `/v1/responses`: one run of a model, whoever watches it, and for how long.

https://platform.openai.com/docs/api-reference/responses has the shapes, and
https://platform.openai.com/docs/guides/background what a run in the background can: it goes on when
nobody listens, is read on behind a sequence number (`starting_after`) for five minutes, asked for
later, and cancelled. What a run has said by now follows from its start, so nothing runs here.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longtask_kit.local.model.native_request import read_input
from longtask_kit.local.model.reply import Reply, Token, write_answer
from longtask_kit.local.model.request import ApiError, check_type, read_chat_request, wrong_field

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from longtask_kit.local.model.request import ChatRequest

_KEPT_RUNS = 1000
_STEP_S = 0.05
_DELTAS = {
    "content": "response.output_text.delta",
    "reasoning_content": "response.reasoning_summary_text.delta",
    "refusal": "response.refusal.delta",
}
_PARTS = {"content": ("output_text", "text"), "refusal": ("refusal", "refusal")}


def read_response_request(body: dict[str, Any], others: Sequence[str] = ()) -> ChatRequest:
    """Check a body as the hosted API does, and return what the demo model obeys of it.

    Raises:
        ApiError: 400 naming the field, or 404 for an unknown model.
    """
    asked = read_input(body.get("input"))
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if instructions := check_type(body, "instructions", str, "a string"):
        messages = [{"role": "system", "content": instructions}, *messages]
    named = ("model", "stream", "temperature")
    chat = {name: body.get(name) for name in named} | {"messages": messages}
    chat["max_tokens"] = check_type(body, "max_output_tokens", int, "an integer")
    check_type(body, "background", bool, "true or false")
    request = read_chat_request(chat, others)
    if request.model.speaks == "tools":
        message = "The demo model that calls tools knows chat completions only."
        raise ApiError(400, message, param="model", code="unsupported_endpoint")
    return request


@dataclass(slots=True)
class Run:
    """One response, begun at a moment.

    Attributes:
        reply: What it says in the end.
        rate: Tokens a second.
        in_background: Whether it goes on when nobody listens, and is kept.
        key: What whoever began it calls it, or "".
        started: When, on the monotonic clock.
        cancelled: When it was, or None.
    """

    reply: Reply
    rate: float
    in_background: bool
    key: str = ""
    response_id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(24)}")
    started: float = field(default_factory=time.monotonic)
    cancelled: float | None = None

    @property
    def length(self) -> int:
        """How many events it has in all."""
        return len(self.reply.tokens) + 3

    def due_in_s(self, number: int) -> float:
        """Return how long it takes until it has come to an event; a cancelled one never does."""
        token = min(max(number - 2, 0), max(len(self.reply.tokens) - 1, 0))
        delay_s = self.reply.request.model.delay_s if number > 1 else 0.0
        due = self.started + delay_s + token / self.rate
        if self.cancelled is not None and due > self.cancelled:
            return math.inf
        return due - time.monotonic()

    @property
    def said(self) -> list[Token]:
        """What it has said by now."""
        tokens = self.reply.tokens
        low, high = 0, len(tokens)
        while low < high:  # the first that is not due
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.due_in_s(middle + 2) <= 0 else (low, middle)
        return tokens[:low]

    @property
    def status(self) -> str:
        """Its status by now, in the API's words."""
        if self.due_in_s(self.length - 1) <= 0:
            return "completed" if self.reply.finish_reason == "stop" else "incomplete"
        return "in_progress" if self.cancelled is None else "cancelled"

    def cancel(self) -> None:
        """End it now; the same if it is cancelled again, or has ended."""
        if self.status == "in_progress":
            self.cancelled = time.monotonic()

    def to_body(self, status: str = "") -> dict[str, Any]:
        """Return the response as it is by now, or was when it had this status."""
        status = status or self.status
        usage = self.reply.usage
        counted = {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
        }
        is_over = status in ("completed", "incomplete")
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.reply.created,
            "model": self.reply.request.model.name,
            "status": status,
            "background": self.in_background,
            "error": None,
            "incomplete_details": cut,
            "output": _make_output(self.reply.tokens if is_over else self.said, status),
            "usage": counted if is_over else None,
        }

    def make_event(self, number: int) -> dict[str, Any]:
        """Return an event by its sequence number."""
        if number < 2:
            type_ = ("response.created", "response.in_progress")[number]
            body = self.to_body("in_progress") | {"output": []}
            event: dict[str, Any] = {"type": type_, "response": body}
        elif number < self.length - 1:
            kind, value = self.reply.tokens[number - 2]
            event = {"type": _DELTAS[kind], "item_id": f"item_{kind}", "delta": value}
            event |= {"output_index": 0, "content_index": 0}
        else:
            event = {"type": f"response.{self.status}", "response": self.to_body()}
        return event | {"sequence_number": number}

    async def stream(self, *, after: int = -1, cut_at: int | None = None) -> AsyncIterator[str]:
        """Yield its events behind a sequence number as they come; less all behind `cut_at`."""
        for number in range(after + 1, self.length):
            if cut_at is not None and number >= cut_at:
                return
            while (wait_s := self.due_in_s(number)) > 0:
                if self.cancelled is not None:
                    body = {"type": "response.cancelled", "response": self.to_body()}
                    yield _frame(body | {"sequence_number": number})
                    return
                await asyncio.sleep(min(wait_s, _STEP_S))
            yield _frame(self.make_event(number))

    async def wait(self) -> str:
        """Return it as JSON: at once in the background, else when it has ended."""
        if not self.in_background:
            await asyncio.sleep(max(0.0, self.due_in_s(self.length - 1)))
        return json.dumps(self.to_body(), ensure_ascii=False)


class Runs:
    """The runs in the background that can still be asked for.

    Args:
        again_s: A run is read on, as a stream, for so long after it began.
    """

    def __init__(self, *, again_s: float) -> None:
        self._again_s = again_s
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._ids: dict[str, str] = {}  # by the key of whoever began it

    def start(
        self, request: ChatRequest, *, rate: float, in_background: bool, key: str = ""
    ) -> Run:
        """Begin a run, or return the one in the background that was begun with this key.

        Raises:
            ApiError: 422, that was another request.
        """
        if key and in_background and (known := self._runs.get(self._ids.get(key, ""))):
            if known.reply.request != request:
                message = "This Idempotency-Key was used with another request: use another one."
                raise ApiError(422, message, code="idempotency_key_reuse")
            return known
        run = Run(write_answer(request), rate, in_background, key)
        if in_background:
            self._runs[run.response_id] = run
            self._ids |= {key: run.response_id} if key else {}
            if len(self._runs) > _KEPT_RUNS:
                _, oldest = self._runs.popitem(last=False)
                self._ids.pop(oldest.key, None)
        return run

    def find(self, response_id: str) -> Run:
        """Return a run.

        Raises:
            ApiError: 404, it is not there (any more).
        """
        if response_id not in self._runs:
            message = f"Response with id '{response_id[:100]}' not found."
            raise ApiError(404, message, param="id")
        return self._runs[response_id]

    def find_stream(self, response_id: str, starting_after: str | None) -> tuple[Run, int]:
        """Return a run, and where it is read on.

        Raises:
            ApiError: 404, or 400: it began too long ago, or the number is none.
        """
        run = self.find(response_id)
        if time.monotonic() - run.started > self._again_s:
            raise ApiError(400, "This response is too old to be streamed again: retrieve it.")
        try:
            return run, -1 if starting_after is None else int(starting_after)
        except ValueError:
            raise wrong_field("starting_after", "expected an integer") from None


def _make_output(tokens: Sequence[Token], status: str) -> list[dict[str, Any]]:
    texts: dict[str, str] = {}
    for kind, value in tokens:
        texts[kind] = texts.get(kind, "") + value
    output: list[dict[str, Any]] = []
    if thought := texts.pop("reasoning_content", ""):
        summary = [{"type": "summary_text", "text": thought}]
        output.append({"id": "item_reasoning_content", "type": "reasoning", "summary": summary})
    for kind, text in texts.items():
        part, name = _PARTS[kind]
        item = {"id": f"item_{kind}", "type": "message", "role": "assistant", "status": status}
        output.append(item | {"content": [{"type": part, name: text}]})
    return output


def _frame(event: dict[str, Any]) -> str:
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {text}\n\n"
