"""Merged entries, taken apart: each event as it was, and nothing that does not add up."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtask_kit.log.events import (
    START,
    Cursor,
    TaskEvent,
    decode_entry,
    expand_entry,
    from_ms,
    to_ms,
)

examples = settings(deadline=None, max_examples=80)

TIME = "1700000000060"
THREE = ["1-7", "d", "Hello 河🏞️", "t", TIME, "p", "6 0,3 20,7 40 2"]


def event(at: str, data: str, time_ms: int, tokens: int = 1) -> TaskEvent:
    time = from_ms(1_700_000_000_000 + time_ms)
    return TaskEvent(type="content", cursor=Cursor.parse(at), time=time, data=data, tokens=tokens)


EVENTS = [event("1-5", "Hello ", 0), event("1-6", "河", 20), event("1-7", "🏞️", 60, tokens=2)]


@st.composite
def runs_of_text(draw: st.DrawFn) -> list[TaskEvent]:
    """Draw successive pieces of one attempt; Redis' clock may have been set back between two."""
    texts = draw(st.lists(st.text(max_size=20), min_size=2, max_size=20))
    first = draw(st.builds(Cursor, st.integers(1, 10**6), st.integers(1, 10**12)))
    time_ms = draw(st.integers(10**9, 4 * 10**12))
    events = []
    for number, text in enumerate(texts):
        events.append(
            TaskEvent(
                type="content",
                cursor=Cursor(first.attempt, first.seq + number),
                time=from_ms(time_ms),
                data=text,
                tokens=draw(st.integers(1, 1000)),
            )
        )
        time_ms += draw(st.integers(-5000, 10**6))
    return events


def merge(events: list[TaskEvent]) -> list[str]:
    """Return what the compact script makes of them; tests/flow runs the script itself."""
    marks, before = [], events[0]
    for piece in events:
        mark = f"{len(piece.data.encode())} {to_ms(piece.time) - to_ms(before.time)}"
        marks.append(mark if piece.tokens == 1 else f"{mark} {piece.tokens}")
        before = piece
    text, time = "".join(piece.data for piece in events), str(to_ms(before.time))
    return [str(before.cursor), "d", text, "t", time, "p", ",".join(marks)]


def test_a_merged_entry_gives_its_pieces_with_their_cursors_times_and_tokens() -> None:
    assert expand_entry(THREE, after=START) == EVENTS
    assert merge(EVENTS) == THREE


@given(runs_of_text())
@examples
def test_any_split_of_any_text_comes_back(events: list[TaskEvent]) -> None:
    entry = merge(events)
    assert expand_entry(entry, after=START) == events
    for seen, following in itertools.pairwise(range(len(events))):
        assert expand_entry(entry, after=events[seen].cursor) == events[following:]


def test_any_other_entry_is_read_as_ever() -> None:
    for entry in (
        ["1-3", "d", "Hello", "t", TIME],
        ["1-3", "d", "p", "n", "2", "t", TIME],
        ["1-9", "k", "error", "d", "p", "c", "p", "t", TIME],
    ):
        assert expand_entry(entry, after=START) == [decode_entry(entry)]


@pytest.mark.parametrize(
    "pieces",
    [
        "",
        "16",
        "16 ",
        "16 0,",
        ",16 0",
        "6 0;10 20",
        "6 0, 10 20",
        "6  0,10 20",
        "6 0,10 20 1 1",
        "6 0,9 20",  # a byte is left over
        "6 0,11 20",  # or missing
        "-6 0,22 20",
        "+6 0,10 20",
        "7 0,9 20",  # in the middle of a character
        "6 0,1_0 20",
        "６ 0,10 20",
        "6 0,10 20.5",
        "6 0,10 99999999999999999999999",  # no time
        f"{'9' * 5000} 0",
        ",".join(["2 0"] * 8),  # more pieces than the entry's id leaves room for
    ],
)
def test_pieces_that_do_not_add_up_are_an_error(pieces: str) -> None:
    with pytest.raises(ValueError, match=r"expected|decode|digits"):
        expand_entry([*THREE[:-1], pieces], after=START)


def test_only_text_has_pieces() -> None:
    with pytest.raises(ValueError, match="expected 2 bytes"):
        expand_entry(["1-9", "k", "end", "d", "ab", "t", TIME, "p", "2 0"], after=START)


@given(st.text(alphabet="0123456789 ,-p", max_size=30) | st.text(max_size=30), st.text(max_size=9))
@examples
def test_garbage_gives_events_or_a_value_error(pieces: str, text: str) -> None:
    try:
        events = expand_entry(["3-8", "d", text, "t", TIME, "p", pieces], after=START)
    except ValueError:
        return
    assert "".join(piece.data for piece in events) == text
    assert events[-1].cursor == Cursor(3, 8)
