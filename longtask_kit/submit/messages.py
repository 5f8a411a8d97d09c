"""Messages and parameters as a person gives them: shape and place of what is wrong, nothing more.

The shape is that of OpenAI's chat completions, https://platform.openai.com/docs/api-reference/chat.
What a part holds beyond its shape is the model service's to judge, and is handed on as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from longtask_kit.errors import SubmitError

ROLES = ("system", "developer", "user", "assistant", "tool")
_SYSTEM_ROLES = ("system", "developer")
_MAX_DEPTH = 64
# Of a part's type, the field that holds what it is about.
_PARTS = {
    "text": ("text", str),
    "refusal": ("refusal", str),
    "image_url": ("image_url", Mapping),
    "input_audio": ("input_audio", Mapping),
    "file": ("file", Mapping),
}
# Of a parameter that is the kit's own, the argument to give.
_OURS = {
    "messages": "messages",
    "input": "messages",
    "model": "model",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "prompt": "prompt",
}


def check_messages(messages: object) -> None:
    """Check role and shape of each message.

    Raises:
        SubmitError: The message names the place, e.g. `messages[2].content[0].image_url`.
    """
    if not isinstance(messages, list | tuple):
        raise _wrong("messages", f"must be a list, got {type(messages).__name__}")
    if not messages:
        raise _wrong("messages", "is empty: expected at least one message")
    check_json(messages, "messages")
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")


def _check_message(message: object, place: str) -> None:
    if not isinstance(message, Mapping):
        raise _wrong(place, f"must be an object with a role, got {type(message).__name__}")
    role = message.get("role")
    if role not in ROLES:
        raise _wrong(f"{place}.role", f"is {str(role)[:40]!r}: expected one of {', '.join(ROLES)}")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise _wrong(f"{place}.tool_call_id", "is missing: expected the id of the call it answers")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(map(_is_object, calls))):
        raise _wrong(f"{place}.tool_calls", "must be a list of objects")
    content = message.get("content")
    if isinstance(content, list | tuple):
        for i, part in enumerate(content):
            _check_part(part, f"{place}.content[{i}]")
    elif content is None:
        if role != "assistant" or not (calls or message.get("refusal") or "audio" in message):
            raise _wrong(f"{place}.content", "is missing: expected text, or a list of parts")
    elif not isinstance(content, str):
        found = type(content).__name__
        raise _wrong(f"{place}.content", f"must be text or a list of parts, got {found}")


def _check_part(part: object, place: str) -> None:
    if not isinstance(part, Mapping):
        raise _wrong(place, f"must be an object with a type, got {type(part).__name__}")
    type_ = part.get("type")
    if not isinstance(type_, str) or not type_:
        raise _wrong(f"{place}.type", f"must be text like {', '.join(_PARTS)}, got {type_!r:.40}")
    name, kind = _PARTS.get(type_, (None, object))
    if name is None:
        return  # a kind of part that is newer than we are
    if not isinstance(part.get(name), kind):
        expected = "text" if kind is str else "an object"
        raise _wrong(f"{place}.{name}", f"must be {expected}, got {type(part.get(name)).__name__}")
    if type_ == "image_url" and not isinstance(part["image_url"].get("url"), str):
        raise _wrong(f"{place}.image_url.url", "must be text: a URL, or a data: URL")


def check_params(params: object) -> None:
    """Check the further model parameters.

    Raises:
        SubmitError: It is no JSON object, or one of them is the kit's own.
    """
    if not isinstance(params, Mapping):
        raise _wrong(
            "params", f"must be an object of model parameters, got {type(params).__name__}"
        )
    check_json(params, "params")
    if "stream" in params:
        raise _wrong("params.stream", "is set by the kit: the kit always streams")
    for name, meant in _OURS.items():
        if name in params:
            problem = f"is set by the kit: give it as {meant}=…"
            raise _wrong(f"params.{name}", problem, meant=f"{meant}=…")
    if params.get("n", 1) != 1:
        raise _wrong("params.n", "must be 1: a task is one answer; submit several tasks")


def check_json(value: object, place: str, left: int = _MAX_DEPTH) -> None:
    """Check that a value can be sent as JSON.

    Raises:
        SubmitError: It can't; the message names the place.
    """
    if left == 0:
        raise _wrong(f"{place[:40]}…", f"is nested deeper than {_MAX_DEPTH}")
    match value:
        case str():
            _check_unicode(value, place)
        case bool() | int() | None:
            pass
        case float():
            if not math.isfinite(value):
                raise _wrong(place, f"is {value}, which JSON does not have")
        case Mapping():
            for name, item in value.items():
                if not isinstance(name, str):
                    raise _wrong(place, f"has the name {name!r:.40}: JSON wants text")
                _check_unicode(name, place)
                check_json(item, f"{place}.{name}", left - 1)
        case list() | tuple():
            for i, item in enumerate(value):
                check_json(item, f"{place}[{i}]", left - 1)
        case _:
            raise _wrong(place, f"must be JSON, got {type(value).__name__}")


def copy_json(value: Any) -> Any:  # noqa: ANN401
    """Return a copy of JSON that nobody else changes, of dicts where it had mappings."""
    if isinstance(value, Mapping):
        return {name: copy_json(item) for name, item in value.items()}
    return [copy_json(item) for item in value] if isinstance(value, list | tuple) else value


def _check_unicode(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _wrong(place, "holds half a surrogate pair: not valid Unicode") from None


def has_system_message(messages: list[Any]) -> bool:
    """Tell whether a system or developer message is among them."""
    return any(message.get("role") in _SYSTEM_ROLES for message in messages)


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _wrong(place: str, problem: str, *, meant: str | None = None) -> SubmitError:
    return SubmitError(f'"{place}" {problem}.', field=place, meant=meant)
