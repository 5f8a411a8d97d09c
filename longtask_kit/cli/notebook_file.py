"""A saved notebook's JSON, of which is certain that its cells and outputs are what they should be.

https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read_notebook(path: Path) -> tuple[dict[str, Any], str]:
    """Return a notebook, and its text.

    Raises:
        ConfigError: It can't be read, or is none; the message names the place.
    """
    try:
        text = path.read_text(encoding="utf-8")
        notebook = json.loads(text)
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} can't be read as a notebook: {exc}.") from exc
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ConfigError(f"{path} is no notebook of format 4: it has no list of cells.")
    for number, cell in enumerate(notebook["cells"], 1):
        if wrong := next(_find_wrong(cell), ""):
            raise ConfigError(f"{path} is no notebook of format 4: in cell {number}, {wrong}.")
    return notebook, text


def _find_wrong(cell: object) -> Iterator[str]:
    if not isinstance(cell, dict):
        yield f"expected an object, found {type(cell).__name__}"
        return
    if not _is_text(cell.get("source", "")):
        yield "the source is no text"
    outputs = cell.get("outputs", [])
    if not isinstance(outputs, list):
        yield "the outputs are no list"
        return
    for output in outputs:
        parts = _list_parts(output)
        if not all(isinstance(part, dict) for part in parts):
            yield "an output is no object that holds data and metadata"
        elif not all(_is_text(parts[1].get(form, "")) for form in ("text/plain", "text/html")):
            yield "an output's text is none"


def _list_parts(output: Any) -> list[Any]:  # noqa: ANN401 - JSON
    if not isinstance(output, dict):
        return [output]
    return [output, output.get("data", {}), output.get("metadata", {})]


def _is_text(value: object) -> bool:
    """Tell whether it is a text, or a list of its lines."""
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(line, str) for line in value)
    )
