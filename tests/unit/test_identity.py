"""What makes two tasks the same question: golden names, so that nothing paid is forgotten."""

from typing import Any

import pytest

from longtask_kit.submit.identity import name_content
from longtask_kit.submit.spec import TaskSpec

GOLDEN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"prompt": "Explain tides"}, {"model": "m"}, "e1de00b8b0d4890f8fac792c775111ae"),
    (
        {"prompt": "长", "system": "s", "temperature": 1},
        {"model": "m"},
        "25c0d7e2a89a7c996fc588258d9fafd4",
    ),
    (
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
            "max_tokens": None,
        },
        {"model": "m", "endpoint": "https://api.example.com/v1/"},
        "01b4d1f26349f19e4bb287e0712548c6",
    ),
    (
        {"prompt": "x", "params": {"seed": 7, "stop": ["a"]}},
        {"model": "m", "sample": 2},
        "d77ba2cd2e34a51a1aec44e099a19de5",
    ),
    (
        {"prompt": "x", "handler": "mine", "metadata": {"b": 1, "a": 2}},
        {"model": "m"},
        "d8ebffbbbf9a7ae09852a0771945c893",
    ),
]


@pytest.mark.parametrize(("values", "facts", "name"), GOLDEN)
def test_a_content_has_the_name_that_it_always_had(
    values: dict[str, Any], facts: dict[str, Any], name: str
) -> None:
    assert name_content(TaskSpec(**values), secret="secret", **facts) == name


BASE = TaskSpec(prompt="x", model="a", params={"seed": 1})


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "y"},
        {"system": "s"},
        {"max_tokens": 5},
        {"temperature": None},
        {"params": {"seed": 2}},
        {"api": "responses"},
        {"handler": "mine"},
    ],
)
def test_another_question_has_another_name(changed: dict[str, Any]) -> None:
    values = {"prompt": "x", "params": {"seed": 1}} | changed
    mine = name_content(BASE, secret="s", model="m")
    assert name_content(TaskSpec(**values), secret="s", model="m") != mine


def test_what_does_not_change_the_answer_does_not_change_the_name() -> None:
    mine = name_content(BASE, secret="s", model="m")
    same = TaskSpec(
        messages=[{"content": "x", "role": "user"}],
        params={"seed": 1},
        temperature=0.7,
        metadata={"row": 3},
        retries=9,
        timeout_s=60,
        api="chat",
    )
    assert name_content(same, secret="s", model="m") == mine


@pytest.mark.parametrize(
    "facts",
    [{"model": "n"}, {"endpoint": "https://x"}, {"handler_version": "2"}, {"sample": 1}],
)
def test_another_place_version_or_sample_has_another_name(facts: dict[str, Any]) -> None:
    mine = name_content(BASE, secret="s", model="m")
    assert name_content(BASE, secret="s", **({"model": "m"} | facts)) != mine
    assert name_content(BASE, secret="t", model="m") != mine
