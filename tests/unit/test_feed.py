"""A feed's state: one value, and a table of what each move makes of it."""

import pytest

from longtask_kit.client.feed import _MOVES, FeedState, _Move, next_state
from longtask_kit.log.events import START, Cursor, TaskEvent, from_ms
from longtask_kit.log.transcript import Transcript

IDLE, FOLLOWING, ENDED, BROKEN = FeedState


@pytest.mark.parametrize(
    ("state", "move", "expected"),
    [
        (IDLE, "follow", FOLLOWING),
        (FOLLOWING, "follow", FOLLOWING),
        (ENDED, "follow", ENDED),
        (BROKEN, "follow", FOLLOWING),
        (IDLE, "reopen", FOLLOWING),
        (FOLLOWING, "reopen", FOLLOWING),
        (ENDED, "reopen", FOLLOWING),
        (BROKEN, "reopen", FOLLOWING),
        (FOLLOWING, "end", ENDED),
        (FOLLOWING, "break", BROKEN),
    ],
)
def test_a_move_leads_to_one_state(state: FeedState, move: _Move, expected: FeedState) -> None:
    assert next_state(state, move) is expected


@pytest.mark.parametrize("state", [IDLE, ENDED, BROKEN])
@pytest.mark.parametrize("move", ["end", "break"])
def test_only_what_is_followed_can_end_or_break(state: FeedState, move: _Move) -> None:
    with pytest.raises(KeyError):
        next_state(state, move)


def test_every_move_of_the_table_is_tried_above() -> None:
    assert sum(map(len, _MOVES.values())) == 10
    assert [state.is_over for state in FeedState] == [False, False, True, True]


def test_a_copy_of_the_transcript_stays_as_it_is() -> None:
    transcript = Transcript()
    for seq in (1, 2):
        transcript.apply(
            TaskEvent(type="content", cursor=Cursor(1, seq), time=from_ms(seq), data=str(seq))
        )
    copy = transcript.copy()
    transcript.apply(TaskEvent(type="end", cursor=Cursor(1, 3), time=from_ms(3)))
    assert (copy.text, copy.status, copy.cursor) == ("12", "pending", Cursor(1, 2))
    assert (transcript.text, transcript.status) == ("12", "completed")
    assert Transcript().copy().cursor == START
