import asyncio
import base64
import hashlib
import json
import socket
from typing import Any

import httpx
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upstash_redis import Redis
from upstash_redis.asyncio import Redis as AsyncRedis
from upstash_redis.errors import UpstashError

from longtask_kit.local import redis_resp
from longtask_kit.local.redis_link import Engine
from longtask_kit.local.redis_rest import create_redis_rest_app
from tests.contract.redis_rest.conftest import TOKEN
from tests.serving import serve
from tests.wait import wait_until

BASE64 = {"Upstash-Encoding": "base64"}
TEXT = st.text(st.characters(codec="utf-8"))
SHARED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def post(http: httpx.Client, *command: object, **headers: str) -> Any:  # noqa: ANN401
    return http.post("/", json=list(command), headers=headers).json()


# The official SDK, sync and async


def test_the_sdk_reads_what_it_wrote_in_any_language(sdk: Redis) -> None:
    assert sdk.set("river", "长江 🌊\nOK")
    assert sdk.get("river") == "长江 🌊\nOK"
    assert sdk.get("none") is None


def test_the_text_ok_is_a_value_like_any_other(sdk: Redis) -> None:
    sdk.set("answer", "OK")
    assert sdk.get("answer") == "OK"
    assert sdk.mget("answer", "none") == ["OK", None]


def test_hashes_and_sorted_sets_have_the_shapes_the_sdk_formats(sdk: Redis) -> None:
    sdk.hset("h", values={"a": "1", "b": "två"})
    assert sdk.hgetall("h") == {"a": "1", "b": "två"}
    sdk.zadd("z", {"m": 1.5, "n": 2})
    assert sdk.zrange("z", 0, -1, withscores=True) == [("m", 1.5), ("n", 2.0)]
    assert sdk.zscore("z", "m") == 1.5
    assert sdk.hscan("h", 0)[0] == 0


def test_a_stream_is_added_to_and_read(sdk: Redis) -> None:
    assert sdk.xadd("s", "1-1", {"data": "a"}) == "1-1"
    sdk.xadd("s", "1-2", {"data": "b"})
    ranged: object = sdk.xrange("s", "(1-1", "+")
    assert ranged == [["1-2", ["data", "b"]]]
    read: object = sdk.xread({"s": "1-1"})
    assert read == [["s", [["1-2", ["data", "b"]]]]]
    assert sdk.xread({"s": "9-9"}) == []
    with pytest.raises(UpstashError, match="equal or smaller"):
        sdk.xadd("s", "1-1", {"data": "again"})


def test_scripts_run_by_source_and_by_sha(sdk: Redis) -> None:
    script = "return {KEYS[1], ARGV[1], 3}"
    sha = hashlib.sha1(script.encode()).hexdigest()  # noqa: S324 - Redis' own choice
    sdk.script_flush()
    with pytest.raises(UpstashError) as caught:
        sdk.evalsha(sha, keys=["k"], args=["v"])
    assert str(caught.value) == "NOSCRIPT No matching script. Please use EVAL."
    assert sdk.eval(script, keys=["k"], args=["v"]) == ["k", "v", 3]
    assert sdk.evalsha(sha, keys=["k"], args=["v"]) == ["k", "v", 3]
    assert sdk.script_exists(sha) == [True]


def test_a_pipeline_answers_in_order(sdk: Redis) -> None:
    pipeline = sdk.pipeline()
    pipeline.set("n", 1).incr("n").get("n")
    assert pipeline.exec() == [True, 2, "2"]


def test_a_transaction_answers_in_order(sdk: Redis) -> None:
    transaction = sdk.multi()
    transaction.set("n", 1).incr("n").get("n")
    assert transaction.exec() == [True, 2, "2"]


def test_a_slash_at_the_end_of_the_url_does_no_harm(rest_url: str) -> None:
    with Redis(url=f"{rest_url}/", token=TOKEN, rest_retries=0) as client:
        pipeline = client.pipeline()
        pipeline.ping()
        assert pipeline.exec() == ["PONG"]


