"""A cassette as values: what is keyed, how it is written, what two writers and a damage cost."""

import asyncio
import dataclasses
import json
import multiprocessing
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longtask_kit.cassettes import (
    Answer,
    Cassette,
    Question,
    describe_place,
    describe_replay,
    merge,
    read_cassette,
    write_cassette,
)
from longtask_kit.client.cassette import (
    add_answers,
    find_file,
    load_cassette,
    make_answer,
    make_pace,
    make_question,
)
from longtask_kit.client.scrub import hide, scrub
from longtask_kit.errors import ConfigError
from longtask_kit.local.model.nearest import compare_words, explain_missing
from longtask_kit.local.model.prose import split_tokens, write_reply
from longtask_kit.local.model.replay import Shelf, schedule, split_attempt
from longtask_kit.log.events import Cursor, TaskEvent, Usage
from longtask_kit.server.openai_request import build_request
from longtask_kit.submit.spec import TaskSpec

BEGAN = datetime(2026, 11, 28, 12, tzinfo=UTC)


def ask(prompt: str = "Why?", **changes: Any) -> Question:  # noqa: ANN401
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "temperature": 0.7}
    sample = changes.pop("sample", 0)
    return Question.of_request(body | changes, sample=sample)


def say(text: str = "So.", prompt: str = "Why?", day: str = "2026-11-28", **asked: Any) -> Answer:  # noqa: ANN401
    return Answer(ask(prompt, **asked), day, [{"text": text, "deltas": 2, "pace": [5, 3, 10, 0]}])


def happen(*events: tuple[Any, ...]) -> list[TaskEvent]:
    """Return a log of (ms, type, data, more)."""
    return [
        TaskEvent(
            type=type_,
            cursor=Cursor(1, seq),
            time=BEGAN + timedelta(milliseconds=at),
            data=data,
            **(more[0] if more else {}),
        )
        for seq, (at, type_, data, *more) in enumerate(events, 1)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "Who?"},
        {"model": "n"},
        {"temperature": 0.8},
        {"max_tokens": 7},
        {"seed": 1},
        {"response_format": {"type": "json_object"}},
        {"sample": 1},
    ],
)
def test_each_part_of_a_question_is_of_its_key(changes: dict[str, Any]) -> None:
    prompt = changes.pop("prompt", "Why?")
    assert ask(prompt, **changes).key != ask().key


def test_what_a_handler_sends_is_found_by_what_the_record_holds() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 900}"}}
    content = [{"type": "text", "text": "What is it?"}, image]
    spec = TaskSpec(
        messages=[{"role": "user", "content": content}],
        system="Be brief.",
        params={"top_p": 1, "stream_options": {"x": 1}},
        temperature=1,
    )
    sent = json.loads(json.dumps(build_request(spec, "gpt-4o-mini")))
    recorded = make_question(json.loads(json.dumps(spec.to_wire())), model="gpt-4o-mini")
    assert Question.of_request(sent).key == recorded.key
    assert "AAAA" not in recorded.key
    assert "data:image/png;base64,sha256-" in recorded.key


def test_a_limit_by_its_newer_name_takes_the_place_of_the_older() -> None:
    spec = TaskSpec(prompt="Why?", params={"max_completion_tokens": 9})
    asked = Question.of_request(build_request(spec, "m"))
    assert make_question(spec.to_wire(), model="m").key == asked.key


def test_a_line_reads_as_the_question_and_then_the_answer() -> None:
    [line] = write_cassette(merge(Cassette(), [say()])).splitlines()
    assert line == (
        '{"model":"m","prompt":"Why?","temperature":0.7,"recorded":"2026-11-28",'
        '"attempts":[{"deltas":2,"pace":[5,3,10,0],"text":"So."}]}'
    )
    assert [*read_cassette(line).answers] == [ask().key]


def test_a_system_message_and_turns_are_read_again_as_they_were() -> None:
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"))]
    asked = [
        ask(messages=[{"role": "system", "content": "s"}, turns[0]]),
        ask(messages=[*turns, turns[0]]),
        ask(messages=[turns[0] | {"name": "Mara"}]),
    ]
    text = write_cassette(merge(Cassette(), [Answer(q, "2026-11-28", [{}]) for q in asked]))
    assert {*read_cassette(text).answers} == {question.key for question in asked}


