"""Rows and answers as columns, and as a DataFrame of the kind that was given."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from longtask_kit.client.rows import is_empty
from longtask_kit.errors import ConfigError
from longtask_kit.log.text import make_valid_text


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
    writer.writerow(make_valid_text(n) if isinstance(n, str) else n for n in columns)
    for row in zip(*columns.values(), strict=True):
        cells = map(make_json, row)
        writer.writerow([_dump(c) if isinstance(c, dict | list) else c for c in cells])
    return text.getvalue()


def write_table(columns: Mapping[str, Sequence[Any]], *, is_csv: bool) -> str:
    """Return columns as CSV, or as a line of JSON for each row."""
    if is_csv:
        return write_csv(columns)
    return "".join(f"{_dump(row)}\n" for row in list_json_rows(columns))


def list_json_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return each row as JSON has it."""
    return [
        make_json(dict(zip(columns, row, strict=True)))
        for row in zip(*columns.values(), strict=True)
    ]


def make_json(value: Any) -> Any:  # noqa: ANN401
    """Return a cell as JSON that any file takes.

    What JSON has no word for is as `str` has it, NaN is None, half a surrogate pair is U+FFFD.
    """
    value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    if hasattr(value, "tolist"):  # of numpy: a number, or an array
        value = value.tolist()
    match value:
        case Mapping():
            return {make_valid_text(str(name)): make_json(item) for name, item in value.items()}
        case list() | tuple():
            return [make_json(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case str():
            return make_valid_text(value)
        case int() | float():
            return value
    return None if is_empty(value) else make_valid_text(str(value))


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a frame is made like: what was mapped, as it was then.

    The frame itself is not held: whoever mapped it may sort it in place, or drop rows.

    Attributes:
        is_polars: Else it is pandas', or no frame.
        labels: The index of a frame or series of pandas; None where there is none.
        dtypes: Of its columns by name.
    """

    is_polars: bool = False
    labels: Any = None
    dtypes: Mapping[Any, Any] = field(default_factory=dict)


def read_origin(source: object) -> Origin:
    """Return what to make a frame like.

    Args:
        source: What was mapped: a frame or series of pandas or polars, or something else.
    """
    is_polars = type(source).__module__.split(".")[0] == "polars"
    labels = None if is_polars or not hasattr(source, "iloc") else getattr(source, "index", None)
    if (is_polars or labels is not None) and hasattr(source, "columns"):
        kinds = source.dtypes if is_polars else list(source.dtypes)  # type: ignore[attr-defined]
        return Origin(is_polars, labels, dict(zip(source.columns, kinds, strict=True)))
    dtype = getattr(source, "dtype", None) if is_polars or labels is not None else None
    return Origin(is_polars, labels, {} if dtype is None else {"row": dtype})


def make_frame(origin: Origin, columns: Mapping[str, list[Any]], *, samples: int = 1) -> Any:  # noqa: ANN401 - of pandas or polars
    """Return columns as a frame, those of the rows typed as they were.

    Args:
        origin: Of what was mapped.
        columns: As `make_columns` made them.
        samples: Answers a row.

    Raises:
        ConfigError: Neither library is there.
    """
    if origin.is_polars:
        return _make_polars(origin, columns)
    try:
        import pandas
    except ImportError as exc:
        raise ConfigError(
            'to_frame() needs pandas: pip install "pandas>=2.2". Without it group.results() and '
            "group.errors have the same, row by row."
        ) from exc
    labels = origin.labels
    if labels is not None and samples > 1:
        labels = labels.repeat(samples)
    frame = pandas.DataFrame(columns, index=labels)
    for name, kind in origin.dtypes.items():
        if name not in columns or frame[name].dtype == kind:
            continue
        known = getattr(kind, "categories", None)
        if known is not None and not frame[name].dropna().isin(known).all():
            continue
        # A whole number beyond 2**53 would not be the same in a column that pandas guessed.
        with contextlib.suppress(TypeError, ValueError):
            frame[name] = pandas.Series(columns[name], index=frame.index, dtype=kind)
    return frame


def _make_polars(origin: Origin, columns: Mapping[str, list[Any]]) -> Any:  # noqa: ANN401 - a frame
    import polars

    plain = {name: list(map(make_plain, values)) for name, values in columns.items()}
    typed = {name: kind for name, kind in origin.dtypes.items() if name in plain}
    frame = polars.DataFrame(plain, schema_overrides=typed, strict=False)
    missing = {name: sum(value is None for value in plain[name]) for name in typed}
    kept = {name: kind for name, kind in typed.items() if frame[name].null_count() == missing[name]}
    if len(kept) == len(typed):
        return frame
    # A prompt of a comparison in other words is of no category: it is kept, not the type.
    return polars.DataFrame(plain, schema_overrides=kept, strict=False)


def make_plain(value: Any) -> Any:  # noqa: ANN401
    """Return an answer as what any library can hold: of a model its fields."""
    return value.model_dump() if isinstance(value, BaseModel) else value


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Return a column's name, longer where a row has one of its own of that name."""
    while name in taken:
        name = f"task_{name}" if not name.startswith("task_") else f"{name}_"
    return name
