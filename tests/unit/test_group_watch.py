"""When a group is looked at next, what that costs, and which of two pieces of news holds."""

import pytest

from longtask_kit.client.group_watch import GroupWatch, choose_tick_s
from longtask_kit.log.changes import Change
from longtask_kit.log.events import Status


@pytest.mark.parametrize(
    ("left", "ended", "over_s", "tick_s"),
    [
        (1000, 0, 0.5, 0.5),  # nothing changes
        (1000, 100, 0.5, 0.5),  # it lasts
        (40, 100, 0.5, 0.2),  # the end is near
        (1, 100, 0.5, 0.05),
        (1, 0, 0.05, 0.5),  # it was not: no faster than ever
        (5, -3, 0.5, 0.5),  # retried
    ],
)
def test_the_last_look_comes_when_all_will_have_ended(
    left: int, ended: int, over_s: float, tick_s: float
) -> None:
    assert choose_tick_s(left, ended, over_s) == pytest.approx(tick_s)


@pytest.mark.parametrize(
    ("known", "news", "is_later"),
    [
        (("running", 1), ("failed", 1), True),
        (("failed", 1), ("running", 1), False),
        (("failed", 1), ("pending", 2), True),  # retried
        (("pending", 2), ("running", 1), False),  # news of before, which a look was faster than
        (("pending", 2), ("failed", 1), False),
        (("pending", 2), ("failed", 2), True),
        (("pending", 1), ("running", 1), True),  # resumed
        (("pending", 0), ("cancelled", 1), True),  # nobody ran it
        (("completed", 2), ("running", 2), False),
        (("completed", 2), (None, 0), True),
    ],
)
def test_news_and_looks_come_in_any_order(
    known: tuple[Status, int], news: tuple[Status | None, int], *, is_later: bool
) -> None:
    before = Change(task_id="t", status=known[0], attempt=known[1])
    after = Change(task_id="t", status=news[0], attempt=news[1])
    assert after.supersedes(before) is is_later


@pytest.mark.parametrize(
    "late",
    [
        Change(task_id="t", status="failed", attempt=2),
        Change(task_id="t", status="pending", attempt=2, code="budget"),
    ],
)
def test_news_on_its_way_does_not_undo_a_retry(late: Change) -> None:
    watch = GroupWatch(None)  # type: ignore[arg-type]  # nobody follows
    watch.take_ids(["t"])
    watch._take([late])
    assert watch.is_settled
    watch.forget(["t"])
    watch._take([late])  # it was read before
    watch._take([], of=["t"])
    assert not watch.is_settled
    assert watch.states["t"].status == "pending"
