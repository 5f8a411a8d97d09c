"""Rows and answers as columns: what a frame's own were stays, and JSON is JSON."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from pydantic import BaseModel

from longtask_kit.client.frame import make_frame, read_origin, write_csv, write_table
from longtask_kit.client.rows import read_rows


class Colour(BaseModel):
    name: str


PANDAS = pd.DataFrame(
    {
        "text": ["a", "b"],
        "id": pd.array([2**60 + 1, None], dtype="Int64"),
        "kind": pd.Categorical(["u", "v"], categories=["v", "u", "w"]),
        "when": pd.to_datetime(["2024-01-01", None]),
        "sure": pd.array([True, None], dtype="boolean"),
        "part": np.array([1, 2], dtype="float32"),
    },
    index=pd.MultiIndex.from_tuples([(1, "x"), (1, "x")], names=["i", "j"]),
)
POLARS = pl.DataFrame(
    {
        "text": ["a", "b"],
        "id": pl.Series([1, None], dtype=pl.Int8),
        "kind": pl.Series(["u", None], dtype=pl.Enum(["u", "v"])),
        "when": pl.Series([datetime(2024, 1, 1, tzinfo=UTC)] * 2, dtype=pl.Datetime("ns", "UTC")),
        "none": pl.Series([None, None], dtype=pl.Decimal(10, 2)),
        "pair": [{"x": 1}, None],
    }
)


def put_back(source: Any, **answers: list[Any]) -> Any:  # noqa: ANN401
    cells = [row.cells for row in read_rows(source, "{text}")]
    own = {name: [row[name] for row in cells] for name in cells[0]}
    return make_frame(read_origin(source), own | answers)


def test_columns_keep_their_types_and_rows_their_labels() -> None:
    found = put_back(PANDAS, answer=["A", "B"])
    pd.testing.assert_frame_equal(found.drop(columns="answer"), PANDAS)
    assert put_back(POLARS, answer=["A", "B"]).drop("answer").equals(POLARS)
    assert put_back(POLARS).schema == POLARS.schema


@pytest.mark.parametrize("source", [PANDAS, POLARS], ids=["pandas", "polars"])
def test_a_value_that_is_no_category_any_more_is_kept(source: Any) -> None:  # noqa: ANN401
    """In a comparison a prompt is asked in other words."""
    frame = make_frame(read_origin(source), {"kind": ["u", "in other words"]})
    assert list(frame["kind"]) == ["u", "in other words"]


def test_a_frame_that_is_sorted_in_place_changes_nothing_of_what_was_mapped() -> None:
    frame = pd.DataFrame({"text": ["b", "a", "c"]}, index=["ib", "ia", "ic"])
    origin = read_origin(frame)
    frame.index = pd.Index(["ia", "ib", "ic"])  # as sort_values(inplace=True) does
    assert list(make_frame(origin, {"text": ["b", "a", "c"]}).index) == ["ib", "ia", "ic"]


@pytest.mark.parametrize("answers", [[None, Colour(name="red")], [Colour(name="red"), None]])
def test_answers_of_a_schema_are_structs_of_polars_where_one_is_none(answers: list[Any]) -> None:
    found = put_back(POLARS, answer=answers)["answer"].to_list()
    assert found == [answer and {"name": "red"} for answer in answers]


def test_a_line_of_json_is_read_by_any_tool() -> None:
    columns: dict[Any, list[Any]] = {
        0: [float("nan")],
        ("two", "levels"): [pd.NaT],
        "na": [pd.NA],
        "count": [np.int64(3)],
        "deep": [{"list": np.array([1.5, float("inf")])}],
        "answer": [Colour(name="red")],
        "when": [datetime(2024, 1, 1, tzinfo=UTC)],
        "blank": [""],
    }
    [line] = write_table(columns, is_csv=False).splitlines()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(line, parse_constant=refuse) == {
        "0": None,
        "('two', 'levels')": None,
        "na": None,
        "count": 3,
        "deep": {"list": [1.5, None]},
        "answer": {"name": "red"},
        "when": "2024-01-01 00:00:00+00:00",
        "blank": "",
    }
    [_, cells] = write_csv({"a": [Colour(name="red")], "b": [float("nan")]}).splitlines()
    assert cells == '"{""name"": ""red""}",'


@pytest.mark.parametrize("is_csv", [True, False])
def test_half_a_surrogate_pair_in_a_cell_keeps_no_table_from_being_written(*, is_csv: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"kept \ud83d": {"deep": ["half \udc00"]}, "other": "whole \U0001f600"}
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    text = write_table(columns, is_csv=is_csv).encode().decode()
    assert "whole \U0001f600" in text
    assert "half \ufffd" in text