def test_the_asyncio_sdk_runs_many_calls_at_once(rest_url: str) -> None:
    async def run() -> list[str | None]:
        async with AsyncRedis(url=rest_url, token=TOKEN, rest_retries=0) as client:
            await asyncio.gather(*(client.set(f"many:{n}", n) for n in range(50)))
            return list(await asyncio.gather(*(client.get(f"many:{n}") for n in range(50))))

    assert asyncio.run(run()) == [str(n) for n in range(50)]


# What an argument becomes


@SHARED
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_any_texts_survive_echo_in_a_pipeline(http: httpx.Client, texts: list[str]) -> None:
    answer = http.post("/pipeline", json=[["ECHO", text] for text in texts])
    assert answer.json() == [{"result": text} for text in texts]


@SHARED
@given(TEXT, TEXT)
def test_any_text_survives_set_and_get_in_base64(sdk: Redis, key: str, value: str) -> None:
    sdk.set(key, value)
    assert sdk.get(key) == value


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ("1.0", "1.0"),
        ("1.5", "1.5"),
        ("-0", "-0"),
        ("100000000000000000000", "100000000000000000000"),
        ("1e3", "1e3"),
        ("9" * 5000, "9" * 5000),
        ("true", "true"),
        ("false", "false"),
        ("null", "null"),
        ('"{\\"a\\": 1}"', '{"a": 1}'),
        ('""', ""),
    ],
)
def test_numbers_and_booleans_keep_their_literal_text(
    http: httpx.Client, literal: str, text: str
) -> None:
    assert http.post("/", content=f'["echo",{literal}]').json() == {"result": text}


def test_bytes_that_are_no_utf8_become_replacement_characters(http: httpx.Client) -> None:
    assert http.post("/set/raw", content=b"a\xff").json() == {"result": "OK"}
    assert post(http, "GET", "raw") == {"result": "a\ufffd"}
    assert http.post("/", json=["GET", "raw"], headers=BASE64).json() == {
        "result": base64.b64encode(b"a\xff").decode()
    }


# What a reply becomes


def test_base64_encodes_every_string_at_every_depth_but_ok_at_the_top(http: httpx.Client) -> None:
    def ask(*command: object) -> object:
        return http.post("/", json=list(command), headers=BASE64).json()["result"]

    assert ask("SET", "k", "v") == "OK"
    assert ask("PING") == "UE9ORw=="
    script = "return {'a', {'OK', {ok='OK'}, {1, false}}}"
    assert ask("EVAL", script, 0) == ["YQ==", ["T0s=", "T0s=", [1, None]]]


def test_errors_are_not_encoded(http: httpx.Client) -> None:
    answer = http.post("/pipeline", json=[["PING"], ["NOPE"]], headers=BASE64).json()
    assert answer[0] == {"result": "UE9ORw=="}
    assert answer[1]["error"].startswith("ERR unknown command 'NOPE'")


def test_doubles_and_maps_keep_their_resp2_forms(http: httpx.Client) -> None:
    post(http, "DEL", "z", "h")
    post(http, "ZADD", "z", 1.5, "m")
    post(http, "HSET", "h", "a", "b")
    assert post(http, "ZSCORE", "z", "m") == {"result": "1.5"}
    assert post(http, "HGETALL", "h") == {"result": ["a", "b"]}


def test_an_error_code_of_any_kind_reaches_the_client_whole(http: httpx.Client) -> None:
    post(http, "SET", "text", "x")
    assert post(http, "INCR", "text") == {"error": "ERR value is not an integer or out of range"}
    assert post(http, "LPUSH", "text", "x")["error"].startswith("WRONGTYPE Operation against")
    script = "return redis.error_reply('MYCODE with words')"
    assert post(http, "EVAL", script, 0) == {"error": "MYCODE with words"}


