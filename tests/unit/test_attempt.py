"""How an attempt ends, and what the queue is told: the table of README, as values."""

import asyncio
import re

import pytest

from longtask_kit.errors import (
    ConfigError,
    NonRetryableError,
    RetryableError,
    StoreError,
    StreamError,
)
from longtask_kit.server.attempt import Answer, Ending, answer_for, busy, ending_for, refuse

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
            asyncio.CancelledError(),
            Ending(kind="retry", message="The server was shut down.", code="shutdown"),
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
            Ending(kind="retry", message="The handler raised TimeoutError: ", code="handler_error"),
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
    ("ending", "answer"),
    [
        (Ending(kind="end"), Answer(200, {"taskId": TASK_ID, "status": "completed"})),
        (Ending(kind="cancel"), Answer(200, {"taskId": TASK_ID, "status": "cancelled"})),
        (
            Ending(kind="fail", message="bad key", code="invalid_api_key"),
            Answer(
                489,
                {"error": "bad key", "taskId": TASK_ID},
                {"Upstash-NonRetryable-Error": "true"},
            ),
        ),
        (
            Ending(kind="retry", message="429", code="rate_limit"),
            Answer(500, {"taskId": TASK_ID, "error": "429"}),
        ),
        (
            Ending(kind="retry", message="429", code="rate_limit", retry_after_s=7.0),
            Answer(500, {"taskId": TASK_ID, "error": "429"}, {"Retry-After": "7"}),
        ),
        (
            Ending(kind="retry", retry_after_s=0.0),
            Answer(500, {"taskId": TASK_ID, "error": ""}, {"Retry-After": "0"}),
        ),
    ],
)
def test_the_queue_is_told_how_the_attempt_ended(ending: Ending, answer: Answer) -> None:
    assert answer_for(TASK_ID, ending) == answer


@pytest.mark.parametrize(
    "retry_after_s",
    [0.0, 0.25, 7.5, 3599.999, 86_400.0, 1_234_567.0, 1e-7, float("nan"), float("inf"), -1.0],
)
def test_retry_after_is_plain_seconds_or_left_out(retry_after_s: float) -> None:
    # A handler of the user's chooses the number; QStash reads integer or decimal seconds.
    ending = Ending(kind="retry", retry_after_s=retry_after_s)
    sent = answer_for(TASK_ID, ending).headers.get("Retry-After", "0")
    assert re.fullmatch(r"\d+(\.\d+)?", sent)


def test_large_seconds_are_not_rounded_away() -> None:
    ending = Ending(kind="retry", retry_after_s=1_234_567.0)
    assert answer_for(TASK_ID, ending).headers == {"Retry-After": "1234567"}


@pytest.mark.parametrize(
    ("left_s", "sent"), [(0.0, "1"), (-3.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (15.0, "15")]
)
def test_a_busy_task_asks_to_come_back_when_the_lease_could_be_over(
    left_s: float, sent: str
) -> None:
    answer = busy(TASK_ID, left_s)
    assert answer.status_code == 503
    assert answer.headers == {"Retry-After": sent}
    assert answer.body["taskId"] == TASK_ID


def test_a_refusal_without_a_task_names_none() -> None:
    assert refuse("malformed") == Answer(
        489, {"error": "malformed"}, {"Upstash-NonRetryable-Error": "true"}
    )
