"""What a dashboard says: lines of tasks and groups, the queue's state, the limiter's level."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from longtask_kit.client.overview import Line, choose_lines, describe_counts, make_line
from longtask_kit.client.overview_watch import choose_rest_s, find_own_prices
from longtask_kit.errors import StoreError
from longtask_kit.log.changes import Change
from longtask_kit.log.events import Usage
from longtask_kit.log.groups import GroupRecord
from longtask_kit.log.limits import find_level
from longtask_kit.log.record import TaskRecord
from longtask_kit.submit.queue_state import read_state

NOW = datetime(2026, 11, 29, tzinfo=UTC)
USED = Usage(prompt_tokens=1000, completion_tokens=50, total_tokens=1050)
MINUTE_MS = 60_000


def make_record(task_id: str, status: str = "completed", **changes: Any) -> TaskRecord:  # noqa: ANN401
    wire = {"prompt": f"Explain {task_id}", "model": "m", **changes.pop("wire", {})}
    facts: dict[str, Any] = {
        "attempt": 1,
        "message_id": None,
        "error": None,
        "code": None,
        "usage": USED if status == "completed" else None,
        "finish_reason": "stop",
        "created": NOW,
        "updated": NOW,
        "run_ms": 500,
    }
    return TaskRecord(task_id=task_id, status=status, wire=wire, **facts | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("turn", [1, 2, 4])  # nothing new; a new task; one of a new group
def test_a_dashboard_keeps_to_two_commands_a_second_whatever_comes(turn: int) -> None:
    owed, beside_per_s, rests = 24.0, 0.5, []  # a first look's, and what is read beside the tasks
    for _ in range(200):
        owed += turn
        rests.append(choose_rest_s(owed, turn))
        owed = max(0.0, owed - 2 * rests[-1]) + beside_per_s * rests[-1]
    assert owed < 2 * turn, "the first look is paid off"
    assert rests[0] == max(1.0, 0.75 * turn), "and no look takes long because of it"
    assert 200 * turn / sum(rests) + beside_per_s <= 2.0


def line_of(record: TaskRecord, state: Change | None = None) -> Line:
    return make_line(record, state, default_model="other", prices=(1.0, 2.0))


def test_a_line_says_rate_and_cost_of_what_has_ended() -> None:
    line = line_of(make_record("a"))
    assert (line.stage, line.word, line.tokens, line.rate) == ("done", "completed", 50, 100.0)
    assert line.cost == pytest.approx(0.0011)
    running = line_of(make_record("b", "running", run_ms=None))
    assert (running.stage, running.tokens, running.rate, running.cost) == ("running",) + (None,) * 3


def test_a_group_that_was_replayed_costs_nothing_whatever_its_prices() -> None:
    def find(endpoint: str, **options: Any) -> Any:  # noqa: ANN401
        place = {"place": {"endpoint": endpoint}}
        group = GroupRecord(
            group_id="g", name="", rows=(), options=options | place, created=NOW, updated=NOW
        )
        return find_own_prices(group, (1.0, 2.0))

    assert find("https://model.example") == (1.0, 2.0)
    assert find("https://model.example", prices=[3, 4]) == [3, 4]
    assert find("replay:answers.jsonl:0123", prices=[3, 4]) is None
    assert find_own_prices(None, (1.0, 2.0)) == (1.0, 2.0)


def test_what_was_heard_since_stands_above_the_record() -> None:
    heard = Change(task_id="a", status="failed", attempt=2, error="refused\n\x1b[31m")
    line = line_of(make_record("a", "running"), heard)
    assert (line.stage, line.attempt, line.rate) == ("failed", 2, None)
    assert line.error.startswith("refused")
    assert "\x1b" not in line.error


def test_an_answer_that_was_cut_off_says_so() -> None:
    record = make_record("a", finish_reason="length", wire={"maxTokens": 90})
    assert line_of(record).word == "stopped at max_tokens (90)"


def test_a_group_is_one_line_until_it_is_opened_or_something_is_sought() -> None:
    grouped: Any = {"wire": {"groupId": "group_1"}}
    records = [
        make_record("alone"),
        make_record("g1", "failed", error="bad key", **grouped),
        make_record("old", created=NOW - timedelta(days=1)),
        make_record("g2", **grouped),
        make_record("of before", "failed", **grouped),
    ]
    lines = [line_of(record) for record in records]
    group = GroupRecord(
        group_id="group_1", name="sums", rows=("g2", "g1", None), options={}, created=NOW,
        updated=NOW,
    )  # fmt: skip
    known = {"group_1": group}

    def shown(**query: str) -> list[str]:
        return [line.line_id for line in choose_lines(lines, known, **query)]

    assert shown() == ["alone", "group_1", "old"]
    folded = choose_lines(lines, known)[1]
    assert (folded.prompt, folded.word, folded.rows) == ("sums · 2 rows", "1 failed, 1 done", 2)
    assert (folded.stage, folded.tokens) == ("failed", 50)
    assert folded.cost == pytest.approx(0.0011)
    assert shown(group_id="group_1") == ["g2", "g1"]
    assert shown(stage="failed") == ["g1", "of before"]
    assert shown(word="BAD KEY") == ["g1"]
    assert shown(word="old") == ["old"]
    assert choose_lines(lines, {})[1].prompt == "Explain g1 · 3 rows"


def test_counts_in_words() -> None:
    assert describe_counts({"done": 3}) == "done"
    assert describe_counts({"done": 3000, "failed": 1, "running": 2}) == (
        "2 running, 1 failed, 3,000 done"
    )


def event(message: int, state: str) -> dict[str, Any]:
    return {"messageId": f"msg_{message}", "state": state, "time": 1}


def test_a_message_counts_by_its_last_word() -> None:
    told = [event(1, "ACTIVE"), event(2, "RETRY"), event(1, "CREATED"), event(3, "DELIVERED")]
    told += [event(3, "CREATED"), event(4, "A_STATE_OF_TOMORROW"), event(5, "CREATED")]
    state = read_state({"events": told}, {"messages": []})
    assert (state.waiting, state.in_flight, state.dead, state.is_whole) == (2, 1, (), True)
    assert not read_state({"events": told * 143}, {"messages": []}).is_whole


@pytest.mark.parametrize(
    ("told", "dead"),
    [
        ("<html>", {"messages": []}),
        ({"events": None}, {"messages": []}),
        ({"events": [{"messageId": "m"}]}, {"messages": []}),
        ({"events": []}, []),
        ({"events": []}, {"messages": [{"url": "x"}]}),
    ],
)
def test_whoever_else_answers_for_the_queue_is_no_slip_of_ours(told: Any, dead: Any) -> None:  # noqa: ANN401
    with pytest.raises(StoreError, match="QSTASH_URL"):
        read_state(told, dead)


@pytest.mark.parametrize(
    ("letter", "reason"),
    [
        ({"responseStatus": 489, "responseBody": '{"error": "bad key"}'}, "bad key"),
        ({"responseStatus": 502, "responseBody": "<html>"}, "the webhook answered 502"),
        ({"responseStatus": 0, "error": "connection refused"}, "connection refused"),
        ({}, "no answer"),
    ],
)
def test_a_dead_letter_says_why(letter: dict[str, Any], reason: str) -> None:
    [read] = read_state({"events": []}, {"messages": [{"dlqId": "1-1"} | letter]}).dead
    assert (read.reason, read.task_id) == (reason, "")


def test_a_dead_letter_names_its_task_and_nothing_else() -> None:
    def task_of(body: str) -> str:
        coded = {"bodyBase64": base64.b64encode(body.encode()).decode()}
        letters = [{"dlqId": "1-1", "body": body}, {"dlqId": "1-1"} | coded]
        plain, decoded = read_state({"events": []}, {"messages": letters}).dead
        assert plain.task_id == decoded.task_id
        return plain.task_id

    assert task_of(json.dumps({"taskId": "task_12345678"})) == "task_12345678"
    for body in ("", "null", "[]", '{"taskId": 5}', '{"taskId": "<b>"}', "{"):
        assert task_of(body) == ""


def test_a_bucket_says_how_full_it_is() -> None:
    at = 100 * MINUTE_MS
    slot = at // 1000  # a minute has sixty
    state = {
        "at": at,
        "slots": [[slot - 200, 9, 900], [slot - 10, 3, 300], [slot, 2, 200]],
        "groups": {"a": {"rpm": 60, "tpm": 0, "waiting": 4}, "b": {"rpm": 30, "waiting": 1}},
        "factor": 0.5,
        "hold": at + 3000,
    }
    level = find_level(state, at - 5000, MINUTE_MS)
    assert level is not None
    assert (level.rpm, level.tpm, level.calls, level.tokens) == (15.0, 0.0, 5, 500)
    assert (level.waiting, level.hold_s) == (5, 3.0)
    assert find_level({"at": at, "groups": [], "slots": []}, at, MINUTE_MS) is None
    told = {"at": at, "told": at, "rpm": 90, "groups": [], "slots": []}
    level = find_level(told, at, MINUTE_MS)
    assert level is not None
    assert level.rpm == 90.0
    assert find_level(told, at + 11 * MINUTE_MS, MINUTE_MS) is None