def test_an_error_below_the_top_of_a_reply_is_a_text(http: httpx.Client) -> None:
    script = "return {1, redis.pcall('NOPE')}"
    number, text = post(http, "EVAL", script, 0)["result"]
    assert (number, text[:4]) == (1, "ERR ")


# The three forms of a request


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_command_may_be_a_path(http: httpx.Client, method: str) -> None:
    assert http.request(method, "/set/foo/bar").json() == {"result": "OK"}
    assert http.request(method, "/get/foo").json() == {"result": "bar"}


def test_path_segments_are_percent_decoded_and_may_be_empty(http: httpx.Client) -> None:
    assert http.get("/echo/a%2Fb%20%E6%B2%B3+").json() == {"result": "a/b 河+"}
    assert http.get("/echo/").json() == {"result": ""}


def test_a_body_is_the_last_argument_and_the_query_adds_options(http: httpx.Client) -> None:
    assert http.post("/set/q?EX=100&NX", content="v").json()["result"] in ("OK", None)
    post(http, "DEL", "q")
    assert http.post("/set/q?EX=100&NX", content="v").json() == {"result": "OK"}
    assert post(http, "GET", "q") == {"result": "v"}
    assert post(http, "TTL", "q")["result"] in (99, 100)
    assert http.post("/set/q?NX", content="w").json() == {"result": None}


def test_a_failing_pipeline_item_stops_no_other_item(http: httpx.Client) -> None:
    commands = [["SET", "p", "x"], ["INCR", "p"], ["SUBSCRIBE", "c"], ["GET", "p"]]
    answer = http.post("/pipeline", json=commands)
    assert answer.status_code == 200
    ok, incr, subscribe, get = answer.json()
    assert (ok, get) == ({"result": "OK"}, {"result": "x"})
    assert "not an integer" in incr["error"]
    assert subscribe == {"error": "ERR Command is not available: 'SUBSCRIBE'"}


def test_a_runtime_error_in_a_transaction_is_an_item(http: httpx.Client) -> None:
    answer = http.post("/multi-exec", json=[["SET", "t", "x"], ["INCR", "t"], ["GET", "t"]])
    assert answer.status_code == 200
    ok, incr, get = answer.json()
    assert (ok, get) == ({"result": "OK"}, {"result": "x"})
    assert incr == {"error": "ERR value is not an integer or out of range"}


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (["SET", "t"], "ERR wrong number of arguments for 'set' command"),
        (["NOPE"], "ERR unknown command 'NOPE'"),
        (["WATCH", "t"], "ERR Command is not available: 'WATCH'"),
    ],
)
def test_a_refused_command_discards_the_transaction(
    http: httpx.Client, bad: list[str], text: str
) -> None:
    post(http, "SET", "t", "before")
    answer = http.post("/multi-exec", json=[["SET", "t", "after"], bad])
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)
    assert post(http, "GET", "t") == {"result": "before"}
    assert post(http, "PING") == {"result": "PONG"}


# Refusals: always JSON, always under `error`


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}],
)
def test_a_wrong_token_is_refused(rest_url: str, headers: dict[str, str]) -> None:
    for path in ("/", "/pipeline", "/multi-exec", "/get/x", "/subscribe/c"):
        answer = httpx.post(rest_url + path, json=["PING"], headers=headers)
        assert answer.status_code == 401
        assert answer.json() == {"error": "WRONGPASS invalid or missing auth token"}


def test_the_token_may_be_a_query_parameter_and_is_no_argument(rest_url: str) -> None:
    answer = httpx.get(f"{rest_url}/echo/hi?_token={TOKEN}")
    assert answer.json() == {"result": "hi"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/get/x"), ("OPTIONS", "/"), ("PATCH", "/pipeline"), ("GET", "/pipeline")],
)
def test_other_methods_are_not_allowed(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["error"].startswith("ERR method")


@pytest.mark.parametrize("path", ["/", "/pipeline", "/multi-exec"])
@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"nonsense", b"[[]]", b'[[["PING"]]]', b'[{"a":1}]', b"\xff", b"[" * 99999],
)
def test_a_malformed_body_is_refused(http: httpx.Client, path: str, body: bytes) -> None:
    answer = http.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("ERR ")


