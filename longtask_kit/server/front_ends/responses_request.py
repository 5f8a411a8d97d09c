"""OpenAI's Responses API, the question's side: a request's body to what a task asks, and back.

https://platform.openai.com/docs/api-reference/responses/create has the names. What only OpenAI's
own service can do (tools that it runs, its files) is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longtask_kit.errors import SubmitError
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_OWN = frozenset(
    ("model", "input", "instructions", "stream", "background", "store", "max_output_tokens")
) | {"temperature", "metadata", "previous_response_id", "text", "reasoning", "stream_options"}
_OWN |= {"tools", "tool_choice"}
_NOT_SERVED = {
    "conversation": "send the messages, or previous_response_id",
    "prompt": "send the text itself",
    "include": "nothing more than the answer is kept",
    "top_logprobs": "nothing more than the answer is kept",
    "max_tool_calls": "no tool is run here",
    "context_management": "shorten the input yourself",
}
_IMAGE = "an input_image by its image_url"
_TEXTS = ("input_text", "output_text", "text")


def make_task(body: Mapping[str, Any], *, before: Sequence[Mapping[str, Any]] = ()) -> TaskSpec:
    """Return what a request asks.

    Args:
        body: The request, as JSON.
        before: The conversation that `previous_response_id` names.

    Raises:
        SubmitError: It holds what isn't served here, or what can't be meant.
    """
    _refuse_unserved(body)
    instructions = body.get("instructions")
    system = [] if instructions is None else [{"role": "system", "content": instructions}]
    facts = {
        "instructions": instructions is not None,
        "metadata": body.get("metadata") or {},
        "previous": body.get("previous_response_id"),
    }
    try:
        return TaskSpec(
            messages=[*system, *before, *read_input(body.get("input"))],
            model=body.get("model"),
            max_tokens=body.get("max_output_tokens"),
            temperature=body.get("temperature"),
            params=_read_params(body),
            metadata={"responses": facts},
        )
    except SubmitError as exc:
        names = {"messages": "input", "max_tokens": "max_output_tokens"}
        raise _rename(exc, names) from exc


def _rename(exc: SubmitError, names: Mapping[str, str]) -> SubmitError:
    for ours, theirs in names.items():
        if exc.field is not None and exc.field.startswith(ours):
            return _wrong(exc.field.replace(ours, theirs, 1), str(exc).partition('" ')[2])
    return exc


def _refuse_unserved(body: Mapping[str, Any]) -> None:
    for name, cure in _NOT_SERVED.items():
        if body.get(name):
            raise _wrong(name, f"is not served here: {cure}.")
    if body.get("store") is False:
        raise _wrong("store", "can't be false: what is asked is kept for LONGTASK_TTL_S.")
    if body.get("truncation") not in (None, "disabled"):
        raise _wrong("truncation", "is not served here: shorten the input yourself.")


def _read_params(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's parameters under the names of chat completions."""
    named = {name: value for name, value in body.items() if name not in _OWN}
    for name in (*_NOT_SERVED, "truncation"):
        named.pop(name, None)
    text, reasoning = body.get("text") or {}, body.get("reasoning") or {}
    choice = body.get("tool_choice")
    more = {
        "response_format": _read_format(text.get("format")),
        "verbosity": text.get("verbosity"),
        "reasoning_effort": reasoning.get("effort"),
        "tools": [_nest_tool(tool) for tool in body.get("tools") or ()] or None,
        "tool_choice": _nest_choice(choice) if isinstance(choice, dict) else choice,
    }
    return {name: value for name, value in (named | more).items() if value is not None}