def test_the_same_answer_recorded_again_changes_no_byte_and_another_one_its_line_alone() -> None:
    first = merge(Cassette(), [say(prompt=prompt) for prompt in "cab"])
    text = write_cassette(first)
    later = dataclasses.replace(say(prompt="b"), recorded="2027-01-01")
    slower = dataclasses.replace(later, attempts=[{**later.attempts[0], "pace": [90, 3, 1, 0]}])
    assert write_cassette(merge(read_cassette(text), [slower])) == text
    other = write_cassette(merge(read_cassette(text), [say("No.", prompt="b")]))
    differing = [a != b for a, b in zip(text.split("\n"), other.split("\n"), strict=True)]
    assert differing == [False, True, False, False]


def test_lines_are_sorted_whatever_the_order_of_their_tasks() -> None:
    answers = [say(prompt=p, sample=i) for p in ("b", "a") for i in (1, 0, 10, 2)]
    text = write_cassette(merge(Cassette(), answers))
    random.shuffle(answers)
    assert write_cassette(merge(Cassette(), answers)) == text
    read = [json.loads(line) for line in text.splitlines()]
    assert [(w["prompt"], w.get("sample", 0)) for w in read] == [
        (prompt, sample) for prompt in "ab" for sample in (0, 1, 2, 10)
    ]


@pytest.mark.parametrize(
    "damage",
    [
        *("<<<<<<< HEAD", '{"model":"m","prompt"', '{"model":"m"}', "[]", "7", '{"attempts":[{}]}'),
        '{"model":"m","prompt":"x","recorded":"","attempts":[{"pace":["soon"]}]}',
        '{"model":7,"prompt":"x","recorded":"","attempts":[{}]}',
        '{"model":"m","messages":["x"],"recorded":"","attempts":[{}]}',
        '{"model":"m","messages":[{"content":["x"]}],"recorded":"","attempts":[{}]}',
        '{"model":"m","messages":[{"content":7}],"recorded":"","attempts":[{}]}',
        '{"model":"m","prompt":"x","messages":[],"recorded":"","attempts":[{}]}',
        '{"model":"m","prompt":"x","recorded":"","attempts":[{"usage":{"in":"few"}}]}',
        '{"model":"m","prompt":"x","recorded":"","attempts":[{"tool_calls":["x"]}]}',
        pytest.param(
            json.dumps(json.loads(say().to_line()) | {"temperature": 10**400}), id="too hot"
        ),
        pytest.param(say().to_line().replace("0.7", f"{'[' * 990}1{']' * 990}"), id="too deep"),
    ],
)
def test_a_damaged_line_names_itself_and_loses_no_other(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines = write_cassette(merge(Cassette(), [say(prompt=p) for p in "ab"])).splitlines()
    path.write_text("\n".join([lines[0], damage, lines[1], ""]))
    cassette = load_cassette(path)
    assert len(cassette.answers) == 2
    assert cassette.describe_damage()[0].startswith("line 2 is damaged")
    add_answers(path, [say(prompt="c")])
    assert len(load_cassette(path).answers) == 3
    assert path.read_text().splitlines().count(damage) == 1, "it stays, for somebody to mend"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("<<<<<<< HEAD", "no JSON: '<<<<<<< HEAD'"),
        ("[1]", "expected a JSON object, got list"),
        ('{"model":"m","prompt":"x","attempts":[{}]}', "'recorded' is missing"),
        ('{"model":"m","recorded":"","attempts":[{}]}', "expected 'prompt' or 'messages'"),
        (
            '{"model":"m","prompt":"x","voice":"alto","recorded":"","attempts":[{}]}',
            "voice is unknown here: if a later version wrote it, pip install -U longtask_kit",
        ),
        (
            '{"model":"m","prompt":"x","recorded":"","attempts":[{}, {"pace":"soon"}]}',
            'attempts[1].pace can\'t be "soon"',
        ),
    ],
)
def test_a_damage_is_told_in_words(line: str, told: str) -> None:
    text = write_cassette(merge(Cassette(), [say()]))
    assert read_cassette(text + line).describe_damage() == [
        f"line 2 is damaged, {told}; the others stand"
    ]


