import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import httpx
import pytest
import redis
from httpx_sse import EventSource
from upstash_redis import Redis

from longtask_kit.local.redis import streams
from longtask_kit.local.redis.app import create_redis_rest_app
from tests.contract.redis_rest.conftest import READ_ONLY_TOKEN, TOKEN
from tests.serving import serve
from tests.wait import wait_until


@contextlib.contextmanager
def subscribe(http: httpx.Client, path: str, method: str = "POST") -> Iterator[Iterator[str]]:
    """Yield the `data` of each SSE event, as httpx-sse reads it."""
    headers = {"Accept": "text/event-stream", "Upstash-Encoding": "base64"}
    content = b"[]" if method == "POST" else None
    with http.stream(method, path, content=content, headers=headers) as response:
        assert response.status_code == 200
        yield (event.data for event in EventSource(response).iter_sse())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_acknowledgement_comes_first_and_means_live(
    http: httpx.Client, sdk: Redis, method: str
) -> None:
    with subscribe(http, "/subscribe/news", method) as events:
        assert next(events) == "subscribe,news,1"
        assert sdk.publish("news", "hello") == 1
        assert next(events) == "message,news,hello"


def test_the_bytes_are_those_of_the_wire_document(http: httpx.Client, sdk: Redis) -> None:
    with http.stream("POST", "/subscribe/c", content=b"[]") as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache"
        chunks = (chunk for chunk in response.iter_raw() if not chunk.startswith(b":"))
        assert next(chunks) == b"data: subscribe,c,1\n\n"
        sdk.publish("c", "one\ntwo")
        assert next(chunks) == b"data: message,c,one\ndata: two\n\n"


def test_messages_arrive_in_the_order_they_were_published(http: httpx.Client, sdk: Redis) -> None:
    with subscribe(http, "/subscribe/order") as events:
        next(events)
        pipeline = sdk.pipeline()
        for number in range(500):
            pipeline.publish("order", f"m{number}")
        pipeline.exec()
        assert [next(events) for _ in range(500)] == [f"message,order,m{n}" for n in range(500)]


@pytest.mark.parametrize(
    "payload", ["", "🌊 长江", "a,b,c", "one\ntwo\n", '{"a": "b"}', "x" * 99999]
)
def test_any_payload_arrives_whole(http: httpx.Client, sdk: Redis, payload: str) -> None:
    with subscribe(http, "/subscribe/any") as events:
        next(events)
        sdk.publish("any", payload)
        assert next(events) == f"message,any,{payload}"


@pytest.mark.parametrize("channel", ["a/b/c", "with space", "100%25", "长江", "q?x#y", "a//b/"])
def test_any_channel_name_can_be_subscribed_to(
    http: httpx.Client, sdk: Redis, channel: str
) -> None:
    for safe in ("/", ""):
        with subscribe(http, f"/subscribe/{quote(channel, safe=safe)}") as events:
            assert next(events) == f"subscribe,{channel},1"
            assert sdk.publish(channel, "x") == 1
            assert next(events) == f"message,{channel},x"
        wait_until(lambda: sdk.publish(channel, "x") == 0)


def test_a_pattern_gets_its_channels_messages(http: httpx.Client, sdk: Redis) -> None:
    with subscribe(http, "/psubscribe/task:*") as events:
        assert next(events) == "psubscribe,task:*,1"
        sdk.publish("other", "no")
        sdk.publish("task:1", "yes")
        assert next(events) == "pmessage,task:*,task:1,yes"


def test_publish_counts_its_receivers_and_forgets_those_that_left(
    http: httpx.Client, sdk: Redis
) -> None:
    assert sdk.publish("count", "x") == 0
    with subscribe(http, "/subscribe/count") as first, subscribe(http, "/subscribe/count") as other:
        assert next(first) == next(other) == "subscribe,count,1"
        assert sdk.publish("count", "x") == 2
    wait_until(lambda: sdk.publish("count", "x") == 0)


