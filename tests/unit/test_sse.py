"""The stream response: whole frames, comments in silence, an end when the client leaves."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator

import httpx
import pytest
from fastapi import FastAPI
from starlette.background import BackgroundTask
from starlette.types import Message

import longtask_kit as lt
from longtask_kit.server.sse import SseResponse
from tests.serving import serve
from tests.wait import wait_until

pytestmark = pytest.mark.anyio
PING = b": ping\n\n"


class Streams:
    """An app whose `/stream` goes on when the test says so."""

    def __init__(self, *, heartbeat_s: float = 15.0) -> None:
        self.app = FastAPI()
        self.go_on = threading.Event()
        self.is_closing, self.is_closed = threading.Event(), threading.Event()
        self.error: Exception | None = None

        @self.app.get("/stream", response_class=SseResponse)
        async def stream() -> SseResponse:
            return SseResponse(self.make_frames(), heartbeat_s=heartbeat_s)

    async def make_frames(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: 1\n\n"
            while not self.go_on.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.005)
            if self.error is not None:
                raise self.error
            yield b"data: 2\n\n"
        finally:
            self.is_closing.set()
            await asyncio.sleep(0.01)  # closing a connection takes a few turns of the loop
            self.is_closed.set()


@pytest.fixture
def streams() -> Streams:
    return Streams()


def test_frames_come_as_they_are_with_the_headers_of_a_stream(streams: Streams) -> None:
    streams.go_on.set()
    with serve(streams.app) as url:
        answer = httpx.get(f"{url}/stream")
    assert answer.content == b"data: 1\n\ndata: 2\n\n"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers
    assert streams.is_closed.is_set()


def test_silence_is_filled_with_comments_between_whole_frames() -> None:
    streams = Streams(heartbeat_s=0.02)
    seen = b""
    with serve(streams.app) as url, httpx.stream("GET", f"{url}/stream") as answer:
        for piece in answer.iter_raw():
            seen += piece
            if seen.count(PING) == 3:
                streams.go_on.set()
    assert seen.count(PING) >= 3
    assert seen.replace(PING, b"") == b"data: 1\n\ndata: 2\n\n"


def test_a_client_that_leaves_ends_the_stream_and_nothing_is_left_half_closed(
    streams: Streams,
) -> None:
    with serve(streams.app) as url:
        with httpx.stream("GET", f"{url}/stream") as answer:
            assert next(answer.iter_raw()) == b"data: 1\n\n"
        wait_until(streams.is_closed.is_set)
        streams.go_on.set()


def test_a_server_that_stops_closes_its_streams(streams: Streams) -> None:
    with httpx.Client() as client, serve(streams.app) as url:
        request = client.build_request("GET", f"{url}/stream")
        pieces = client.send(request, stream=True).iter_raw()
        assert next(pieces) == b"data: 1\n\n"
        assert not streams.is_closing.is_set()
    assert streams.is_closing.is_set()  # uvicorn waits for no more than that


def check_break(streams: Streams) -> None:
    """Read a stream until its error, which breaks the connection."""
    with serve(streams.app) as url, httpx.stream("GET", f"{url}/stream") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"data: 1\n\n"
        streams.go_on.set()
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)


def test_an_error_amid_a_stream_is_no_end_that_a_client_could_take_for_one(
    streams: Streams,
) -> None:
    streams.error = ValueError("amid the stream")
    check_break(streams)
    assert streams.is_closed.is_set()


def test_a_stream_of_what_is_not_there_any_more_breaks_with_a_line_in_the_log_and_no_traceback(
    streams: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    streams.error = lt.StreamExpiredError("No task 'task_1'.", task_id="task_1")
    check_break(streams)
    assert "A stream is broken off: No task 'task_1'." in caplog.messages
    assert [record.exc_info for record in caplog.records if record.exc_info] == []


# -- at the edge of ASGI ------------------------------------------------------------------------


async def wait_for_ever() -> Message:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets it")


async def test_a_replay_leaves_the_loop_to_others() -> None:
    met = asyncio.Event()

    async def replay() -> AsyncGenerator[bytes, None]:
        asyncio.get_running_loop().call_soon(met.set)
        for _ in range(1000):
            if met.is_set():
                return
            yield b"data: 1\n\n"
        raise AssertionError("nobody else had a turn")

    async def send(message: Message) -> None:
        """Never waits, as a server whose client reads fast enough."""

    await SseResponse(replay())({"type": "http"}, wait_for_ever, send)


async def test_a_frame_waits_for_the_comment_that_is_being_sent() -> None:
    ping_began, frame_waits = asyncio.Event(), asyncio.Event()
    log = []

    async def frames() -> AsyncGenerator[bytes, None]:
        await ping_began.wait()
        asyncio.get_running_loop().call_later(0.01, frame_waits.set)
        yield b"data: 1\n\n"

    async def send(message: Message) -> None:
        body = message.get("body")
        log.append(f"begin {body!r}")
        if body == PING:
            ping_began.set()
            await frame_waits.wait()
        log.append(f"end {body!r}")

    await SseResponse(frames(), heartbeat_s=0.01)({"type": "http"}, wait_for_ever, send)
    assert log[::2] == [line.replace("end", "begin") for line in log[1::2]]
    assert f"end {PING!r}" in log


async def test_a_send_that_fails_is_a_client_that_left() -> None:
    closed, done = [], []

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: 1\n\n"
        finally:
            closed.append(True)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("gone")

    response = SseResponse(frames())
    response.background = BackgroundTask(lambda: done.append(True))
    await response({"type": "http"}, wait_for_ever, send)
    assert closed == done == [True]


async def test_a_comment_that_is_due_just_before_the_end_is_left_out() -> None:
    log = []

    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        time.sleep(0.05)  # noqa: ASYNC251 - the heartbeat is due when the loop gets its turn
        await asyncio.sleep(0)  # in it the timer starts a comment,
        await asyncio.sleep(0)  # which begins only after the end has

    async def send(message: Message) -> None:
        log.append(message.get("body"))
        await asyncio.sleep(0)

    await SseResponse(frames(), heartbeat_s=0.04)({"type": "http"}, wait_for_ever, send)
    assert log == [None, b"data: 1\n\n", b""]
