"""A model's text is data: nothing in it may steer the reader's terminal."""

import json
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longtask_kit.client.terminal import _print_plain
from longtask_kit.log.events import Cursor, TaskEvent
from longtask_kit.log.text import make_printable, to_json_line

examples = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b[2J\x1b[H", "[2J[H"),
        ("\x1b]0;title\x07", "]0;title"),
        (
            "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
            "]8;;https://evil.example\\link]8;;\\",
        ),
        ("\x1b]52;c;ZXZpbA==\x07", "]52;c;ZXZpbA=="),
        ("\x1bP1$r\x1b\\", "P1$r\\"),
        ("\x9b31mred", "31mred"),
        ("\x9d0;title\x9c", "0;title"),
        ("\x90q\x9c", "q"),
        ("a\x85b\x8dc", "abc"),
        ("good\r\x1b[Kevil", "good[Kevil"),
        ("ab\x08\x08cd", "abcd"),
        ("a\x00b\x07c\x0bd\x0ce\x0ef\x0fg\x7fh", "abcdefgh"),
        (f"a{BIDI}b", "ab"),
        ("user\u202enimda", "usernimda"),
        ("a\r\nb", "a\nb"),
    ],
    ids=ascii,
)
def test_control_characters_and_direction_overrides_are_removed(text: str, expected: str) -> None:
    assert make_printable(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain text, punctuation [31m] and all",
        "\tindented\n\n\nlines\n",
        "写一个关于人工智能的短故事",
        "👩‍👩‍👧‍👦 👩🏽‍🔬 🏳️‍🌈 🇨🇳",
        "e\u0301 ñ ü ß",
        "שלום عليكم",
        "\u00a0\u200b\u200d\ufeff",
        "π ≈ 3.14 → ∞ █▓░",
    ],
)
def test_text_survives(text: str) -> None:
    assert make_printable(text) == text


@examples
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_control_character_is_left_and_nothing_else_is_lost(text: str) -> None:
    printable = make_printable(text)
    kept = [c for c in text if c in "\t\n" or (unicodedata.category(c) != "Cc" and c not in BIDI)]
    assert printable == "".join(kept)
    assert make_printable(printable) == printable


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("é河", None, "é河"),
        ("é河", "utf-8", "é河"),
        ("é", "cp1252", "é"),
        ("é河😀", "cp1252", "\\u00e9\\u6cb3\\ud83d\\ude00"),
        ("é\x1b\x7f", "ascii", "\\u00e9\\u001b\\u007f"),
        ("\ud83d", "utf-8", "\\ud83d"),
    ],
    ids=ascii,
)
def test_a_line_of_json_says_the_same_in_any_encoding(
    text: str, encoding: str | None, shown: str
) -> None:
    line = to_json_line({"a": text}, encoding=encoding)
    assert line == f'{{"a": "{shown}"}}\n'
    assert json.loads(line) == {"a": text}
    line.encode(encoding or "utf-8")


def make_event(seq: int, **fields: str) -> TaskEvent:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return TaskEvent(cursor=Cursor(1, seq), time=time, **fields)  # type: ignore[arg-type]


def test_a_pipe_gets_the_text_alone_and_notes_go_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_plain(
        [
            make_event(1, type="start", data="1"),
            make_event(2, type="content", data="Hel"),
            make_event(3, type="status", data="retrying", error="500"),
            make_event(4, type="start", data="2"),
            make_event(5, type="content", data="Hello"),
            make_event(6, type="end"),
        ]
    )
    printed = capsys.readouterr()
    assert printed.out == "Hel\nHello\n"
    assert printed.err == "attempt 1 failed: 500; retrying\nattempt 2: the text starts over\n"


def test_a_text_that_goes_on_after_a_retry_is_not_broken_in_mid_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_plain(
        [
            make_event(1, type="start", data="1"),
            make_event(2, type="content", data="One "),
            make_event(3, type="status", data="retrying", error="cut"),
            make_event(4, type="continue"),
            make_event(5, type="content", data="sentence."),
            make_event(6, type="end"),
        ]
    )
    printed = capsys.readouterr()
    assert printed.out == "One sentence.\n"
    assert printed.err == (
        "attempt 1 failed: cut; retrying\nattempt 1: goes on where the text ended\n"
    )


def test_what_begins_anew_begins_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    calls = json.dumps([{"function": {"name": "f", "arguments": "{}"}}])
    _print_plain(
        [
            make_event(1, type="start", data="1"),
            make_event(2, type="content", data="Hel"),
            make_event(3, type="start", data="2"),
            make_event(4, type="content", data="I look"),
            make_event(5, type="tool_calls", data=calls),
            make_event(6, type="start", data="3"),
            make_event(7, type="content", data="Hello"),
        ]
    )
    assert capsys.readouterr().out == "Hel\nI look\nf({})\nHello\n"


def test_an_attempt_that_had_shown_nothing_does_not_start_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_plain(
        [
            make_event(1, type="start", data="1"),
            make_event(2, type="status", data="retrying", error="Nobody answers."),
            make_event(3, type="start", data="2"),
            make_event(4, type="content", data="Hello"),
            make_event(5, type="end"),
        ]
    )
    printed = capsys.readouterr()
    assert printed.out == "Hello\n"
    assert printed.err == "attempt 1 failed: Nobody answers; retrying\n"


def test_neither_text_nor_error_of_a_model_steers_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_plain(
        [
            make_event(1, type="content", data="\x1b[2Ja\n"),
            make_event(2, type="status", data="retrying", error="\x1b]0;title\x07\x9b2J"),
        ]
    )
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out
    assert not {"\x1b", "\x07", "\x9b"} & set(printed.err)


def test_what_is_said_of_a_refusal_begins_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    _print_plain([make_event(1, type="refusal", data=part) for part in ("I can't", " help.")])
    assert capsys.readouterr().err == "I can't help.\n"


def test_a_text_that_ends_its_line_gets_no_other_line_feed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_plain([make_event(1, type="content", data="a\n")])
    assert capsys.readouterr().out == "a\n"