def _read_format(format_: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if format_ is None or format_.get("type") == "text":
        return None
    if format_.get("type") != "json_schema":
        return dict(format_)
    inner = {name: value for name, value in format_.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": inner}


def _nest_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise _wrong(
            "tools",
            f"of type {str(tool.get('type'))[:40]!r} are not run here: functions are served.",
        )
    return {"type": "function", "function": {n: v for n, v in tool.items() if n != "type"}}


def _nest_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    if choice.get("type") != "function":
        raise _wrong("tool_choice", "names no function: expected one, or auto, none, required.")
    return {"type": "function", "function": {"name": choice.get("name")}}


def read_input(given: object) -> list[dict[str, Any]]:
    """Return a request's input as messages in the shape of chat completions.

    Raises:
        SubmitError: An item is none of text, images and function calls; the message says which.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(given if isinstance(given, list) else ()):
        _take_item(item, f"input[{i}]", messages)
    return messages


def _take_item(item: object, place: str, messages: list[dict[str, Any]]) -> None:
    if not isinstance(item, dict):
        raise _wrong(place, f"must be an object, got {type(item).__name__}.")
    if _is_unfinished(item):
        return
    match item.get("type", "message"):
        case "message":
            content = _read_content(item.get("content"), f"{place}.content")
            messages.append({"role": item.get("role"), "content": content})
        case "function_call":
            said = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": said}
            if messages and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        case "function_call_output":
            content = _read_content(item.get("output"), f"{place}.output")
            messages.append(
                {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
            )
        case "reasoning":
            pass  # what a model thought is not said to it again
        case type_:
            raise _wrong(f"{place}.type", f"{str(type_)[:40]!r} is not served here.")


def _is_unfinished(item: dict[str, Any]) -> bool:
    """Tell whether a model had not finished this: then it never said it."""
    is_models = item.get("type") == "function_call" or item.get("role") == "assistant"
    return is_models and item.get("status") not in (None, "completed")


def _read_content(content: object, place: str) -> object:
    if not isinstance(content, list):
        return content
    parts = [_read_part(part, f"{place}[{i}]") for i, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _read_part(part: object, place: str) -> dict[str, Any]:
    type_ = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and type_ in _TEXTS and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if isinstance(part, dict) and type_ == "refusal":
        return {"type": "refusal", "refusal": part.get("refusal")}
    if isinstance(part, dict) and type_ == "input_image" and isinstance(part.get("image_url"), str):
        detail = {} if part.get("detail") is None else {"detail": part["detail"]}
        return {"type": "image_url", "image_url": {"url": part["image_url"]} | detail}
    raise _wrong(place, f"is not served here: expected text, or {_IMAGE}.")


def describe_asked(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a response repeats of what was asked.

    Args:
        wire: A task's input, of this front end or of another.
    """
    params, facts = wire.get("params") or {}, _find_facts(wire)
    kept = ("parallel_tool_calls", "top_p", "user", "service_tier", "safety_identifier")
    text = {"format": _flatten(params.get("response_format") or {"type": "text"}, "json_schema")}
    if "verbosity" in params:
        text["verbosity"] = params["verbosity"]
    own = {
        "instructions": _find_instructions(wire),
        "metadata": facts.get("metadata") or {},
        "previous_response_id": facts.get("previous"),
        "max_output_tokens": wire.get("maxTokens"),
        "temperature": wire.get("temperature"),
        "text": text,
        "tools": [_flatten(tool, "function") for tool in params.get("tools") or ()],
        "tool_choice": _flatten(params.get("tool_choice", "auto"), "function"),
        "reasoning": {"effort": params.get("reasoning_effort"), "summary": None},
    }
    return own | {name: params[name] for name in kept if name in params}


def _find_facts(wire: Mapping[str, Any]) -> Mapping[str, Any]:
    facts = (wire.get("metadata") or {}).get("responses")
    return facts if isinstance(facts, dict) else {}


def _find_instructions(wire: Mapping[str, Any]) -> str | None:
    if _find_facts(wire).get("instructions"):
        return str(wire["messages"][0]["content"])
    system = wire.get("system")
    return None if system is None else str(system)


def find_asked(wire: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a task's conversation but for its instructions, which are of one response alone."""
    if "messages" not in wire:
        return [{"role": "user", "content": wire.get("prompt", "")}]
    return list(wire["messages"][1 if _find_facts(wire).get("instructions") else 0 :])


def list_items(wire: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the input items of a task, in order, each with an id.

    Args:
        wire: The task's input.
        name: What the ids have in common.
    """
    items = [item for message in find_asked(wire) for item in _to_items(message)]
    return [{"id": f"{item['type'][:3]}_{name}_in{n}", **item} for n, item in enumerate(items)]


def _to_items(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    role, content = message["role"], message.get("content")
    if role == "tool":
        found = content
        if isinstance(content, list):
            found = [_show_part(part, role) for part in content]
        call_id = message["tool_call_id"]
        yield {"type": "function_call_output", "call_id": call_id, "output": found}
        return
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [*(content or ())]
    if refusal := message.get("refusal"):
        parts.append({"type": "refusal", "refusal": refusal})
    if parts:
        shown = [_show_part(part, role) for part in parts]
        yield {"type": "message", "role": role, "status": "completed", "content": shown}
    for call in message.get("tool_calls") or ():
        said = call.get("function") or {}
        yield {"type": "function_call", "call_id": call.get("id"), "status": "completed"} | said


def _show_part(part: Mapping[str, Any], role: str) -> dict[str, Any]:
    match part.get("type"):
        case "text" if role == "assistant":
            return {"type": "output_text", "text": part["text"], "annotations": []}
        case "text":
            return {"type": "input_text", "text": part["text"]}
        case "image_url":
            image = part["image_url"]
            detail = image.get("detail") or "auto"
            return {"type": "input_image", "image_url": image["url"], "detail": detail}
    return dict(part)


def _flatten(value: Any, name: str) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(value, dict) or not isinstance(value.get(name), dict):
        return value
    return {key: inner for key, inner in value.items() if key != name} | value[name]


def _wrong(place: str, problem: str) -> SubmitError:
    return SubmitError(f'"{place}" {problem}', field=place)