def test_of_many_damaged_lines_a_few_are_told() -> None:
    cassette = read_cassette(write_cassette(merge(Cassette(), [say()])) + "x\n" * 9)
    assert len(cassette.describe_damage()) == 9
    told = cassette.describe_damage(3)
    assert (len(told), told[-1][:18]) == (4, "6 more are damaged")


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    notebook = tmp_path / "mine.ipynb"
    notebook.write_text('{\n "cells": []\n}\n')
    with pytest.raises(ConfigError, match=r"'mine\.ipynb' can't be read .* line 1, is none"):
        load_cassette(notebook)
    with pytest.raises(ConfigError, match="it is left as it is"):
        add_answers(notebook, [say()])
    assert notebook.read_text() == '{\n "cells": []\n}\n'


def test_an_empty_file_holds_no_answer_and_may_be_written(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.touch()
    assert load_cassette(path).describe("a") == "replayed from a, which holds no answer"
    assert len(add_answers(path, [say()]).answers) == len(load_cassette(path).answers) == 1


def test_a_temperature_by_hand_is_the_one_that_is_asked() -> None:
    line = say(temperature=1).to_line()
    assert '"temperature":1.0' in line
    by_hand = line.replace('"temperature":1.0', '"temperature":1')
    assert [*read_cassette(by_hand).answers] == [ask(temperature=1).key]


def test_bytes_that_are_no_text_cost_their_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    good = write_cassette(merge(Cassette(), [say(prompt=p) for p in "ab"])).encode()
    path.write_bytes(good + b'{"model":"\xff\xfe"}\n')
    assert load_cassette(path).describe_damage()[0].startswith("line 3 is damaged")
    add_answers(path, [say(prompt="c")])
    assert len(load_cassette(path).answers) == 3
    assert path.read_bytes().endswith(b'{"model":"\xff\xfe"}\n')


def test_a_mark_before_the_first_line_costs_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    plain = write_cassette(merge(Cassette(), [say(prompt=p) for p in "ab"]))
    path.write_text(plain.replace("\n", "\r\n"), encoding="utf-8-sig", newline="")
    assert load_cassette(path).damaged == []
    assert asyncio.run(Shelf().open(path)).find(ask("a"))
    add_answers(path, [say(prompt="a")])
    assert path.read_bytes() == plain.encode()


def test_a_prompt_that_begins_with_data_is_kept_as_it_was_said() -> None:
    prompt = "data: 1, 2, " + "and more, " * 40
    assert json.loads(say(prompt=prompt).to_line())["prompt"] == prompt
    said, kept = ([{"role": "user", "content": f"data: of {who}"}] for who in ("Ada", "X"))
    assert hide("Not Ada.", said=said, kept=kept) == "Not ***."


def test_a_line_feed_of_another_alphabet_breaks_no_line(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\x85d\ne\ud800f🪴"
    path = tmp_path / "answers.jsonl"
    add_answers(path, [say(odd)])
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1
    assert load_cassette(path).answers[ask().key].attempts[0]["text"] == odd


def _write_some(path: Path, first: int) -> None:
    for number in range(first, first + 20):
        add_answers(path, [say(prompt=f"question {number}")])


def test_two_processes_that_record_into_one_file_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_some, args=(path, 100 * i)) for i in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(load_cassette(path).answers) == 40
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.jsonl"], "no lock beside it"


def test_a_file_that_says_so_already_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    add_answers(path, [say()])
    path.chmod(0o640)
    before = path.stat()
    add_answers(path, [say()])
    assert path.stat().st_ino == before.st_ino
    add_answers(path, [say("No.")])
    assert path.stat().st_mode == before.st_mode


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'none\.jsonl' can't be read .* it is not in '"):
        load_cassette(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match=r"'x\.jsonl' can't be read .* there is no folder '"):
        load_cassette(tmp_path / "no" / "x.jsonl")
    with pytest.raises(ConfigError, match=r"can't be read .* it is a folder"):
        load_cassette(tmp_path)
    with pytest.raises(ConfigError, match=r"a file like 'answers\.jsonl', got ''"):
        find_file("")
    with pytest.raises(ConfigError, match=r"'x\.jsonl' could not be written"):
        add_answers(tmp_path / "no" / "x.jsonl", [say()])


def test_a_thousand_answers_take_little_more_than_their_text() -> None:
    dice, answers, text_bytes = random.Random(7), [], 0
    for number in range(1000):
        prompt = f"Tell me about number {number}, in a few words."
        text = write_reply(prompt, seed=number)
        pieces = split_tokens(text)
        at_ms, times = 300.0, []
        for _ in pieces:
            at_ms += dice.expovariate(1 / 17)  # a jittery network
            times.append(round(at_ms))
        pace = make_pace(
            [(len(p), t) for p, t in zip(pieces, times, strict=True)], end_ms=times[-1] + 9
        )
        told = {"text": text, "deltas": len(pieces), "pace": pace, "usage": {"in": 9, "out": 200}}
        answers.append(Answer(ask(prompt, max_tokens=1000), "2026-11-28", [told]))
        text_bytes += len((prompt + text).encode())
    written = write_cassette(merge(Cassette(), answers))
    assert len(written.encode()) <= 1.3 * text_bytes


def test_first_and_last_piece_come_when_they_came_and_the_rest_nearly() -> None:
    dice = random.Random(1)
    lengths = [dice.randrange(1, 8) for _ in range(400)]
    times = sorted(dice.randrange(400, 9000) for _ in range(400))
    times[200:] = [at + 4000 for at in times[200:]]  # it stalls
    pace = make_pace([*zip(lengths, times, strict=True)], end_ms=times[-1] + 50)
    due, end_ms = schedule(pace, lengths)
    assert (due[0], round(due[-1]), end_ms) == (times[0], times[-1], times[-1] + 50)
    assert max(abs(a - b) for a, b in zip(due, times, strict=True)) < 400
    assert len(pace) < 60


def test_a_merged_entry_is_spread_evenly() -> None:
    pace = make_pace([(10, 100), (10, 200)], end_ms=250)
    due, end_ms = schedule(pace, [5, 5, 5, 5])
    assert due[0] == 100
    assert due == sorted(due)
    assert due[2] == pytest.approx(150, abs=25)
    assert (due[-1], end_ms) == (200, 250)


def test_an_attempt_without_a_word_takes_its_time_too() -> None:
    assert schedule(make_pace([], end_ms=70), []) == ([], 70.0)


@pytest.mark.parametrize("count", [1, 3, 7, 900])
def test_a_text_is_said_in_as_many_pieces_as_it_came_in(count: int) -> None:
    told = {"reasoning": "Hm, well. " * 8, "text": "It is so. " * 40, "deltas": count}
    deltas = split_attempt(told)
    assert "".join(t for n, t in deltas if n == "content") == told["text"]
    assert "".join(t for n, t in deltas if n == "reasoning_content") == told["reasoning"]
    assert len(deltas) == max(2, min(count, 480))


USAGE = Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7, reasoning_tokens=2)


