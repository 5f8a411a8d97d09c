"""AG-UI, the question's side: a run's input to what a task asks.

https://docs.ag-ui.com/concepts/messages has its shape. What a page sends as the history is data:
texts, images, and what its tools found. Of our own answers the log knows better what they are.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import SubmitError
from longtask_kit.log.keys import is_task_id
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_ANSWERS = 20
_NOT_ASKED = ("reasoning", "activity")
_ANSWERS = ("assistant", *_NOT_ASKED)
_OPTIONS = {"model": "model", "maxTokens": "max_tokens", "temperature": "temperature"}
_OPTIONS |= {"handler": "handler"}


def drop_answer(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a conversation without what a page holds of the answer that it asks for."""
    count = len(messages)
    while count and messages[count - 1].get("role") in _ANSWERS:
        count -= 1
    return list(messages[:count])


def digest_question(thread_id: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what two runs have in common if they ask the same.

    Of an answer of ours a page may have had a part at first, and all of it by now.
    """
    said = [
        message["id"] if _find_answer(message) else message
        for message in messages
        if message.get("role") not in _NOT_ASKED
    ]
    return hashlib.sha256(json.dumps([thread_id, said], sort_keys=True).encode()).hexdigest()


def find_answers(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tasks whose answers are in a conversation, the latest few."""
    return [found for message in messages if (found := _find_answer(message))][-_MAX_ANSWERS:]


def _find_answer(message: Mapping[str, Any]) -> str | None:
    id_ = message.get("id")
    is_ours = message.get("role") == "assistant" and isinstance(id_, str) and is_task_id(id_)
    return str(id_) if is_ours else None


def make_task(
    body: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    *,
    answers: Mapping[str, Mapping[str, Any] | None] | None = None,
    allow_system: bool = False,
) -> TaskSpec:
    """Return what a request asks.

    Args:
        body: The request, as JSON.
        messages: Its conversation, up to the answer.
        answers: What answers of ours were, by task; None for one that never got whole.
        allow_system: Whether the page may say what only the app says else.

    Raises:
        SubmitError: It holds what isn't served here, or what can't be meant.
    """
    if body.get("resume"):
        raise _wrong("resume", "is not served here: no run of this app is interrupted")
    asked = [*_read_context(body.get("context") or ())]
    for number, message in enumerate(messages):
        if (id_ := _find_answer(message)) and answers and id_ in answers:
            asked += [dict(answer)] if (answer := answers[id_]) else []
        elif read := _read_message(message, f"messages[{number}]", allow_system=allow_system):
            asked.append(read)
    if not messages:
        raise _wrong("messages", "has nothing to answer: expected a user's message as the last")
    props = body.get("forwardedProps")
    given = props if isinstance(props, dict) else {}
    options = {ours: given[name] for name, ours in _OPTIONS.items() if given.get(name) is not None}
    tools = [_read_tool(tool, n) for n, tool in enumerate(body.get("tools") or ())]
    noted = {"asked": digest_question(body["threadId"], messages), "thread": body["threadId"]}
    try:
        return TaskSpec(
            messages=asked,
            params={"tools": tools} if tools else {},
            metadata={"ag_ui": noted | {"run": body["runId"]}},
            **{"max_tokens": None, "temperature": None} | options,
        )
    except SubmitError as exc:
        names = {ours: f"forwardedProps.{theirs}" for theirs, ours in _OPTIONS.items()}
        if (theirs := names.get(exc.field or "")) is None:
            raise
        raise SubmitError(str(exc).replace(exc.field or "", theirs, 1), field=theirs) from exc


def _read_context(context: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a page says of itself, as a user's words."""
    lines = [f"{item.get('description', '')}: {item.get('value', '')}" for item in context]
    return [{"role": "user", "content": "\n".join(lines)}] if lines else []


def _read_tool(tool: Mapping[str, Any], number: int) -> dict[str, Any]:
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise _wrong(f"tools[{number}].name", "must be text: the name of a tool of the page")
    kept = {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name)}
    return {"type": "function", "function": kept}


def _read_message(
    message: Mapping[str, Any], place: str, *, allow_system: bool
) -> dict[str, Any] | None:
    """Return a message in the shape of chat completions; None for one that says nothing."""
    role, content = message.get("role"), message.get("content")
    match role:
        case "user":
            return {"role": role, "content": _read_content(content, f"{place}.content")}
        case "assistant":
            calls = _read_calls(message.get("toolCalls") or [], f"{place}.toolCalls")
            if not calls and not content:
                return None
            said = {"role": role, "content": _read_content(content or "", f"{place}.content")}
            return said | ({"tool_calls": calls} if calls else {})
        case "tool":
            found = _read_content(content, f"{place}.content")
            return {"role": role, "tool_call_id": message.get("toolCallId"), "content": found}
        case "system" | "developer":
            if not allow_system:
                raise _wrong(
                    f"{place}.role",
                    f"is {role!r}, which a page may not say: leave it out, or have the app say "
                    "create_app(allow_system=True)",
                )
            return {"role": role, "content": _read_content(content, f"{place}.content")}
        case "reasoning" | "activity":
            return None  # what a model thought, and what a page shows, is not said to it
    raise _wrong(f"{place}.role", f"is {str(role)[:40]!r}, which is no role of this protocol")


def _read_calls(calls: object, place: str) -> list[dict[str, Any]]:
    read = []
    for call in calls if isinstance(calls, list) else [None]:
        said = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(said, dict):
            raise _wrong(place, "must be a list of calls of functions")
        kept = {"name": said.get("name"), "arguments": said.get("arguments")}
        read.append({"id": call.get("id"), "type": "function", "function": kept})
    return read


def _read_content(content: object, place: str) -> object:
    if not isinstance(content, list):
        return content  # a wrong one is told as such when the task is made
    parts = [_read_part(part, f"{place}[{n}]") for n, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _read_part(part: object, place: str) -> dict[str, Any]:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if isinstance(part, dict) and (url := _find_image(part)):
        return {"type": "image_url", "image_url": {"url": url}}
    raise _wrong(place, "is not served here: expected text, or an image by its data or URL")


def _find_image(part: Mapping[str, Any]) -> str | None:
    """Return an image's URL; before 1.0 it was a part of type `binary`."""
    source = part.get("source")
    if part.get("type") == "image" and isinstance(source, dict):
        kind, value, type_ = source.get("mimeType"), source.get("value"), source.get("type")
    elif part.get("type") == "binary":
        kind, type_ = part.get("mimeType"), "data" if part.get("data") else "url"
        value = part.get(type_)
        if not str(kind).startswith("image/"):
            return None
    else:
        return None
    if not isinstance(value, str) or type_ not in ("data", "url"):
        return None
    return value if type_ == "url" else f"data:{kind};base64,{value}"


def _wrong(place: str, problem: str) -> SubmitError:
    return SubmitError(f'"{place}" {problem}.', field=place)
