"""What the qstash tests speak to and with: a scripted destination, an SDK, a patient eye."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from qstash import QStash, Receiver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from longtask_kit.local.qstash import create_qstash_app

TOKEN = "token-of-the-qstash-tests"
CURRENT_KEY = "sig_current_0123456789abcdefghij"
NEXT_KEY = "sig_next_0123456789abcdefghijklm"
TIME_SCALE = 0.001
PROMPT_RETRY = "1000 * (1 + retried)"  # 1 ms, 2 ms, … at this time scale

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, timeout_s: float = 5.0) -> T:
    """Return the first true value of `condition`, looked at every few milliseconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"nothing in {timeout_s} s"
        time.sleep(0.004)
    return value


@dataclass(frozen=True)
class Delivery:
    """One request as the destination got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    time_s: float


@dataclass
class Answer:
    """What the destination says; with a gate it says so only once the gate is set."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None


class Destination:
    """Records every request and plays the answers scripted for a path, then 200."""

    def __init__(self) -> None:
        self.url = ""
        self.deliveries: list[Delivery] = []
        self.disconnects = 0
        self._answers: dict[str, collections.deque[Answer]] = {}
        self._statuses: list[tuple[str, int]] = []

    def reset(self) -> None:
        self.deliveries, self.disconnects, self._answers = [], 0, {}
        self._statuses = []

    def script(self, path: str, *answers: Answer) -> str:
        """Set the answers for a path; return the URL of it."""
        self._answers[path] = collections.deque(answers)
        return self.url + path

    def answered(self, path: str) -> list[int]:
        """The statuses of the answers to the deliveries at a path, in their order."""
        return [status for target, status in self._statuses if target == path]

    def at(self, path: str) -> list[Delivery]:
        return [found for found in self.deliveries if found.target.partition("?")[0] == path]

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        scope = request.scope
        query = scope["query_string"].decode("latin-1")
        raw_path = scope["raw_path"].decode("latin-1")
        target = raw_path + (f"?{query}" if query else "")
        script = self._answers.get(raw_path)
        chosen = script.popleft() if script else Answer()
        headers = dict(request.headers)
        self.deliveries.append(Delivery(request.method, target, headers, body, time.time()))
        self._statuses.append((raw_path, chosen.status))
        while chosen.gate is not None and not chosen.gate.is_set():
            if await request.is_disconnected():
                self.disconnects += 1
                break
            await anyio.sleep(0.004)
        return Response(chosen.body, chosen.status, headers=chosen.headers)


def make_app(redis_url: str, **options: Any) -> Starlette:  # noqa: ANN401
    given: dict[str, Any] = {
        "token": TOKEN,
        "current_signing_key": CURRENT_KEY,
        "next_signing_key": NEXT_KEY,
        "time_scale": TIME_SCALE,
    }
    return create_qstash_app(redis_url, **(given | options))


@contextlib.contextmanager
def sdk_for(url: str, token: str = TOKEN) -> Iterator[QStash]:
    sdk = QStash(token, retry=False, base_url=url)
    try:
        yield sdk
    finally:
        sdk.http._client.close()


def verify(delivery: Delivery, url: str, *keys: str) -> None:
    """Check a delivery's signature as the official SDK does."""
    current, following = keys or (CURRENT_KEY, NEXT_KEY)
    signature = delivery.headers["upstash-signature"]
    Receiver(current, following).verify(signature=signature, body=delivery.body.decode(), url=url)


def states_of(sdk: QStash, message_id: str) -> list[str]:
    """The states a message went through, oldest first."""
    found = sdk.log.list(filter={"message_id": message_id}).logs
    return [entry.state.value for entry in reversed(found)]


def publish(sdk: QStash, url: str, **options: Any) -> str:  # noqa: ANN401
    published: Any = sdk.message.publish(url=url, **options)
    return str(published.message_id)
