"""The queue's pure decisions: durations, expressions, hints, when to try again, destinations."""

import contextlib
import email.utils
import math
import sys
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtask_kit.local.qstash.delays import (
    MAX_DURATION_S,
    MAX_EXPRESSION_CHARS,
    evaluate_expression,
    parse_duration_s,
    parse_go_duration_s,
)
from longtask_kit.local.qstash.destination import destination_of, origin_of, rewrite, target_of
from longtask_kit.local.qstash.errors import DurationError, ExpressionError
from longtask_kit.local.qstash.message import dump_message, load_message, parse_message
from longtask_kit.local.qstash.outcome import backoff_s, hinted_delay_s, next_delay_s

NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [("10s", 10), ("0s", 0), ("5m", 300), ("1d10h30m", 124_200), ("2h", 7200), ("90m5s", 5405)],
)
def test_a_duration_is_read_in_seconds(text: str, expected_s: int) -> None:
    assert parse_duration_s(text) == expected_s


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1.5s", "1s1m", "1 s", "١s", "367d", "1ms"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(DurationError):
        parse_duration_s(text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_every_duration_in_range_reads_back(days: int, hours: int, minutes: int, secs: int) -> None:
    text = f"{days}d{hours}h{minutes}m{secs}s"
    assert parse_duration_s(text) == days * 86_400 + hours * 3600 + minutes * 60 + secs


@given(st.text() | st.from_regex(r"[0-9dhmsnuµ.+]{0,200}", fullmatch=True))
def test_any_text_is_a_duration_in_range_or_a_duration_error(text: str) -> None:
    with contextlib.suppress(DurationError):
        assert 0 <= parse_duration_s(text) <= MAX_DURATION_S
    with contextlib.suppress(DurationError):
        assert 0 <= parse_go_duration_s(text) < math.inf


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [("6m5s", 365), ("1.5h", 5400), ("300ms", 0.3), ("2µs", 2e-6), (".5s", 0.5), ("1h2ns", 3600)],
)
def test_a_go_duration_is_read_in_seconds(text: str, expected_s: float) -> None:
    assert parse_go_duration_s(text) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("text", "retried", "expected"),
    [
        ("1000", 0, 1000),
        ("1000 * (1 + retried)", 2, 3000),
        ("pow(2, retried)", 10, 1024),
        ("2 ^ retried", 3, 8),
        ("max(10, pow(2, retried))", 1, 10),
        ("min(5, 6, 4)", 0, 4),
        ("round(2.5) + floor(1.9) + ceil(1.1) + abs(-4) + sqrt(9)", 0, 13),
        ("exp(0) - -1 + +1", 0, 3),
        ("7 % 4 / 2", 0, 1.5),
        ("pow(9, pow(9, pow(9, 9)))", 0, math.inf),
        ("exp(1000)", 0, math.inf),
        ("9" * 256, 0, 1e256),
    ],
)
def test_an_expression_has_the_value_of_its_arithmetic(
    text: str, retried: int, expected: float
) -> None:
    assert evaluate_expression(text, retried=retried) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "retry",
        "1 +",
        "__import__('os').system('true')",
        "retried.real",
        "(lambda: 1)()",
        "[1][0]",
        "1 if retried else 2",
        "pow(2)",
        "pow(x=1, y=2)",
        "max()",
        "max(*[1])",
        "sqrt",
        "True",
        "'a'",
        "1j",
        "1 // 2",
        "1 < 2",
        "1 / retried",
        "sqrt(-1)",
        "exp(1000) - exp(1000)",
        "floor(exp(1000) - exp(1000))",
        "1" * 257,
        "(" * 250,
        "-" * 255 + "1",
    ],
)
def test_anything_else_is_an_expression_error_or_plain_arithmetic(text: str) -> None:
    if text.startswith("--"):
        assert evaluate_expression(text, retried=0) == -1
        return
    with pytest.raises(ExpressionError):
        evaluate_expression(text, retried=0)


EXPRESSIONS = st.recursive(
    st.sampled_from(["retried", "0", "9", "1.5", "1e308", "99999999999999999999"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "%", "^", "**"]), inner).map(
            lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
        )
        | st.tuples(st.sampled_from(["pow", "max", "min"]), inner, inner).map(
            lambda parts: f"{parts[0]}({parts[1]},{parts[2]})"
        )
        | st.tuples(
            st.sampled_from(["sqrt", "abs", "exp", "floor", "ceil", "round", "-"]), inner
        ).map(lambda parts: f"{parts[0]}({parts[1]})")
    ),
    max_leaves=20,
)


@given(
    st.text() | st.from_regex(r"[0-9a-z+*/^%(), .-]{0,80}", fullmatch=True) | EXPRESSIONS,
    st.integers(0, 10_000),
)
def test_any_text_has_a_value_or_an_expression_error_after_a_few_steps_a_character(
    text: str, retried: int
) -> None:
    with counted_calls() as calls, contextlib.suppress(ExpressionError):
        assert not math.isnan(evaluate_expression(text, retried=retried))
    # Each of them is arithmetic of two floats, never of a giant integer.
    assert len(calls) <= 10 * MAX_EXPRESSION_CHARS
    assert 0 <= backoff_s(retried, expression=text) <= 86_400


