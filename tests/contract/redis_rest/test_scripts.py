"""Scripts that take long: until their end Redis serves nobody else."""

import contextlib

import httpx
import pytest

from tests.contract.redis_rest.conftest import TOKEN
from tests.contract.redis_rest.test_commands import post
from tests.wait import wait_until

ENDLESS = ["EVAL", "while true do end", 0]
LIBRARY = "#!lua name=endless\nredis.register_function('endless', function() while true do end end)"


def busy_for_s(seconds: int) -> str:
    """A script that takes so long; its `TIME` stands still."""
    return f"local start = os.clock() while os.clock() < start + {seconds} do end return 'done'"


def leave(rest_url: str, path: str, content: object) -> None:
    """Send a request and go before it is answered."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(rest_url + path, json=content, headers=headers, timeout=0.5)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/", ENDLESS),
        pytest.param("/pipeline", [["PING"], ENDLESS, ENDLESS], marks=pytest.mark.thorough),
        pytest.param("/multi-exec", [["PING"], ENDLESS], marks=pytest.mark.thorough),
        pytest.param("/pipeline", [["BLPOP", "none", "0.01"], ENDLESS], marks=pytest.mark.thorough),
        pytest.param("/", ["FCALL", "endless", 0], marks=pytest.mark.thorough),
    ],
    ids=["alone", "in a pipeline", "in a transaction", "after a wait", "a function"],
)
def test_an_endless_script_ends_when_its_client_has_left(
    http: httpx.Client, rest_url: str, path: str, content: list[object]
) -> None:
    http.timeout = 40
    assert "error" not in post(http, "FUNCTION", "LOAD", "REPLACE", LIBRARY)
    leave(rest_url, path, content)
    wait_until(lambda: post(http, "PING") == {"result": "PONG"}, timeout_s=40)


@pytest.mark.thorough
def test_somebody_elses_script_is_not_ended_with_it(http: httpx.Client, rest_url: str) -> None:
    """It is next in line, and takes longer than Redis is deaf for."""
    leave(rest_url, "/", ["EVAL", busy_for_s(1), 0])
    answer = http.post("/", json=["EVAL", busy_for_s(6), 0], timeout=60)
    assert answer.json() == {"result": "done"}


def test_a_slow_script_whose_client_waits_is_answered(http: httpx.Client) -> None:
    answer = http.post("/", json=["EVAL", busy_for_s(2), 0], timeout=30)
    assert answer.json() == {"result": "done"}
