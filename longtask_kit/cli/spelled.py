"""The prompts that a notebook's code spells out: those that it asks, and those that it may."""

from __future__ import annotations

import ast
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = "%%longtask"
_OF_IPYTHON = re.compile(r"(?m)^[ \t]*[%!].*$")
# Of each call that asks: where its prompts stand, by name or place; and the template of them.
_ASKING: dict[str, tuple[dict[str, int | None], int | None]] = {
    "submit": ({"prompt": 0, "messages": None}, None),
    "send": ({"prompt": 0}, None),
    "reply": ({"prompt": 0}, None),
    "ask_anew": ({"text": 1}, None),
    "map": ({"rows": 0}, 1),
    "compare": ({"prompts": 0}, 2),
}
_HOLDS_TEXT = ("prompt", "messages", "content", "text")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt that stands in a notebook as it is.

    Attributes:
        cell: Its cell's number, from 1.
    """

    cell: int
    prompt: str


def find_asked(notebook: dict[str, Any]) -> list[Asked]:
    """Return the prompts that a notebook asks and spells out, in its order."""
    return [
        Asked(number, prompt)
        for number, cell in enumerate(notebook.get("cells", ()), 1)
        if cell.get("cell_type") == "code"
        for prompt in list_asked("".join(cell.get("source", "")))
    ]


def list_asked(source: str) -> Iterator[str]:
    """Yield the prompts that a cell's code asks, where they stand as they are asked."""
    if source.startswith(_MAGIC):
        if not _is_template(source):
            yield _read_magic(source)
        return
    calls = [node for node in ast.walk(_parse(source)) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: (call.end_lineno, call.end_col_offset)):
        for node in _find_prompts(call):
            yield from _read_texts(node)


def list_texts(source: str) -> Iterator[str]:
    """Yield all texts of a cell's code: what it asks is among them, unless it is put together."""
    if source.startswith(_MAGIC):
        yield _read_magic(source)
        return
    for node in ast.walk(_parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.strip():
            yield node.value


def _parse(source: str) -> ast.AST:
    for code in (source, _OF_IPYTHON.sub("", source)):  # a line of a text may look like a magic
        with contextlib.suppress(SyntaxError, ValueError, RecursionError):
            return ast.parse(code)
    return ast.Module([], [])


def _read_magic(source: str) -> str:
    return source.partition("\n")[2].strip()


def _is_template(source: str) -> bool:
    return not {"-f", "--format"}.isdisjoint(source.partition("\n")[0].split())


def _find_prompts(call: ast.Call) -> Iterator[ast.expr]:
    """Yield the arguments of a call that are prompts as they stand."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name not in _ASKING:
        return
    places, template = _ASKING[name]
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "template" in named or (template is not None and len(call.args) > template):
        return  # its rows are no prompts
    for word, place in places.items():
        if word in named:
            yield named[word]
        elif place is not None and len(call.args) > place:
            yield call.args[place]


def _read_texts(node: ast.expr) -> Iterator[str]:
    """Yield the texts of a prompt, of rows, messages or parts, where they are literal."""
    match node:
        case ast.Constant(value=str(text)) if text.strip():
            yield text
        case ast.List(elts=inner) | ast.Tuple(elts=inner):
            for one in inner:
                yield from _read_texts(one)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and key.value in _HOLDS_TEXT:
                    yield from _read_texts(value)