def test_a_log_becomes_its_attempts_and_what_lay_between_them() -> None:
    log = happen(
        (0, "status", "running"),
        (0, "start", "1"),
        (80, "status", "retrying", {"error": "429", "code": "rate_limit_exceeded"}),
        (1090, "start", "2"),
        (1290, "reasoning", "Hm.", {"tokens": 2}),
        (1400, "content", "So "),
        (1500, "content", "it is.", {"tokens": 3}),
        (1510, "tool_calls", '[{"id": "1"}]'),
        (1520, "end", "", {"usage": USAGE, "finish_reason": "stop"}),
    )
    answer = make_answer(ask(), log)
    assert answer is not None
    assert answer.recorded == "2026-11-28"
    failed, said = answer.attempts
    assert failed == {
        "error": "429",
        "code": "rate_limit_exceeded",
        "pace": [80],
        "wait_ms": 1010,
    }
    assert said["pace"][0] == 200
    del said["pace"]  # type: ignore[attr-defined]
    assert said == {
        "reasoning": "Hm.",
        "text": "So it is.",
        "tool_calls": [{"id": "1"}],
        "deltas": 6,
        "usage": {"in": 3, "out": 4, "reasoning": 2},
    }


@pytest.mark.parametrize(
    "end",
    [
        (90, "cancelled", "on request"),
        (90, "error", "late", {"code": "timeout"}),
        (90, "error", "gone", {"code": "key_gone"}),
    ],
)
def test_what_its_model_did_not_end_is_no_answer(end: tuple[Any, ...]) -> None:
    assert make_answer(ask(), happen((0, "start", "1"), (50, "content", "So"), end)) is None


