"""Rows as people have them: what is asked for each, and what is told of a wrong one."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import polars as pl
import pytest

import longtask_kit as lt
from longtask_kit.client.rows import is_empty, read_rows

CELLS = [{"text": "a", "words": 1}, {"text": "b", "words": 2}]
TEMPLATE = "In {words}: {text}"
ASKED = ["In 1: a", "In 2: b"]


def prompts(rows: object, template: Any = None, **options: Any) -> list[str | None]:  # noqa: ANN401
    return [r.spec.prompt if r.spec else None for r in read_rows(rows, template, **options)]


@pytest.mark.parametrize(
    "rows",
    [CELLS, iter(CELLS), pd.DataFrame(CELLS), pl.DataFrame(CELLS), (cells for cells in CELLS)],
    ids=["list", "iterator", "pandas", "polars", "generator"],
)
def test_a_template_is_filled_from_each_rows_fields(rows: object) -> None:
    assert prompts(rows, TEMPLATE) == ASKED


@pytest.mark.parametrize(
    "rows", [["a", "b"], pd.Series(["a", "b"]), pl.Series(["a", "b"])], ids=["list", "pd", "pl"]
)
def test_a_row_of_text_is_the_prompt_or_the_field_without_a_name(rows: object) -> None:
    assert prompts(rows) == ["a", "b"]
    assert prompts(rows, "Say {}!") == ["Say a!", "Say b!"]


def test_a_function_says_what_is_asked() -> None:
    rows = read_rows(
        [1, 2, 3],
        lambda n: (
            f"{n}?",
            [{"role": "user", "content": f"{n}!"}],
            {"prompt": f"{n}.", "max_tokens": n},
        )[n - 1],
        model="m",
    )
    assert [row.spec and row.spec.prompt for row in rows] == ["1?", "2!", "3."]
    assert [row.spec and row.spec.max_tokens for row in rows] == [1000, 1000, 3]
    assert all(row.spec and row.spec.model == "m" for row in rows)


def test_a_frames_labels_go_with_its_rows() -> None:
    frame = pd.DataFrame(CELLS, index=["x", "y"])
    assert [(row.position, row.label) for row in read_rows(frame, TEMPLATE)] == [(0, "x"), (1, "y")]
    with pytest.raises(lt.SubmitError, match=r"Row 1 \('y'\) has nothing in {text}"):
        read_rows(frame.assign(text=["a", None]), TEMPLATE)


@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NA, pd.NaT, " "])
def test_an_empty_row_is_named_or_left_out(nothing: object) -> None:
    assert is_empty(nothing)
    rows = [{"text": "a"}, {"text": nothing}, {"text": "c"}]
    with pytest.raises(lt.SubmitError, match=r"Row 1 has nothing in {text}: .*skip_empty=True"):
        read_rows(rows, "{text}")
    assert prompts(rows, "{text}", skip_empty=True) == ["a", None, "c"]
    assert prompts(["a", nothing], skip_empty=True) == ["a", None]


def broken() -> Iterator[str]:
    yield "a"
    raise OSError("the disk")


@pytest.mark.parametrize(
    ("rows", "template", "says"),
    [
        ([], None, "There are no rows"),
        ("text", None, "rows must be a list"),
        (7, None, "rows must be iterable"),
        (broken(), None, "Row 1 could not be read: OSError: the disk. Nothing was queued"),
        (CELLS, None, "Row 0: there is no template, and the row has the fields text, words"),
        (CELLS, "{txt}", r"Row 0: the template asks for {txt}; the row's fields are text, words"),
        (["a"], "{text}", r"Row 0: the template asks for {text}; the row's fields are none"),
        (CELLS, "{text", "^The template: "),
        (CELLS, "text", "^The template 'text' asks each row the same: write {} where it goes"),
        (["a", 7], None, "Row 1: expected a prompt"),
        ([1], lambda n: n / 0, "Row 0: the function raised ZeroDivisionError"),
        (["a", "b" * 20_000_001], None, "Row 1: .prompt. has 20,000,001 characters"),
        ([{"prompt": "x", "max_tokens": 0}], None, "Row 0: .max_tokens. is 0"),
        (
            [{"prompt": "x", "tokens": 1}],
            None,
            r"Row 0: submit\(\) got an unexpected keyword argument",
        ),
    ],
)
def test_a_wrong_row_is_named(rows: object, template: Any, says: str) -> None:  # noqa: ANN401
    with pytest.raises(lt.SubmitError, match=says):
        read_rows(rows, template)


def test_what_submit_does_not_know_is_no_rows_fault() -> None:
    with pytest.raises(
        lt.SubmitError, match=r"^map\(\) got an .* 'modle' \(did you mean 'model'\?\)"
    ):
        read_rows(["a"], None, modle="x")
    with pytest.raises(lt.SubmitError, match="did you mean 'parallelism'"):
        read_rows(["a"], None, paralelism=2)


def test_a_frame_without_a_header_is_asked_by_its_columns_numbers() -> None:
    frame = pd.DataFrame([["a", "b"], ["c", None]])
    assert prompts(frame, "{0}, not {1}", skip_empty=True) == ["a, not b", None]
    with pytest.raises(lt.SubmitError, match=r"Row 1 has nothing in {1}"):
        prompts(frame, "{0}, not {1}")


def test_a_row_is_named_whose_label_is_missing() -> None:
    frame = pd.DataFrame({"text": ["a", None]}, index=pd.Index([1, pd.NA], dtype="Int64"))
    with pytest.raises(lt.SubmitError, match=r"Row 1 \(<NA>\) has nothing in {text}"):
        prompts(frame, "{text}")