@pytest.mark.parametrize(
    "command",
    [["select", "1"], ["MULTI"], ["CLIENT", "REPLY", "OFF"], ["HELLO", "3"], ["SHUTDOWN"],
     ["Monitor"], ["CONFIG", "GET", "*"], ["SCRIPT", "DEBUG", "YES"]],
)  # fmt: skip
def test_commands_that_would_harm_a_shared_connection_are_refused(
    http: httpx.Client, command: list[str]
) -> None:
    answer = http.post("/", json=command)
    assert answer.status_code == 400
    assert answer.json() == {"error": f"ERR Command is not available: '{command[0].upper()}'"}


def test_a_key_over_32_kb_is_refused_and_a_large_value_is_not(http: httpx.Client) -> None:
    large = "x" * (32 * 1024 + 1)
    assert post(http, "SET", large, "v") == {
        "error": "ERR max key size exceeded. Limit: 32768 bytes, Actual: 32769 bytes"
    }
    assert post(http, "SET", "large", large) == {"result": "OK"}
    assert post(http, "ECHO", large) == {"result": large}


def test_a_request_over_10_mb_is_refused(http: httpx.Client) -> None:
    answer = http.post("/", content=b"[" + b" " * (10 * 1024 * 1024))
    assert answer.status_code == 400
    assert answer.json() == {"error": "ERR max request size exceeded"}


def test_a_redis_that_is_away_is_an_error_in_json() -> None:
    with serve(create_redis_rest_app("unix:///nowhere.sock", token=TOKEN)) as url:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/pipeline", "/subscribe/c"):
            answer = httpx.post(url + path, content='[["PING"]]', headers=headers)
            assert answer.status_code == 500
            assert answer.json() == {"error": "ERR Redis did not answer (ConnectionError)"}


# Headers and connections


def test_the_sync_token_changes_with_every_answer_and_any_echo_is_taken(http: httpx.Client) -> None:
    tokens = [
        http.post("/", json=["PING"], headers={"Upstash-Sync-Token": echoed}).headers[
            "Upstash-Sync-Token"
        ]
        for echoed in ("", "my-new-sync-token", "local:1")
    ]
    assert len(set(tokens)) == 3
    assert all(tokens)


def test_a_client_that_leaves_while_it_blocks_takes_nothing_with_it(
    http: httpx.Client, rest_url: str, redis_url: str
) -> None:
    def blocked_clients() -> int:
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            return int(client.info("clients")["blocked_clients"])

    post(http, "DEL", "list")
    body = json.dumps(["BLPOP", "list", 0])
    host, port = rest_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaver:
        leaver.sendall(
            f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        wait_until(lambda: blocked_clients() == 1)
    wait_until(lambda: blocked_clients() == 0)
    assert post(http, "RPUSH", "list", "x") == {"result": 1}
    assert post(http, "BLPOP", "list", 1) == {"result": ["list", "x"]}


@pytest.mark.parametrize("apart", [False, True])
def test_an_interrupted_reply_is_never_read_by_the_next_caller(
    redis_url: str, *, apart: bool
) -> None:
    """The unit that holds the connection: cancelled while Redis still owes it an answer."""

    async def run() -> list[redis_resp.Reply]:
        engine = Engine(redis_url)
        ask = engine.run_apart if apart else engine.run
        slow = asyncio.ensure_future(ask([[b"BLPOP", b"no-list", b"0.2"], [b"PING"]]))
        done, _ = await asyncio.wait([slow], timeout=0.1)
        assert not done
        slow.cancel()
        await asyncio.wait([slow])
        replies = [(await ask([[b"ECHO", b"%d" % n]]))[0] for n in range(3)]
        engine.close()
        return replies

    assert asyncio.run(run()) == [b"0", b"1", b"2"]