@contextlib.contextmanager
def counted_calls() -> Iterator[list[str]]:
    """List every call that is made while the context is open, of Python and of C."""
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_call"):
            calls.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def test_the_default_backoff_is_the_documented_one() -> None:
    assert [int(backoff_s(retried)) for retried in range(5)] == [12, 148, 1808, 22_026, 86_400]
    assert backoff_s(10_000) == 86_400


def test_an_expression_without_a_value_later_on_falls_back_to_the_default() -> None:
    assert backoff_s(3, expression="1000 / (3 - retried)") == backoff_s(3)
    assert backoff_s(2, expression="1000 / (3 - retried)") == 1.0
    assert backoff_s(0, expression="0 - 5") == 0.0


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({"Retry-After": ["120"]}, 120),
        ({"Retry-After": ["1.5"]}, 1.5),
        ({"Retry-After": [email.utils.formatdate(NOW_S + 60, usegmt=True)]}, 60),
        ({"Retry-After": [email.utils.formatdate(NOW_S - 60, usegmt=True)]}, 0),
        ({"X-Ratelimit-Reset": ["6m5s"]}, 365),
        ({"X-Ratelimit-Reset-Requests": ["0"]}, 0),
        ({"Retry-After": ["90000"]}, None),
        ({"Retry-After": ["90000"], "X-Ratelimit-Reset-Tokens": ["3s"]}, 3),
        ({"X-Ratelimit-Reset": [str(int(NOW_S))]}, None),
        ({"Retry-After": ["soon"]}, None),
        ({"Retry-After": ["-1"]}, None),
        ({}, None),
    ],
)
def test_a_hint_is_seconds_a_date_or_a_go_duration_of_at_most_a_day(
    headers: dict[str, list[str]], expected_s: float | None
) -> None:
    assert hinted_delay_s(headers, now_s=NOW_S) == expected_s


@given(st.text())
def test_any_hint_is_usable_or_ignored(text: str) -> None:
    delay_s = hinted_delay_s({"Retry-After": [text]}, now_s=NOW_S)
    assert delay_s is None or 0 <= delay_s <= 86_400


@pytest.mark.parametrize(
    ("status", "headers", "retried", "expected_s"),
    [
        (500, {}, 0, 6.0),
        (500, {}, 3, None),
        (0, {}, 0, 6.0),
        (503, {"Retry-After": ["7"]}, 0, 7),
        (489, {"Upstash-Nonretryable-Error": ["true"]}, 0, None),
        (489, {"Upstash-Nonretryable-Error": ["false"]}, 0, 6.0),
        (500, {"Upstash-Nonretryable-Error": ["true"]}, 0, 6.0),
    ],
)
def test_a_failed_attempt_is_tried_again_after_a_delay_or_given_up(
    status: int, headers: dict[str, list[str]], retried: int, expected_s: float | None
) -> None:
    delay_s = next_delay_s(
        status,
        headers,
        retried=retried,
        max_retries=3,
        expression="12000",
        now_s=NOW_S,
        time_scale=0.5,
    )
    assert delay_s == expected_s


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1/", True),
        ("http://LOCALHOST:8000/", True),
        ("https://[::1]/x", True),
        ("http://[::ffff:10.0.0.1]/", False),
        ("http://0.0.0.0/", False),
        ("http://127.0.0.1.nip.io/", False),
        ("http://2130706433/", False),
        ("http://user@10.1.1.1/", False),
    ],
)
def test_only_loopback_addresses_and_localhost_are_on_this_machine(
    url: str, expected: bool
) -> None:
    assert origin_of(url).is_loopback is expected


def test_an_ipv6_address_is_read_also_as_httpx_escapes_it() -> None:
    path = b"/v2/publish/http://%5B::1%5D:80/a%5Bb%5D"
    assert destination_of(path, b"x=1") == "http://[::1]:80/a%5Bb%5D?x=1"


def test_a_rewrite_replaces_the_whole_origin_only() -> None:
    rewrites = {"http://127.0.0.1:80": "http://127.0.0.1:9"}
    assert rewrite("http://127.0.0.1:80/a", rewrites) == "http://127.0.0.1:9/a"
    assert rewrite("http://127.0.0.1:80?a", rewrites) == "http://127.0.0.1:9?a"
    assert rewrite("http://127.0.0.1:80", rewrites) == "http://127.0.0.1:9"
    assert rewrite("http://127.0.0.1:8000/a", rewrites) == "http://127.0.0.1:8000/a"


def test_a_target_is_the_url_behind_its_authority() -> None:
    assert target_of("http://h:1") == b"/"
    assert target_of("http://h?x=/y") == b"/?x=/y"
    assert target_of("http://h//a/../b%2f?x") == b"//a/../b%2f?x"


@given(st.binary(), st.dictionaries(st.from_regex(r"[a-z-]{1,20}", fullmatch=True), st.text()))
def test_a_stored_message_loads_as_it_was(body: bytes, headers: dict[str, str]) -> None:
    pairs = [(f"Upstash-Forward-{name}", value) for name, value in headers.items()]
    message = parse_message(pairs, message_id="m", url="http://127.0.0.1/", body=body, now_ms=1)
    assert load_message(dump_message(message)) == message