def test_an_attempt_that_its_server_ended_is_none_of_the_model() -> None:
    log = happen(
        (0, "start", "1"),
        (50, "content", "So"),
        (60, "status", "retrying", {"error": "stopped", "code": "shutdown"}),
        (70, "start", "2"),
        (90, "content", "Well."),
        (99, "end", "", {"finish_reason": "stop"}),
    )
    answer = make_answer(ask(), log)
    assert answer is not None
    assert [attempt["text"] for attempt in answer.attempts] == ["Well."]


def test_an_attempt_that_continues_holds_all_of_the_text() -> None:
    log = happen(
        (0, "start", "1"),
        (100, "content", "So "),
        (200, "status", "retrying", {"error": "cut", "code": "model_connection"}),
        (900, "continue", "2"),
        (950, "content", "it is."),
        (960, "end", "", {"finish_reason": "stop"}),
    )
    answer = make_answer(ask(), log)
    assert answer is not None
    assert [attempt["text"] for attempt in answer.attempts] == ["So ", "So it is."]
    assert answer.attempts[1]["pace"][0] == 100


def test_attempts_that_handed_on_are_one_answer() -> None:
    log = happen(
        (0, "start", "1"),
        (100, "content", "So "),
        (200, "status", "pending", {"code": "time_limit"}),
        (900, "continue", "2"),
        (950, "content", "it "),
        (960, "status", "running"),  # a redelivery of one that was killed
        (970, "continue", "3"),
        (990, "content", "is."),
        (999, "end", "", {"finish_reason": "stop"}),
    )
    answer = make_answer(ask(), log)
    assert answer is not None
    assert [attempt["text"] for attempt in answer.attempts] == ["So it is."]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk-proj-abcdef123456 is wrong", "key <id> is wrong"),
        ("Limit of gpt-4o in organization org-Ab12Cd34 met", None),
        ("see https://api.example.com/v1?x=1 for more", "see <url> for more"),
        ("can't reach 10.1.2.3:8080 or box.example.com:443", "can't reach <host> or <host>"),
        ("in /home/mara/models/x.gguf", "in <path>"),
        ("request task_abcdefgh12345678/1 failed", "request <id>/1 failed"),
        ("key AIzaSyA1234567890abcdefghijk is bad", "key <id> is bad"),
        ("gsk_abcdefghijkl, hf_abcdefgh", "<id>, <id>"),
        ("request id 3f0c1f4e-9d5b-4c57-9a3e-0f1b2c3d4e5f", "request id <id>"),
        (r"no \\server\share\x, nor C:\Users\mara\x", "no <path> nor <path>"),
        ("ask mara@example.com", "ask <host>"),
        ("The model service at gpu-box:8000 is not", "The model service at <host> is not"),
        ("The model service at gpu-box is not", "The model service at <host> is not"),
        ("The model service at fe80::1:8080 is not", "The model service at <host> is not"),
        ("Can't connect to ollama:11434", "Can't connect to <host>"),
        ("connect ECONNREFUSED gpu1:80", "connect ECONNREFUSED <host>"),
        (
            "HTTPConnectionPool(host='gpu-box', port=8000)",
            "HTTPConnectionPool(host='<host>', port=8000)",
        ),
        (
            "no route to ::1:8080, fe80::1%eth0 or ::ffff:10.0.0.1",
            "no route to <host>, <host> or <host>",
        ),
        ("2001:db8:0:0:0:0:0:1 is down", "<host> is down"),
        ("lookup Vault-7: no such host; vault-7:80", "lookup <host>: no such host; <host>"),
        ("std::bad_alloc at 12:30:45, from 10:20 to 11:30, vault-70", "="),
        ("The model `gpt-4o-mini-2024-07-18` does not exist", "="),
        ("Unknown parameter: 'stream_options_for_all_requests'", "="),
        ("Please try again in 1s. Rate 3.5/s.", "Please try again in 1s. Rate 3.5/s."),
    ],
)
def test_an_error_names_no_machine_account_or_task(text: str, shown: str | None) -> None:
    found = scrub(text, task_id="task_abcdefgh12345678", hosts=["vault-7"])
    assert found == (text if shown == "=" else shown or "Limit of gpt-4o in organization <id> met")


