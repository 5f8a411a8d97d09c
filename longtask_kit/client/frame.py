"""Rows and answers as columns, and as a DataFrame of the kind that was given."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from longtask_kit.errors import ConfigError


def make_columns(
    rows: Sequence[Any], answers: Sequence[Mapping[str, Any]], *, samples: int = 1
) -> dict[str, list[Any]]:
    """Return the rows' own columns, then the answers'.

    Args:
        rows: Cells of each answer's row: a dict, or one value.
        answers: Columns by name, in the order of the rows.
        samples: Answers a row.
    """
    cells = [dict(row) if isinstance(row, Mapping) else {"row": row} for row in rows]
    own = list(dict.fromkeys(name for row in cells for name in row))
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in cells] for name in own}
    if samples > 1:
        columns[_free("sample", columns)] = [i % samples for i in range(len(rows))]
    for name in answers[0] if answers else ():
        columns[_free(name, columns)] = [answer[name] for answer in answers]
    return columns


def write_csv(columns: Mapping[str, Sequence[Any]]) -> str:
    """Return columns as CSV (RFC 4180), a line of names first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def make_frame(source: object, columns: Mapping[str, list[Any]], *, samples: int = 1) -> Any:  # noqa: ANN401 - of pandas or polars
    """Return columns as a frame.

    Args:
        source: What was mapped: a frame or series of pandas or polars, or something else.
        columns: As `make_columns` made them.
        samples: Answers a row.

    Raises:
        ConfigError: Neither library is there.
    """
    if type(source).__module__.split(".")[0] == "polars":
        import polars

        return polars.DataFrame(columns, strict=False)
    try:
        import pandas
    except ImportError as exc:
        raise ConfigError(
            'to_frame() needs pandas: pip install "pandas>=2.2". Without it group.results() and '
            "group.errors have the same, row by row."
        ) from exc
    labels = getattr(source, "index", None)
    if labels is None or callable(labels):
        return pandas.DataFrame(columns)
    return pandas.DataFrame(columns, index=labels.repeat(samples) if samples > 1 else labels)


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Return a column's name, longer where a row has one of its own of that name."""
    while name in taken:
        name = f"task_{name}" if not name.startswith("task_") else f"{name}_"
    return name
