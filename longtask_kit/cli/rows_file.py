"""Rows of a file, and answers into one."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from longtask_kit.client.frame import write_table
from longtask_kit.errors import ConfigError, SubmitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

READ = (".jsonl", ".csv", ".txt", ".parquet")
WRITTEN = (".jsonl", ".csv")


def read_rows_file(path: Path) -> list[Any]:
    """Return a file's rows: JSON values, a mapping for each line of CSV, or lines of text.

    Raises:
        SubmitError: It is of another kind, or can't be read; the message names the line.
    """
    suffix = path.suffix.lower()
    if suffix not in READ:
        raise SubmitError(f"{path}: expected a file that ends in {', '.join(READ)}.")
    if suffix == ".parquet":
        return _read_parquet(path)
    if not path.exists():
        raise SubmitError(f"There is no file {str(path)!r}: expected rows to ask for.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise SubmitError(f"{path} can't be read as UTF-8 text: {exc}.") from exc
    if suffix == ".csv":
        return _read_csv(path, text)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if suffix == ".txt":
        return [line.strip() for _, line in lines]
    return [_read_json(path, number, line) for number, line in lines]


def check_out(path: Path) -> None:
    """Raise SubmitError where answers can't be written to: before anything is asked."""
    if path.suffix.lower() not in WRITTEN:
        raise SubmitError(f"--out {path}: expected a file that ends in {' or '.join(WRITTEN)}.")
    if not os.access(path.parent, os.W_OK):
        raise SubmitError(f"--out {path}: its folder is not there, or can't be written to.")


def write_rows_file(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write answers, whole or not at all: what stood there before stays until then."""
    text = write_table(columns, is_csv=path.suffix.lower() == ".csv")
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        draft.write_text(text, encoding="utf-8", newline="")
        draft.replace(path)
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise ConfigError(
            f"{path} can't be written: {exc}. The answers stay in the group."
        ) from exc


def _read_json(path: Path, number: int, line: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise SubmitError(f"{path}, line {number} is no JSON: {exc}.") from exc


def _read_csv(path: Path, text: str) -> list[Any]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as exc:
        raise SubmitError(f"{path}, line {reader.line_num} is no CSV: {exc}.") from exc
    names = list(reader.fieldnames or ())
    if twice := [name for name in names if names.count(name) > 1]:
        raise SubmitError(
            f"{path}: two fields are called {twice[0]!r:.80}, and a row holds one: rename one."
        )
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise SubmitError(
                f"{path}: row {number} has not the {len(names)} fields of the first one."
            )
    return list(rows)


def _read_parquet(path: Path) -> list[Any]:
    try:
        import pandas
    except ImportError as exc:
        raise SubmitError(
            f'{path}: reading parquet needs pip install "pandas>=2.2" pyarrow.'
        ) from exc
    try:
        rows: list[Any] = pandas.read_parquet(path).to_dict("records")
    except (OSError, ValueError, ImportError) as exc:
        raise SubmitError(f"{path} can't be read as parquet: {exc}.") from exc
    return rows
