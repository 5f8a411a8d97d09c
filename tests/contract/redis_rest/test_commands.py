import asyncio
import base64
import hashlib
import json
import socket
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from upstash_redis import Redis

from longtask_kit.local.redis import resp
from longtask_kit.local.redis.engine import Engine
from tests.contract.redis_rest.conftest import TOKEN
from tests.wait import wait_until

BASE64 = {"Upstash-Encoding": "base64"}
TEXT = st.text(st.characters(codec="utf-8"))
SHARED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def post(http: httpx.Client, *command: object, **headers: str) -> Any:  # noqa: ANN401
    return http.post("/", json=list(command), headers=headers).json()


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


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "01", "1.", "'x'", '"\n"'])
def test_what_is_no_json_is_refused(http: httpx.Client, literal: str) -> None:
    answer = http.post("/", content=f'["echo",{literal}]')
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("ERR ")


ARGUMENTS = st.lists(
    st.one_of(TEXT, st.binary(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    min_size=1,
    max_size=5,
)


@SHARED
@given(ARGUMENTS)
def test_any_list_of_arguments_is_stored_as_it_was_sent(
    http: httpx.Client, arguments: list[str | bytes | float]
) -> None:
    """Bytes that are no UTF-8 fit in no JSON: they go in the path, and come back in base64."""
    post(http, "DEL", "arguments")
    in_body = all(not isinstance(argument, bytes) for argument in arguments)
    if in_body:
        post(http, "RPUSH", "arguments", *arguments)
    sent = [
        a if isinstance(a, bytes) else a.encode() if isinstance(a, str) else json.dumps(a).encode()
        for a in arguments
    ]
    if not in_body:
        assume(not {b".", b".."} & {*sent})  # a client resolves such segments (RFC 3986, 5.2.4)
        path = "/".join(quote(argument, safe="") for argument in sent)
        assert http.get(f"/rpush/arguments/{path}").json() == {"result": len(sent)}
    answer = http.post("/", json=["LRANGE", "arguments", 0, -1], headers=BASE64).json()
    assert [*map(base64.b64decode, answer["result"])] == sent


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


def test_a_script_that_ran_once_is_known(http: httpx.Client) -> None:
    script = "return 'ran once'"
    post(http, "EVAL", script, 0)
    sha = hashlib.sha1(script.encode()).hexdigest()  # noqa: S324 - Redis' own choice
    assert post(http, "SCRIPT", "EXISTS", sha) == {"result": [1]}


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

    async def run() -> list[resp.Reply]:
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
