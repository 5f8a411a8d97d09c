"""Tool calls, which come in pieces and in as many ways as there are servers, to complete calls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_KNOWN = frozenset({"index", "id", "type", "function", "custom"})


@dataclass(slots=True)
class _Call:
    index: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""
    is_custom: bool = False
    extras: dict[str, Any] = field(default_factory=dict)  # Gemini wants its signature back


class CallJoiner:
    """Joins the pieces of tool calls.

    OpenAI numbers the calls, and names a call's id and function in its first piece. Others send
    each call whole, all with the index 0, or without index or id, or with a new id or the name
    again in each piece.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: dict[str, Any]) -> None:
        """Take a piece, in the shape of a chunk's `tool_calls` or of a whole message's."""
        said = piece.get("function") or piece.get("custom") or {}
        index = piece.get("index")
        index = index if type(index) is int else None
        id_, name = str(piece.get("id") or ""), said.get("name") or ""
        arguments = _to_text(said.get("arguments", said.get("input")))
        call = self._find(index, id_)
        if call is None or _is_another(call, id_, name, arguments):
            call = _Call(index)
            self._calls.append(call)
        call.id = call.id or id_
        if name != call.name:
            call.name += name
        call.arguments += arguments
        call.is_custom = call.is_custom or bool(piece.get("custom"))
        call.extras |= {n: v for n, v in piece.items() if n not in _KNOWN and v is not None}

    def to_json(self) -> str:
        """Return the complete calls in the shape of chat completions."""
        if all(call.index is not None for call in self._calls):
            self._calls.sort(key=lambda call: call.index or 0)
        taken: set[str] = set()
        calls = [_complete(call, number, taken) for number, call in enumerate(self._calls, 1)]
        return json.dumps(calls, ensure_ascii=False)

    def _find(self, index: int | None, id_: str) -> _Call | None:
        """Return the call that a piece may belong to: the last with its index, or else its id."""
        calls = self._calls
        if index is not None:
            calls = [call for call in calls if call.index == index]
        elif id_:
            calls = [call for call in calls if call.id == id_] or calls
        return calls[-1] if calls else None


def _is_another(call: _Call, id_: str, name: str, arguments: str) -> bool:
    """Tell whether a piece begins a call of its own although its place is taken."""
    if not (name and call.name) or (id_ and id_ == call.id):
        return False
    if call.arguments:
        return name != call.name or _is_json(call.arguments)
    return bool(id_ and call.id) or (name != call.name and (bool(arguments) or call.index is None))


def _complete(call: _Call, number: int, taken: set[str]) -> dict[str, Any]:
    id_ = call.id or f"call_{number}"
    if id_ in taken:
        id_ = f"{id_}_{number}"
    taken.add(id_)
    if call.is_custom:
        body = {"type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    else:
        said = {"name": call.name, "arguments": call.arguments or "{}"}
        body = {"type": "function", "function": said}
    return {"id": id_, **body, **call.extras}


def _to_text(arguments: object) -> str:
    """Return arguments as the text they should be; some send the object."""
    if isinstance(arguments, dict | list):
        return json.dumps(arguments, ensure_ascii=False)
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    raise TypeError


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
