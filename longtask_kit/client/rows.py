"""Rows as people have them, a frame, a list, a generator, to what is asked for each."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import SubmitError
from longtask_kit.submit.request import check_names, make_spec

if TYPE_CHECKING:
    from longtask_kit.submit.spec import TaskSpec

Template = str | Callable[[Any], object]
"""Text with `{field}`s, or a function from a row to a prompt, messages, or submit's arguments."""


# What `kit.map()` takes besides what `submit` does.
_OF_MAP = (
    *("template", "name", "n", "reuse", "skip_empty", "parallelism", "rpm", "tpm"),
    *("budget_tokens", "budget_cost", "ttl_s", "prices"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row, and what is asked for it.

    Attributes:
        position: 0, 1, …
        label: Its label in a frame's index, or its position.
        cells: The row as it was given.
        spec: None where the row is empty and was left out.
    """

    position: int
    label: Any
    cells: Any
    spec: TaskSpec | None


def read_rows(
    rows: object,
    template: Template | None,
    *,
    skip_empty: bool = False,
    **options: Any,  # noqa: ANN401 - submit's own
) -> list[Row]:
    """Return what is asked for each row; nothing is queued.

    Args:
        rows: A list of str or dict, a Series or DataFrame of pandas or polars, any iterable.
        template: How a row is asked; None where the row itself is the prompt.
        skip_empty: Leave out rows that hold None, NaN or nothing where the template looks.
        options: What all rows are submitted with.

    Raises:
        SubmitError: The message names the row.
    """
    check_names(options, "map()", _OF_MAP)
    make_spec(**{"prompt": "…", **options})  # what is wrong with these is no row's fault
    if isinstance(template, str) and not _find_fields(template):
        raise SubmitError(
            f"The template {_show(template)} asks each row the same: write {{}} where it goes, "
            "or {name} for a field of it. For several answers to one question there is n=."
        )
    held = _list_rows(rows)
    if not held:
        raise SubmitError("There are no rows: expected at least one.")
    read = [
        _read_row(position, label, cells, template, options=options)
        for position, (label, cells) in enumerate(held)
    ]
    empty = [] if skip_empty else [row for row in read if row.spec is None]
    if empty:
        others = f" {len(empty):,} rows are like that." if len(empty) > 1 else ""
        raise SubmitError(
            f"{_place(empty[0])} {_describe_empty(empty[0].cells, template)}.{others} Fill what is "
            "missing, drop the row, or give skip_empty=True."
        )
    return read


def _list_rows(rows: object) -> list[tuple[Any, Any]]:
    """Return label and cells of each row, by what the thing offers: no library is imported."""
    if isinstance(rows, str | bytes | Mapping):
        raise SubmitError(
            f"rows must be a list, a Series, a DataFrame or an iterable, got {type(rows).__name__}."
        )
    if hasattr(rows, "iterrows"):  # a DataFrame of pandas
        cells = rows.to_dict("records")  # type: ignore[attr-defined]
        return list(zip(list(rows.index), cells, strict=True))  # type: ignore[attr-defined]
    if hasattr(rows, "to_dicts"):  # of polars
        return list(enumerate(rows.to_dicts()))
    if hasattr(rows, "items") and hasattr(rows, "iloc"):  # a Series of pandas
        return list(rows.items())
    if not isinstance(rows, Iterable):
        raise SubmitError(f"rows must be iterable, got {type(rows).__name__}.")
    held: list[tuple[Any, Any]] = []
    try:
        for position, cells in enumerate(rows):
            held.append((position, cells))
    except Exception as exc:
        raise SubmitError(
            f"Row {len(held)} could not be read: {type(exc).__name__}: {str(exc)[:300]}. Nothing "
            "was queued."
        ) from exc
    return held


def _read_row(
    position: int,
    label: object,
    cells: object,
    template: Template | None,
    *,
    options: Mapping[str, Any],
) -> Row:
    row = Row(position, label, cells, None)
    try:
        asked = _ask(cells, template)
        spec = None if asked is None else make_spec(**{**options, **asked})
    except SubmitError as exc:
        raise SubmitError(f"{_place(row)}: {exc}", field=exc.field) from exc
    return replace(row, spec=spec)


def _place(row: Row) -> str:
    is_own = repr(row.label) != str(row.position)  # pandas.NA can't say what it equals
    return f"Row {row.position}" + (f" ({row.label!r:.40})" if is_own else "")


def _describe_empty(cells: object, template: Template | None) -> str:
    if isinstance(cells, Mapping) and isinstance(template, str):
        names = [name for name in _find_fields(template) if is_empty(cells.get(name))]
        return f"has nothing in {', '.join(f'{{{name}}}' for name in names)}: {_show(cells)}"
    return f"is empty: {_show(cells)}"


def _ask(cells: object, template: Template | None) -> dict[str, Any] | None:
    """Return submit's arguments for a row; None for an empty one."""
    if is_empty(cells):
        return None
    if callable(template):
        return _read_asked(_call(template, cells))
    if template is not None:
        return _fill(template, cells)
    return _read_asked(cells)


def _read_asked(asked: object) -> dict[str, Any] | None:
    """Read what a row or a function says: a prompt, messages, or submit's arguments."""
    if is_empty(asked):
        return None
    match asked:
        case str():
            return {"prompt": asked}
        case Mapping() if "prompt" in asked or "messages" in asked:
            return None if is_empty(asked.get("prompt", "x")) else dict(asked)
        case list() | tuple() if all(isinstance(message, Mapping) for message in asked):
            return {"messages": list(asked)}
        case Mapping():
            raise SubmitError(
                f"there is no template, and the row has the fields {_name(asked)}: "
                "give a template like 'Summarise: {text}'."
            )
        case _:
            raise SubmitError(f"expected a prompt, messages or arguments, got {_show(asked)}.")


def _call(template: Callable[[Any], object], cells: object) -> object:
    try:
        return template(cells)
    except Exception as exc:
        raise SubmitError(f"the function raised {type(exc).__name__}: {str(exc)[:300]}.") from exc


def _fill(template: str, cells: object) -> dict[str, Any] | None:
    fields = _find_fields(template)
    named = cells if isinstance(cells, Mapping) else {}
    # A frame without a header has columns 0, 1, …: {0} is the first of them.
    numbered = [number for number in fields if isinstance(number, int) and number in named]
    given = [named.get(name) if name in named else cells for name in fields]
    unknown = [name for name in fields if isinstance(name, str) and name and name not in named]
    if unknown:
        has = _name(named) if named else "none: it is " + _show(cells)
        raise SubmitError(f"the template asks for {{{unknown[0]}}}; the row's fields are {has}.")
    if fields and all(map(is_empty, given)):
        return None
    if any(is_empty(value) for value in given):
        return None
    try:
        positional: Any = named if numbered else [cells] * len(fields)
        return {"prompt": string.Formatter().vformat(template, positional, named)}
    except Exception as exc:
        raise SubmitError(f"the template: {type(exc).__name__}: {exc}.") from exc


def _find_fields(template: str) -> list[str | int]:
    """Return the names a template asks for, "" for `{}`, a number for `{0}`."""
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as exc:
        raise SubmitError(f"The template: {exc}; a brace of the text is written twice.") from exc
    names = [name.replace("[", ".").split(".")[0] for name in found]
    return [int(name) if name.isdecimal() else name for name in names]


def is_empty(value: object) -> bool:
    """Tell whether a cell holds nothing: None, NaN, a missing value of pandas, blank text."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    # pandas.NA and NaT, and NaNs of numpy: nothing else is unlike itself, or can't say.
    if isinstance(value, Mapping | Sequence):
        return False
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def _name(fields: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(fields)[:20]))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
