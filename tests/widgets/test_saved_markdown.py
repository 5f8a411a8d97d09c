"""Markdown in a saved card: the same set as in a live one, and never markup of the model's.

`npm test` holds the live one to the same cases.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

import longtask_kit
from longtask_kit.widgets.codes import highlight
from longtask_kit.widgets.fold import count_lines, find_fold
from longtask_kit.widgets.markdown import render_blocks

CASES = Path(longtask_kit.__file__).parent / "widgets" / "js" / "test"
MARKDOWN: list[dict[str, Any]] = json.loads((CASES / "markdown_cases.json").read_text("utf-8"))
FORMULA = re.compile(
    r'<(span|div) class="longtask-math( longtask-display)? tex2jax_process mathjax_process"'
    r"( tabindex=\"0\")?>\\[(\[](.*?)\\[)\]]</\1>",
    re.DOTALL,
)


def render(text: str) -> str:
    return "".join(block.html for block in render_blocks(text))


def normalize(made: str) -> str:
    """Write formulas as the shared cases do, without their marks."""
    return FORMULA.sub(r'<\1 class="longtask-math\2"\3>\4</\1>', made)


@pytest.mark.parametrize("case", MARKDOWN, ids=lambda case: str(case["name"]))
def test_markdown_is_what_a_live_card_makes_of_it(case: dict[str, Any]) -> None:
    made = render(case["text"])
    assert normalize(made) == case["html"]
    if "math" in case:
        assert [html.unescape(found[3]) for found in FORMULA.findall(made)] == case["math"]


def test_each_block_knows_its_source() -> None:
    text = "# a\n\n- b\n\n  c\n\n\n```\nd\n```\n"
    blocks = render_blocks(text)
    assert [block.source for block in blocks] == ["# a\n", "- b\n\n  c\n\n", "```\nd\n```\n"]
    assert render_blocks("\n") == []


@pytest.mark.parametrize(
    ("language", "code", "found"),
    [
        ("python", "def f(n: int): return 'x' * 2  # c", {"k", "f", "t", "s", "n", "c"}),
        ("js", "const f = () => 'x' // c\n1", {"k", "s", "c", "n"}),
        ("json", '{"a": [1, "b", true]}', {"f", "n", "s"}),
        ("sql", "SELECT count(*) FROM t WHERE a = 'x' -- c", {"k", "s", "c"}),
        ("bash", 'echo "x" # c\n', {"t", "s", "c"}),
        ("unheard-of", "def f(): pass", set()),
    ],
)
def test_code_has_six_colours(language: str, code: str, found: set[str]) -> None:
    made = highlight(code, language)
    assert html.unescape(re.sub(r"</?span[^>]*>", "", made)) == code
    classes = set(re.findall(r'class="lt-(\w)"', made))
    assert classes >= found
    assert classes <= set("ksfcnt")


def test_code_is_escaped_in_every_language_and_long_code_stays_plain() -> None:
    for language in ("", "html", "python", "xml", "js"):
        assert "<img" not in highlight("<img src=x onerror=alert(1)>", language)
    assert "span" not in highlight("def f(): pass\n" * 2000, "python")


def test_a_long_answer_folds_between_two_blocks() -> None:
    assert find_fold([]) == 0
    assert find_fold(["short\n"] * 5) == 5
    assert find_fold(["a line\n\n"] * 60) == 12
    assert find_fold(["```\n" + "x\n" * 500 + "```\n"]) == 1
    assert find_fold(["x " * 3000, "the rest"]) == 2, "one block is not worth a fold"
    assert count_lines("x" * 89) == 3
    assert count_lines("|a|\n" * 99) == 23
