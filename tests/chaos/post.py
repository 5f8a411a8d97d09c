"""What stands before the queue's publish: the place to kill, or to post twice, in a hand-over."""

from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Deed = Callable[[], None]


@dataclass(eq=False)
class Post:
    """An ASGI app that passes everything on.

    Attributes:
        target: Where to.
        before: Done once before the next message of a hand-over is passed on.
        after: Done once when it has been, and nobody knows yet.
        twice: Whether such messages are posted as two.
        handed: How many of them there were.
    """

    target: str = ""
    before: Deed | None = None
    after: Deed | None = None
    twice: bool = False
    handed: int = 0
    ids: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = await request.body()
        path = scope["raw_path"].decode()
        if scope["query_string"]:
            path += f"?{scope['query_string'].decode()}"
        headers = {n: v for n, v in request.headers.items() if n not in ("host", "content-length")}
        name = headers.get("upstash-deduplication-id", "")
        is_hand_over = name.rpartition("-")[2].isdigit() and name.count("-") >= 2
        async with httpx.AsyncClient(base_url=self.target, trust_env=False, timeout=30) as client:
            if is_hand_over:
                self.handed += 1
                deed, self.before = self.before, None
                if deed is not None:
                    deed()
                if self.twice:
                    again = headers | {"upstash-deduplication-id": f"{name}-again"}
                    await client.request(scope["method"], path, content=body, headers=again)
            told = await client.request(scope["method"], path, content=body, headers=headers)
            if is_hand_over:
                deed, self.after = self.after, None
                if deed is not None:
                    deed()
        kept = {"content-type": told.headers.get("content-type", "application/json")}
        await Response(told.content, told.status_code, kept)(scope, receive, send)
