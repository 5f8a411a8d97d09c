"""How an attempt ends, whatever its handler raised."""

import asyncio
from datetime import timedelta

import pytest

from longtask_kit.errors import (
    ConfigError,
    NonRetryableError,
    RetryableError,
    StoreError,
    StreamError,
)
from longtask_kit.server.attempt import _ending_for_stop
from longtask_kit.server.ending import Ending, ending_for
from longtask_kit.server.stop import AttemptStopped, Stop

TASK_ID = "task_1q2w3e4r5t6z7u8i9o0p1a"


@pytest.mark.parametrize(
    ("raised", "ending"),
    [
        (
            RetryableError("429", code="rate_limit", retry_after_s=7.0),
            Ending(kind="retry", message="429", code="rate_limit", retry_after_s=7.0),
        ),
        (RetryableError("later"), Ending(kind="retry", message="later", code="error")),
        (
            NonRetryableError("bad key", code="invalid_api_key"),
            Ending(kind="fail", message="bad key", code="invalid_api_key"),
        ),
        (NonRetryableError("never"), Ending(kind="fail", message="never", code="error")),
        (
            ConfigError("OPENAI_API_KEY is missing"),
            Ending(kind="fail", message="OPENAI_API_KEY is missing", code="config"),
        ),
        (
            asyncio.CancelledError(),  # of its own: the end of the server never gets here
            Ending(kind="retry", message="The handler raised CancelledError", code="handler_error"),
        ),
        (
            ZeroDivisionError("division by zero"),
            Ending(
                kind="retry",
                message="The handler raised ZeroDivisionError: division by zero",
                code="handler_error",
            ),
        ),
        (
            TimeoutError(),
            Ending(kind="retry", message="The handler raised TimeoutError", code="handler_error"),
        ),
        (
            SystemExit("no key set"),
            Ending(
                kind="retry",
                message="The handler raised SystemExit: no key set",
                code="handler_error",
            ),
        ),
        (
            ExceptionGroup("of a TaskGroup", [NonRetryableError("bad key", code="key")]),
            Ending(kind="fail", message="bad key", code="key"),
        ),
        (
            ExceptionGroup("of two tasks", [RetryableError("busy"), NonRetryableError("bad key")]),
            Ending(kind="fail", message="bad key", code="error"),
        ),
        (
            ExceptionGroup(
                "of two tasks", [RetryableError(f"{n} s", retry_after_s=n) for n in (1.0, 7.0)]
            ),
            Ending(kind="retry", message="7.0 s", code="error", retry_after_s=7.0),
        ),
        (
            ExceptionGroup(
                "of two tasks", [RetryableError("busy"), ExceptionGroup("", [KeyError("a")])]
            ),
            Ending(kind="retry", message="The handler raised KeyError: 'a'", code="handler_error"),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_handler_raised_says_how_the_attempt_ends(
    raised: BaseException, ending: Ending
) -> None:
    assert ending_for(raised) == ending


@pytest.mark.parametrize("raised", [StoreError("x"), StreamError("x", task_id=TASK_ID)])
def test_another_error_of_ours_out_of_a_handler_is_worth_a_retry(raised: Exception) -> None:
    assert ending_for(raised).kind == "retry"


def test_a_long_message_of_a_handlers_exception_is_cut() -> None:
    assert len(ending_for(ValueError("x" * 100_000)).message) < 600


def test_half_a_surrogate_pair_in_an_exception_can_still_be_stored() -> None:
    # `os.listdir` gives such names for files that are not UTF-8.
    assert ending_for(FileNotFoundError("no file 'caf\udce9.txt'")).message.encode()


@pytest.mark.parametrize(
    ("code", "read"),
    [(429, "429"), (None, "error"), ("busy", "busy"), ("", ""), ("x" * 5000, "x" * 100)],
)
@pytest.mark.parametrize("kind", [RetryableError, NonRetryableError])
def test_a_code_of_any_kind_becomes_text(
    kind: type[RetryableError | NonRetryableError], code: object, read: str
) -> None:
    assert ending_for(kind("busy", code=code)).code == read  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "read_s"),
    [("5", 5.0), (5, 5.0), (None, None), ("soon", None), (timedelta(seconds=5), None), ([], None)],
)
def test_a_wait_that_is_no_number_is_left_to_the_queue_and_told(
    given: object, read_s: float | None
) -> None:
    ending = ending_for(RetryableError("busy", retry_after_s=given))  # type: ignore[arg-type]
    assert ending.retry_after_s == read_s
    is_told = read_s is None and given is not None
    assert ("retry_after_s: expected seconds" in ending.message) == is_told


class _UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _UnreadableRetryError(RetryableError):
    __str__ = _UnreadableError.__str__


class _ForgetfulError(RetryableError):
    def __init__(self) -> None:
        Exception.__init__(self, "no facts")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (_UnreadableError(), "The handler raised _UnreadableError: (its text can't be read"),
        (_UnreadableRetryError("x"), "(its text can't be read"),
        (_ForgetfulError(), "no facts"),
        (RetryableError(""), "RetryableError"),
        (RetryableError(429), "429"),  # type: ignore[arg-type]
        (NonRetryableError("caf\udce9"), "caf\ufffd"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_ending_has_a_text_that_can_be_stored_and_sent(raised: Exception, said: str) -> None:
    ending = ending_for(raised)
    assert ending.message.startswith(said)
    assert ending.message.encode()


@pytest.mark.parametrize("kind", [RetryableError, NonRetryableError, ConfigError])
def test_no_text_of_a_handlers_own_error_is_too_long_for_redis(kind: type[Exception]) -> None:
    assert len(ending_for(kind("x" * 20_000_000)).message) <= 2000


KIND_OF_STOP = {
    Stop.CANCEL: "cancel",
    Stop.SHUTDOWN: "retry",
    Stop.TIMEOUT: "fail",
    Stop.TOO_LONG: "fail",
    Stop.LIMIT: "hand_on",
    Stop.DRAIN: "hand_on",
}


@pytest.mark.parametrize(("stop", "kind"), KIND_OF_STOP.items())
def test_a_stop_ends_an_attempt_that_still_holds_its_lease(stop: Stop, kind: str) -> None:
    assert _ending_for_stop(AttemptStopped(stop)).kind == kind


def test_every_other_stop_leaves_the_end_to_whoever_has_the_lease() -> None:
    others = set(Stop) - set(KIND_OF_STOP)
    assert others == {Stop.FENCED, Stop.GONE, Stop.OUTAGE}
    for stop in others:
        with pytest.raises(AttemptStopped):
            _ending_for_stop(AttemptStopped(stop))
