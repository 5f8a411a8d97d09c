"""When news can be taken as it comes, and when the log must be read."""

import json

import pytest

from longtask_kit.errors import StreamExpiredError
from longtask_kit.log.events import START, Cursor, encode_entry
from longtask_kit.log.news import _decode_news
from longtask_kit.log.subscribe import Loss, expired, is_next


@pytest.mark.parametrize(
    ("seen", "cursor", "expected"),
    [
        (START, Cursor(0, 1), True),
        (Cursor(1, 1), Cursor(1, 2), True),
        (Cursor(1, 9), Cursor(1, 10), True),
        (Cursor(1, 1), Cursor(1, 1), False),  # again
        (Cursor(1, 2), Cursor(1, 1), False),  # older
        (Cursor(1, 1), Cursor(1, 3), False),  # a hole
        (START, Cursor(0, 2), False),
        (START, Cursor(1, 1), False),  # the submission's own entry may be missing
        (Cursor(1, 5), Cursor(2, 1), False),  # attempt 1 may have written more
        (Cursor(1, 5), Cursor(2, 6), False),
        (Cursor(2, 1), Cursor(1, 2), False),  # a zombie's
    ],
)
def test_only_the_next_seq_of_the_same_attempt_can_not_hide_anything(
    seen: Cursor, cursor: Cursor, expected: bool
) -> None:
    assert is_next(seen, cursor) is expected


def test_news_is_a_log_entry_as_json() -> None:
    event = _decode_news(json.dumps(["1-2", "t", "5", *encode_entry("content", "hi")]))
    assert (event.cursor, event.data) == (Cursor(1, 2), "hi")


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "hello",
        "5",
        "null",
        "true",
        "[]",
        "{}",
        '"text"',
        '{"1-1":"d"}',
        "[1,2,3]",
        '["1-1","u","{}"]',
        '["1-1","u","[]"]',
    ],
)
def test_foreign_news_counts_as_a_hole_so_that_the_log_is_read(payload: str) -> None:
    seen = Cursor(10**9, 10**9)
    cursor = _decode_news(payload).cursor
    assert cursor > seen
    assert not is_next(seen, cursor)


# A try each: how long it took to be greeted (None: never), how long it stood then, whether that
# brought news, whether it ended by silence; and what is then lost, and waited before the next.
@pytest.mark.parametrize(
    "tries",
    [
        pytest.param([(1, None, 0, 0, 1, 0.05), (1, None, 0, 0, 2, 0.1)], id="nobody answers"),
        pytest.param([(0, 1, 0, 0, 0, 0.05), (2, 1, 0, 0, 2, 0.1)], id="greets and breaks"),
        pytest.param(
            [(1, 0, 1, 0, 0, 0.05), (2, 1, 0, 0, 2, 0.1), (3, 1, 1, 0, 0, 0.05)], id="news"
        ),
        pytest.param([(1, 60, 0, 0, 1, 0.05), (1, 60, 0, 0, 2, 0.05)], id="cut every minute"),
        pytest.param([(1, 45, 0, 1, 46, 0.05), (1, 45, 0, 1, 92, 0.1)], id="then silence"),
        pytest.param([(1, 45, 1, 1, 0, 0.05), (1, 45, 0, 1, 46, 0.1)], id="news, then silence"),
    ],
)
def test_only_news_ends_a_loss_and_nothing_is_lost_while_a_connection_stands(
    tries: list[tuple[float, float | None, int, int, float, float]],
) -> None:
    now = 100.0
    loss = Loss(now)
    for opened_s, stood_s, has_news, was_silent, lost_s, delay_s in tries:
        now += opened_s
        if stood_s is not None:
            loss.hear(now, is_new=False)
            loss.hear(now, is_new=bool(has_news))
            now += stood_s
        assert (loss.count(now, was_silent=bool(was_silent)), loss.delay_s) == (lost_s, delay_s)


def test_a_follower_waits_for_five_seconds_at_most() -> None:
    loss = Loss(0.0)
    delays = [(loss.count(0.0, was_silent=False), loss.delay_s)[1] for _ in range(12)]
    assert delays == sorted(delays)
    assert delays[-1] == 5


def test_an_unknown_task_names_its_id_and_the_cure() -> None:
    error = expired("task_12345678", cursor=Cursor(1, 2))
    assert isinstance(error, StreamExpiredError)
    assert (error.task_id, error.cursor) == ("task_12345678", "1-2")
    assert "task_12345678" in str(error)
    assert "submit it again" in str(error)
    assert len(str(expired("x" * 10_000))) < 400
