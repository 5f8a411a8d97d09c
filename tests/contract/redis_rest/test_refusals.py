"""Refusals: always JSON, always under `error`."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtask_kit.local.redis.app import create_redis_rest_app
from tests.contract.redis_rest.conftest import READ_ONLY_TOKEN, TOKEN
from tests.contract.redis_rest.test_commands import SHARED, post
from tests.serving import serve


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


@pytest.mark.parametrize("command", ["MSET", "DEL", "EVAL"])
def test_every_key_of_a_command_has_a_limit(http: httpx.Client, command: str) -> None:
    large = "x" * 32769
    arguments: dict[str, list[object]] = {
        "MSET": ["a", large, large, "b"],
        "DEL": ["a", "b", large],
        "EVAL": [f"return 1 --{large}", 2, "a", large, large],
    }
    row = [command, *arguments[command]]
    for path, content in (("/", row), ("/multi-exec", [["PING"], row])):
        answer = http.post(path, json=content)
        assert answer.status_code == 400
        text = "ERR max key size exceeded. Limit: 32768 bytes, Actual: 32769 bytes"
        assert answer.json() == {"error": text}


def test_a_record_over_100_mb_is_refused(http: httpx.Client) -> None:
    answer = http.post("/", json=["SETRANGE", "large", 100 * 1024 * 1024, "x"])
    assert answer.status_code == 400
    assert answer.json() == {"error": "ERR max single record size exceeded"}


@pytest.mark.parametrize(
    "command",
    [["JSON.SET", "k", "$", "1"], ["XACKDEL", "s", "g", "IDS", 1, "1-1"], ["SEARCH.QUERY", "i"],
     ["XDELEX", "s", "IDS", 1, "1-1"], ["VADD", "v"], ["BF.ADD", "b", "x"], ["TOPK.ADD", "t", "x"]],
)  # fmt: skip
def test_what_the_engine_lacks_is_refused_in_its_own_words(
    http: httpx.Client, command: list[str]
) -> None:
    answer = http.post("/", json=command)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"ERR unknown command '{command[0]}'")


# The read-only token


@pytest.fixture
def reader(rest_url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {READ_ONLY_TOKEN}"}
    with httpx.Client(base_url=rest_url, headers=headers) as client:
        yield client


@pytest.mark.parametrize(
    "command",
    [["GET", "k"], ["get", "k"], ["MGET", "k", "l"], ["HGETALL", "h"], ["XRANGE", "s", "-", "+"],
     ["PING"], ["ECHO", "x"], ["TIME"], ["DBSIZE"], ["TTL", "k"],
     ["OBJECT", "FREQ"], ["XREAD", "STREAMS", "s", "0"]],
)  # fmt: skip
def test_the_read_only_token_reads(reader: httpx.Client, command: list[str]) -> None:
    assert "NOPERM" not in reader.post("/", json=command).text


@pytest.mark.parametrize(
    "command",
    [["SET", "k", "v"], ["del", "k"], ["EVAL", "return 1", "0"], ["GETDEL", "k"], ["GETEX", "k"],
     ["FLUSHALL"], ["SCAN", "0"], ["KEYS", "*"], ["PUBLISH", "c", "x"], ["SCRIPT", "FLUSH"],
     ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"], ["XGROUP", "CREATE", "s", "g", "$"],
     ["FUNCTION", "FLUSH"], ["SORT", "k", "STORE", "l"], ["CLIENT", "SETINFO", "LIB-NAME", "x"],
     # A script may run for ever, and use KEYS.
     ["EVAL_RO", "return 1", "0"], ["evalsha_ro", "0" * 40, "0"], ["FCALL_RO", "f", "0"]],
)  # fmt: skip
def test_the_read_only_token_changes_nothing(reader: httpx.Client, command: list[str]) -> None:
    text = (
        f"NOPERM this user has no permissions to run the '{command[0].lower()}' command or its "
        "subcommand"
    )
    answer = reader.post("/", json=command)
    assert (answer.status_code, answer.json()) == (400, {"error": text})
    assert reader.get("/" + "/".join(quote(part, safe="") for part in command)).json() == {
        "error": text
    }
    assert reader.post("/pipeline", json=[["PING"], command]).json() == [
        {"result": "PONG"},
        {"error": text},
    ]
    assert reader.post("/multi-exec", json=[["PING"], command]).json() == {"error": text}


def test_the_read_only_token_may_be_a_query_parameter_and_may_subscribe(rest_url: str) -> None:
    answer = httpx.get(f"{rest_url}/set/k/v?_token={READ_ONLY_TOKEN}")
    assert answer.json()["error"].startswith("NOPERM ")
    url = f"{rest_url}/subscribe/c?_token={READ_ONLY_TOKEN}"
    with httpx.stream("GET", url) as response:
        assert next(response.iter_lines()) == "data: subscribe,c,1"


# Whatever comes, JSON is the answer


@SHARED
@given(
    st.sampled_from(["/", "/pipeline", "/multi-exec", "/set/k", "//pipeline", "/%ff/%00", "/echo"]),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]),
    st.one_of(st.binary(max_size=200), st.text(max_size=50).map(str.encode)),
)
def test_noise_is_answered_in_json(http: httpx.Client, path: str, method: str, body: bytes) -> None:
    check_json(http.request(method, path, content=body))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(st.text(), items, max_size=2),
    max_leaves=20,
)
NAMES = st.sampled_from(["SET", "get", "Eval", "XADD", "XREAD", "MULTI", "EXEC", "SUBSCRIBE", ""])


@SHARED
@given(
    st.sampled_from(["/", "/pipeline", "/multi-exec"]),
    st.one_of(JSON, st.lists(st.builds(lambda name, rest: [name, *rest], NAMES, st.lists(JSON)))),
    st.booleans(),
)
def test_any_json_is_answered_in_json(
    http: httpx.Client, path: str, body: object, is_cut: bool
) -> None:
    content = json.dumps(body).encode()
    check_json(http.post(path, content=content[: len(content) // 2] if is_cut else content))
    assert http.post("/", json=["ECHO", "in step"], timeout=5).json() == {"result": "in step"}


def check_json(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400, 405)
    assert answer.headers["content-type"] == "application/json"
    if answer.request.method == "HEAD":
        return
    body = answer.json()
    for item in body if isinstance(body, list) else [body]:
        (name,) = item
        assert name in ("result", "error")
        assert name == "result" or item["error"]


def test_a_redis_that_is_away_is_an_error_in_json() -> None:
    with serve(create_redis_rest_app("unix:///nowhere.sock", token=TOKEN)) as url:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/pipeline", "/subscribe/c"):
            answer = httpx.post(url + path, content='[["PING"]]', headers=headers)
            assert answer.status_code == 500
            assert answer.json() == {"error": "ERR Redis did not answer (ConnectionError)"}
