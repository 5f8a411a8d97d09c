"""What the queue is told of an attempt's end: the table of README, as values."""

import re

import pytest

from longtask_kit.server.attempt import Answer, answer_for, busy, refuse
from longtask_kit.server.ending import Ending

TASK_ID = "task_1q2w3e4r5t6z7u8i9o0p1a"


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