@pytest.mark.parametrize(
    ("said", "kept", "text", "shown"),
    [
        ("Who is Mara?", "Who is X?", "Invalid: 'Who is Mara?'", "Invalid: 'Who is ***?'"),
        ("玛拉是谁", "某人是谁", "“玛拉是…” 不合规", "“******是…” 不合规"),
        ("Mara, Mara", "", "Maravilla of Mara", "Maravilla of ***"),
        ("Who is Mara?", "Who is Mara?", "Mara is refused", "Mara is refused"),
    ],
)
def test_an_error_says_no_word_that_was_redacted(
    said: str, kept: str, text: str, shown: str
) -> None:
    before = [{"role": "user", "content": [{"type": "text", "text": said}]}]
    assert hide(text, said=before, kept=[{"role": "user", "content": kept}]) == shown


def test_a_question_that_is_missing_is_told_by_the_nearest_word_by_word() -> None:
    cassette = read_cassette(
        write_cassette(
            merge(Cassette(), [say(prompt="Name three rivers of Norway"), say(prompt="Write code")])
        )
    )
    told = explain_missing(ask("Name four rivers of Norway"), cassette, file="answers.jsonl")
    assert "Nearest is line 1: the prompt differs: “Name [three → four] rivers of Norway”" in told
    told = explain_missing(ask("Write code", temperature=0.2, seed=3), cassette, file="a")
    assert "line 2: temperature is 0.2, recorded 0.7; params['seed'] is 3, recorded not set" in told
    assert "holds no answer. " in explain_missing(ask(), Cassette(), file="empty.jsonl")


def test_other_messages_are_told_by_their_place() -> None:
    def talk(*said: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": text} for text in said]

    cassette = merge(Cassette(), [say(messages=talk("a b", "c"))])
    told = explain_missing(ask(messages=talk("a x", "c")), cassette, file="a")
    assert "messages[0] differs: “a [b → x]”" in told
    assert "1 messages, recorded 2" in explain_missing(ask("a b"), cassette, file="a")
    parts = [{"role": "user", "content": [{"type": "text", "text": "a picture"}]}]
    cassette = merge(Cassette(), [say(messages=parts)])
    other = [{"role": "user", "content": [{"type": "text", "text": "a film"}]}]
    told = explain_missing(ask(messages=other), cassette, file="a")
    assert "messages[0].content[0].text differs: “a [picture → film]”" in told


def test_a_long_text_is_shown_where_it_differs() -> None:
    old = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    new = [*old]
    new[5] = "6"
    assert compare_words(" ".join(old), " ".join(new)) == (
        "… three four five [six → 6] seven eight nine …"
    )
    assert compare_words("a  b", "a b") == "[other blanks or line breaks]"


def test_between_long_documents_the_nearest_is_found_by_their_ends() -> None:
    dice = random.Random(3)
    papers = [" ".join(str(dice.randrange(900)) for _ in range(3000)) for _ in range(40)]
    cassette = merge(Cassette(), [say(prompt=f"{paper} Sum up.") for paper in papers])
    told = explain_missing(ask(f"{papers[7]} Add up."), cassette, file="a")
    assert f"… {' '.join(papers[7].split()[-3:])} [Sum → Add] up." in told
    other = " ".join(reversed(papers[7].split()))
    assert compare_words(f"a {papers[7]} b", f"a {other} b").startswith("a [")


def test_where_answers_come_from_is_said_in_one_way() -> None:
    told = {"file": "answers.jsonl", "recorded": "2026-11-28", "model": "gpt-4o-mini"}
    shown = "replayed from answers.jsonl (recorded 28 Nov, gpt-4o-mini)"
    assert describe_replay(told) == shown
    assert describe_replay({"file": 7}) is describe_replay(None) is None
    one = merge(Cassette(), [dataclasses.replace(say(model="gpt-4o-mini"))])
    assert one.describe("answers.jsonl") == shown
    two = merge(one, [say(prompt="x", day="2026-12-01"), say(prompt="y")])
    assert two.describe("a") == "replayed from a (recorded 28 Nov to 1 Dec, m, gpt-4o-mini)"
    assert describe_place("replay:a.jsonl:12ab") == "replayed from a.jsonl"
    assert describe_place("https://api.openai.com/v1") == ""
