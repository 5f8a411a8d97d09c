"""How often an output draws, and what a real kernel then puts on its wire."""

import os
from collections.abc import Iterator

import pytest

import longtask_kit as lt
from longtask_kit.widgets.pace import find_gap_s
from tests.kernel_wire import (
    WiredKernel,
    count_bytes,
    find_peak,
    recite,
    submit_answer,
    write_answer,
)


@pytest.mark.parametrize(
    ("text_rate", "writers", "gap_s"),
    [
        (0, 1, 1 / 30),
        (250, 1, 1 / 30),  # 50 tokens a second are shown as they come
        (700, 1, 0.25),
        (2400, 1, 1.0),
        (240_000, 1, 1 / 30),  # a message is worth its cost at any gap
        (250, 4, 0.1),
        (2400, 4, 1.0),
    ],
)
def test_a_gap_is_short_for_slow_text_and_long_for_fast(
    text_rate: float, writers: int, gap_s: float
) -> None:
    assert find_gap_s(text_rate, writers) == pytest.approx(gap_s)


@pytest.fixture(scope="module")
def wired(stack: lt.LocalStack) -> Iterator[WiredKernel]:
    kernel = WiredKernel(stack.environment | {"LONGTASK_HOME": os.environ["LONGTASK_HOME"]})
    yield kernel
    kernel.close()


@pytest.fixture
def serving(kit: lt.Kit) -> lt.Kit:
    kit.serve(handlers={"recite": recite})
    return kit


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("rate", [0, 1000])
def test_ten_thousand_tokens_cost_at_most_half_more_than_their_bytes(
    serving: lt.Kit, wired: WiredKernel, language: str, rate: int
) -> None:
    text = "".join(write_answer(language))
    # Shown three times, they are sent once.
    cell = "for _ in range(3): display(task)\nawait task"
    messages = wired.show(submit_answer(serving, language, rate), cell)
    assert count_bytes(messages, "comm_msg") <= 1.5 * len(text.encode())
    assert find_peak(messages) <= 60
    saved = [m.content["data"] for m in messages if m.type == "update_display_data"]
    assert [data["text/plain"].strip() for data in saved] == [text.strip()] * 3


def test_outputs_that_draw_at_one_time_share_sixty_messages_a_second(
    serving: lt.Kit, wired: WiredKernel
) -> None:
    cell = "outputs = [TaskOutput(task) for _ in range(5)]\nawait task"
    messages = wired.show(submit_answer(serving, "en", 50, 150), cell)
    assert find_peak(messages) <= 60
