"""The stack's model service, whose streams break where a test wants them to."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from longtask_kit.local.model.app import create_model_app
from longtask_kit.settings import DEMO_LABEL

_ID = re.compile(rb'"id": ?"(resp_[0-9a-f]+)"')


class _CutError(Exception):
    """The connection breaks."""


@dataclass(eq=False)
class CutModel:
    """An ASGI app around the demo model.

    Attributes:
        cuts: After how many events of a stream the connection breaks, for each call in turn; None
            lets it come to its end, as do calls after the last.
        asked: Body of every request.
        change: What becomes of a request's body.
        hides_header: Whether its answers don't say who can continue.
        paths: Of every request with a body.
        response_ids: Of all responses that were begun, whoever heard of it.
    """

    key: str = "key"
    cuts: Iterator[int | None] = field(default_factory=lambda: iter(()))
    asked: list[dict[str, Any]] = field(default_factory=list)
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body
    hides_header: bool = False
    stream_again_s: float = 300.0
    paths: list[str] = field(default_factory=list)
    response_ids: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Lose all that the service keeps."""
        self._app = create_model_app(
            api_key=self.key,
            label=DEMO_LABEL,
            tokens_per_s=1e5,
            stream_again_s=self.stream_again_s,
        )

    def posts(self, path: str) -> int:
        """Return how many requests there were to a path."""
        return self.paths.count(path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        raw = b""
        if scope["method"] == "POST":
            body = json.loads(await _read(receive) or "{}")
            self.asked.append(body)
            self.paths.append(scope["path"])
            raw = json.dumps(self.change(body)).encode()
        left = next(self.cuts, None)
        unread = [raw]

        async def receive_changed() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        async def send_until_cut(message: Message) -> None:
            nonlocal left
            self.response_ids.update(_ID.findall(message.get("body", b"")))
            if message["type"] == "http.response.start" and self.hides_header:
                message["headers"] = [h for h in message["headers"] if b"continues" not in h[0]]
            if left is None or message["type"] == "http.response.start":
                await send(message)
                return
            events = message.get("body", b"").split(b"\n\n")
            kept = b"".join(event + b"\n\n" for event in events[:left] if event)
            if kept or left > 0:
                await send({"type": "http.response.body", "body": kept, "more_body": True})
            left -= sum(bool(event) for event in events)
            if left <= 0:
                raise _CutError

        try:
            await self._app(scope, receive_changed, send_until_cut)
        except _CutError:
            return  # without an end: the server closes the connection


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)