def test_silence_is_filled_with_comments(http: httpx.Client) -> None:
    with http.stream("GET", "/subscribe/silent") as response:
        chunks = response.iter_raw()
        assert next(chunks) == b"data: subscribe,silent,1\n\n"
        assert [next(chunks), next(chunks)] == [b": keepalive\n\n"] * 2


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/subscribe"), ("GET", "/subscribe/"), ("HEAD", "/subscribe/c")]
)
def test_a_subscription_without_a_channel_is_refused(
    http: httpx.Client, method: str, path: str
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"


def test_a_reader_that_reads_nothing_is_cut_off_and_costs_no_memory(
    http: httpx.Client, sdk: Redis, rest_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(rest_url)
    payload = "x" * (1024 * 1024)
    with (
        subscribe(http, "/subscribe/flood") as events,
        socket.create_connection((address.hostname, address.port)) as slow,
    ):
        next(events)
        slow.sendall(f"GET /subscribe/flood?_token={TOKEN} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert slow.recv(12) == b"HTTP/1.1 200"  # and with it the acknowledgement
        # More than the buffers of both ends and ours: then PUBLISH counts one reader less.
        for _ in range(100):
            receivers = sdk.publish("flood", payload)
            assert next(events) == f"message,flood,{payload}"
            if receivers == 1:
                break
        assert receivers == 1
        slow.settimeout(10)
        rest = b"".join(iter(lambda: slow.recv(1024 * 1024), b""))  # what was on its way
        assert len(rest) < 20 * len(payload)
        assert not rest.endswith(b"0\r\n\r\n")  # an end that doesn't look whole
    assert not caplog.records


def test_many_slow_readers_together_have_a_limit_too(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps up stays; the limit of each alone is out of reach here."""
    monkeypatch.setattr(streams, "_MAX_PENDING_BYTES", 1024**3)
    monkeypatch.setattr(streams, "_MAX_PENDING_BYTES_OF_ALL", 4 * 1024**2)
    app = create_redis_rest_app(redis_url, token=TOKEN)
    request = f"GET /subscribe/crowd?_token={TOKEN} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    payload = "x" * (1024 * 1024)
    with (
        serve(app) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}) as http,
        subscribe(http, "/subscribe/crowd") as events,
        redis.Redis.from_url(redis_url, protocol=2) as client,
        contextlib.ExitStack() as stack,
    ):
        next(events)
        address = urlsplit(url)
        for _ in range(4):
            slow = socket.create_connection((address.hostname, address.port))
            stack.enter_context(slow).sendall(request)
            assert slow.recv(12) == b"HTTP/1.1 200"
        for _ in range(100):
            receivers = client.publish("crowd", payload)
            assert next(events) == f"message,crowd,{payload}"
            if receivers == 1:
                break
        assert receivers == 1
    assert app._backlog.size_bytes == 0


def test_a_message_larger_than_the_limit_for_slow_readers_arrives(
    http: httpx.Client, sdk: Redis
) -> None:
    payload = "x" * (9 * 1024 * 1024)
    with subscribe(http, "/subscribe/large") as events:
        next(events)
        sdk.publish("large", payload)
        assert next(events) == f"message,large,{payload}"


def test_forty_readers_get_the_same_bytes_and_patterns_theirs(
    http: httpx.Client, sdk: Redis
) -> None:
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(subscribe(http, path))
            for path in ("/subscribe/crowd:1", "/psubscribe/crowd:*") * 20
        ]
        for events in opened:
            next(events)
        for text in ("same", "same", "other"):
            assert sdk.publish("crowd:1", text) == 40
        for events, start in zip(opened, ("message", "pmessage,crowd:*") * 20, strict=True):
            got = [next(events) for _ in range(3)]
            assert got == [f"{start},crowd:1,{text}" for text in ("same", "same", "other")]


def test_a_monitor_sees_every_command(http: httpx.Client, sdk: Redis) -> None:
    headers = {"Accept": "text/event-stream"}
    with http.stream("POST", "/monitor", headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert next(lines) == 'data: "OK"'
        sdk.set("monitored", "a b")
        pattern = r'data: \d+\.\d{6} \[0 0\.0\.0\.0:0\] "SET" "monitored" "a b"'
        assert re.fullmatch(pattern, next(lines))


def test_a_monitor_needs_the_accept_header_and_the_token_that_writes(rest_url: str) -> None:
    refused = httpx.post(f"{rest_url}/monitor", headers={"Authorization": f"Bearer {TOKEN}"})
    assert refused.json() == {"error": "ERR Command is not available: 'MONITOR'"}
    headers = {"Authorization": f"Bearer {READ_ONLY_TOKEN}", "Accept": "text/event-stream"}
    denied = httpx.post(f"{rest_url}/monitor", headers=headers)
    assert denied.status_code == 400
    assert denied.json()["error"].startswith("NOPERM ")


def test_a_stream_ends_when_redis_cuts_it_off(http: httpx.Client, redis_url: str) -> None:
    with subscribe(http, "/subscribe/cut") as events:
        next(events)
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            client.client_kill_filter(_type="pubsub")
        assert list(events) == []


@pytest.mark.parametrize("is_told", [False, True])
def test_open_streams_end_cleanly_when_the_app_ends_or_is_told_to_end_them(
    redis_url: str, is_told: bool
) -> None:
    app = create_redis_rest_app(redis_url, token=TOKEN)
    heard: list[str] = []
    started = threading.Event()

    def listen(url: str) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.stream("GET", f"{url}/subscribe/end", headers=headers) as response:
            for line in response.iter_lines():
                started.set()
                heard.append(line)
        heard.append("clean end")

    with serve(app) as url:
        listener = threading.Thread(target=listen, args=(url,))
        listener.start()
        assert started.wait(5)
        if is_told:
            (handler,) = app._streams
            assert handler is not None
            handler.get_loop().call_soon_threadsafe(app.end_streams)
            wait_until(lambda: not listener.is_alive())  # while the app still runs
    wait_until(lambda: not listener.is_alive())
    assert heard[-1] == "clean end"
