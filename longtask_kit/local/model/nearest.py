"""What to say of a question that is not recorded: which one is nearest, and how it differs.

Pure.
"""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from longtask_kit.cassettes import Answer, Cassette, Question

    _Words = Sequence[str]

_AROUND = 3  # words beside what differs
_SHOWN_CHARS = 60
_MAX_CHARS = 320
_COMPARED = 30  # questions that are compared word by word
_READ_CHARS = 2000  # of either end of a question: a document may be a part of it
_MOST_PAIRS = 500_000  # of words; more are told as one difference
_CURE = 'Record it: connect(replay=…, mode="extend") asks the real model for what is missing.'


def explain_missing(question: Question, cassette: Cassette, *, file: str) -> str:
    """Return the error of a question that a cassette does not hold."""
    if not cassette.answers:
        return f"{file} holds no answer. {_CURE}"
    nearest = find_nearest(question, cassette)
    differing = "; ".join(describe_differences(nearest.question, question))
    if len(differing) > _MAX_CHARS:
        differing = f"{differing[: _MAX_CHARS - 1]}…"
    return f"{file} holds no answer to this. Nearest is line {nearest.line}: {differing}. {_CURE}"


def find_nearest(question: Question, cassette: Cassette) -> Answer:
    """Return the recorded answer whose question is most like this one."""
    wanted = _read_words(question)
    read = [(answer, _read_words(answer.question)) for answer in cassette.answers.values()]
    read.sort(key=lambda one: -_quick_likeness(wanted, one[1]))
    answer, _ = max(
        read[:_COMPARED],
        key=lambda one: (
            SequenceMatcher(None, wanted, one[1], autojunk=False).ratio(),
            -len([*_list_settings(one[0].question, question)]),
        ),
    )
    return answer


def describe_differences(recorded: Question, asked: Question) -> Iterator[str]:
    """Yield each field that differs, a text word by word."""
    for name, before, now in _list_settings(recorded, asked):
        yield f"{name} is {_show(now)}, recorded {_show(before)}"
    pairs = zip_longest(recorded.messages, asked.messages)
    for i, (old, new) in enumerate(pairs):
        if old == new:
            continue
        if old is None or new is None:
            count = f"{len(asked.messages)} messages, recorded {len(recorded.messages)}"
            yield f"the conversation has {count}"
            return
        yield _describe_message(i, old, new, is_last=i == len(asked.messages) - 1)


def _list_settings(recorded: Question, asked: Question) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs beside the messages: its name, what was recorded, what is asked."""
    for name in ("model", "max_tokens", "temperature", "sample"):
        before, now = getattr(recorded, name), getattr(asked, name)
        if before != now:
            yield name, before, now
    for name in sorted({*recorded.params, *asked.params}):
        before, now = recorded.params.get(name), asked.params.get(name)
        if before != now:
            yield f"params[{name!r}]", before, now


def _describe_message(i: int, old: Any, new: Any, *, is_last: bool) -> str:  # noqa: ANN401
    names = {"system": "the system message", "user": "the prompt" if is_last else ""}
    name = names.get(str(new.get("role")), "") or f"messages[{i}]"
    if isinstance(old.get("content"), str) and isinstance(new.get("content"), str):
        if old.get("role") != new.get("role"):
            return (
                f"messages[{i}] is of {_show(new.get('role'))}, recorded {_show(old.get('role'))}"
            )
        return (
            f"{name} differs: “{compare_words(old['content'], new['content'])}” (recorded → asked)"
        )
    for field in sorted({*old, *new}):
        if old.get(field) != new.get(field):
            return f"messages[{i}].{_find_place(field, old.get(field), new.get(field))}"
    return f"messages[{i}] differs"


def _find_place(path: str, old: Any, new: Any) -> str:  # noqa: ANN401 - any JSON
    """Return where two values differ first, and how."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                return _find_place(f"{path}.{name}", old.get(name), new.get(name))
    if isinstance(old, list) and isinstance(new, list):
        for i, (before, now) in enumerate(zip_longest(old, new)):
            if before != now:
                return _find_place(f"{path}[{i}]", before, now)
    if isinstance(old, str) and isinstance(new, str) and " " in old + new:
        return f"{path} differs: “{compare_words(old, new)}” (recorded → asked)"
    return f"{path} is {_show(new)}, recorded {_show(old)}"


def compare_words(old: str, new: str) -> str:
    """Return a text in which what differs stands as `[old → new]`, with some words around it."""
    before, now = old.split(), new.split()
    if before == now:
        return "[other blanks or line breaks]"
    parts: list[str] = []
    codes = _compare(before, now)
    for at, (is_same, old_words, new_words) in enumerate(codes):
        if is_same:
            parts += _shorten(old_words, is_first=at == 0, is_last=at == len(codes) - 1)
        else:
            parts.append(f"[{_cut(old_words)} → {_cut(new_words)}]")
    return " ".join(parts)


def _compare(before: Sequence[str], now: Sequence[str]) -> list[tuple[bool, _Words, _Words]]:
    """Return what is the same and what is not, in turn; between two long texts, roughly."""
    least = min(len(before), len(now))
    head = next((i for i in range(least) if before[i] != now[i]), least)
    tail = next((i for i in range(least - head) if before[-1 - i] != now[-1 - i]), least - head)
    old, new = before[head : len(before) - tail], now[head : len(now) - tail]
    ends = before[:head], before[len(before) - tail :]
    if len(old) * len(new) > _MOST_PAIRS:
        told = [(False, old, new)]
    else:
        codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        told = [(kind == "equal", old[a:b], new[c:d]) for kind, a, b, c, d in codes]
    return [*_same(ends[0]), *told, *_same(ends[1])]


def _same(words: _Words) -> list[tuple[bool, _Words, _Words]]:
    return [(True, words, words)] if words else []


def _shorten(words: Sequence[str], *, is_first: bool, is_last: bool) -> list[str]:
    head = [] if is_first else [*words[:_AROUND]]
    tail = [] if is_last else [*words[-_AROUND:]]
    if len(head) + len(tail) >= len(words):
        return [*words]
    return [*head, "…", *tail]


def _cut(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _show(value: Any) -> str:  # noqa: ANN401 - any JSON
    if value is None:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _read_words(question: Question) -> list[str]:
    """Return the words at both ends of what was said, that of the user last: it counts most."""
    text = json.dumps([*question.messages], ensure_ascii=False)
    return (text[:_READ_CHARS] + text[_READ_CHARS:][-_READ_CHARS:]).split()


def _quick_likeness(one: Sequence[str], other: Sequence[str]) -> float:
    words, others = {*one}, {*other}
    return 2 * len(words & others) / (len(words) + len(others) or 1)
