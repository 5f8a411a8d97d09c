"""How often an output draws, and what a real kernel then puts on its wire."""

import os
from collections.abc import Iterator

import pytest

import longtask_kit as lt
from longtask_kit.widgets.pace import Pace, find_gap_s
from tests.kernel_wire import (
    TOKENS,
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


_MESSAGE_BYTES = 750  # of an update, before its text


def draw_all(tokens: list[str], rate: int, outputs: int) -> list[tuple[float, int]]:
    """Draw a text that grows at `rate` tokens a second, with a clock in hand: times and bytes."""
    now_s = 0.0
    paces = [Pace(read_clock=lambda: now_s) for _ in range(outputs)]
    sizes = [len(token.encode()) for token in tokens]
    shown, draws = [0] * outputs, list[tuple[float, int]]()
    while min(shown) < len(tokens):
        due_s = [pace.find_wait_s() for pace in paces]
        # An output draws when a token has come since, and its wait is over.
        waits = [
            max(wait_s, (shown[n] + 1) / rate - now_s)
            for n, wait_s in enumerate(due_s)
            if shown[n] < len(tokens)
        ]
        now_s += max(min(waits), 1e-6)
        arrived = min(len(tokens), int(now_s * rate + 1e-6))
        for n, pace in enumerate(paces):
            if shown[n] < arrived and pace.find_wait_s() <= 0:
                text_bytes = sum(sizes[shown[n] : arrived])
                pace.note(text_bytes)
                shown[n] = arrived
                draws.append((now_s, text_bytes))
    return draws


@pytest.fixture
def _clock_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget who drew when by another clock."""
    monkeypatch.setattr(Pace, "_drew_at", {})


def find_most_a_second(times: list[float]) -> int:
    return max(sum(begin <= at < begin + 1 for at in times) for begin in times)


@pytest.mark.usefixtures("_clock_in_hand")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_by_the_clock_ten_thousand_tokens_cost_at_most_half_more_than_their_bytes(
    language: str,
) -> None:
    tokens = write_answer(language)
    draws = draw_all(tokens, 1000, 1)
    assert len(tokens) == TOKENS
    assert sum(size for _, size in draws) == len("".join(tokens).encode())
    assert len(draws) * _MESSAGE_BYTES <= 0.5 * len("".join(tokens).encode())
    assert find_most_a_second([at for at, _ in draws]) <= 30


@pytest.mark.usefixtures("_clock_in_hand")
@pytest.mark.parametrize(("rate", "outputs"), [(50, 1), (50, 5), (50, 20), (1000, 5)])
def test_by_the_clock_outputs_share_the_wire(rate: int, outputs: int) -> None:
    draws = draw_all(write_answer("en", 10 * rate), rate, outputs)
    most = find_most_a_second([at for at, _ in draws])
    assert most <= 60
    assert outputs > 1 or most >= 25, "one alone is as lively as it can be read"


@pytest.fixture(scope="module")
def wired(stack: lt.LocalStack) -> Iterator[WiredKernel]:
    kernel = WiredKernel(stack.environment | {"LONGTASK_HOME": os.environ["LONGTASK_HOME"]})
    yield kernel
    kernel.close()


@pytest.fixture
def serving(kit: lt.Kit) -> lt.Kit:
    kit.serve(handlers={"recite": recite})
    return kit


@pytest.mark.thorough  # a kernel's wire in real time, which a neighbour would disturb
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
