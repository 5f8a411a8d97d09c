"""What is asked of a model service, and what to leave out when it refuses a parameter."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai import APIStatusError

    from longtask_kit.submit.spec import TaskSpec

_ADAPTABLE = ("max_tokens", "temperature", "stream_options")
# A value that is refused is for whoever chose it; only an unknown parameter is left out.
_ABOUT_A_VALUE = re.compile(
    r"too (?:large|long|big|high|small|low)|at (?:most|least)|between|exceed|range|maximum|minimum"
    r"|(?:less|greater|smaller|larger|more) than|must be|should be|[<>]=",
    re.IGNORECASE,
)
_ABOUT_THE_NAME = re.compile(
    r"unsupported|(?:not|n't) (?:be )?support|unrecogni[sz]ed|unknown|unexpected|deprecated|extra"
    r"|not (?:permitted|allowed)|不支持",
    re.IGNORECASE,
)


def build_request(spec: TaskSpec, default_model: str) -> dict[str, Any]:
    """Return the body of a request for chat completions; what the spec leaves open is not in it."""
    params = dict(spec.params)
    options = {"include_usage": True} | (params.get("stream_options") or {})
    # A service refuses both, and `max_tokens` has a default.
    max_tokens = None if "max_completion_tokens" in params else spec.max_tokens
    limits = {"max_tokens": max_tokens, "temperature": spec.temperature}
    return {
        **_without_none(limits),
        **params,
        "model": spec.model or default_model,
        "messages": spec.to_messages(),
        "stream": True,
        "stream_options": options,
    }


def build_responses_request(spec: TaskSpec, default_model: str) -> dict[str, Any]:
    """Return the body of a request for the Responses API.

    What of the parameters has another place there is moved to it; its own are handed on.
    """
    params = dict(spec.params)
    limit = params.pop("max_completion_tokens", spec.max_tokens)
    text = _without_none(
        {
            "format": _flatten(params.pop("response_format", None), "json_schema"),
            "verbosity": params.pop("verbosity", None),
        }
    )
    reasoning = _without_none({"effort": params.pop("reasoning_effort", None)})
    if tools := params.get("tools"):
        params["tools"] = [_flatten(tool, "function") for tool in tools]
    if "tool_choice" in params:
        params["tool_choice"] = _flatten(params["tool_choice"], "function")
    instructions, asked = _take_instructions(spec.to_messages())
    own = {
        "instructions": instructions,
        "max_output_tokens": limit,
        "temperature": spec.temperature,
        "text": text | params.pop("text", {}) or None,
        "reasoning": reasoning | params.pop("reasoning", {}) or None,
    }
    return {
        **_without_none(own),
        **params,
        "model": spec.model or default_model,
        "input": [item for message in asked for item in _to_items(message)],
        "stream": True,
    }


def _take_instructions(
    messages: list[dict[str, Any]],
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return what a system message at the beginning says, and the others."""
    first = messages[0]
    if first["role"] in ("system", "developer") and isinstance(first.get("content"), str):
        return first["content"], messages[1:]
    return None, messages


def _to_items(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the input items of a message in the shape of chat completions."""
    role, content = message["role"], message.get("content")
    if role == "tool":
        output = (
            content if isinstance(content, str) else [_to_input(p, role) for p in content or ()]
        )
        yield {
            "type": "function_call_output",
            "call_id": message["tool_call_id"],
            "output": output,
        }
        return
    parts = content if isinstance(content, str) else [_to_input(p, role) for p in content or ()]
    if refusal := message.get("refusal"):
        parts = [{"type": "refusal", "refusal": refusal}]
    if parts:
        yield {"role": role, "content": parts}
    for call in message.get("tool_calls") or ():
        said = call.get("function") or {}
        yield {
            "type": "function_call",
            "call_id": call.get("id"),
            "name": said.get("name"),
            "arguments": said.get("arguments"),
        }


def _to_input(part: dict[str, Any], role: str) -> Any:  # noqa: ANN401
    """Return a content part under the name it has in the Responses API; a newer one as it is."""
    match part.get("type"):
        case "text":
            return part | {"type": "output_text" if role == "assistant" else "input_text"}
        case "image_url":
            image = part["image_url"]
            return {"type": "input_image", "detail": "auto"} | _rename(image, "url", "image_url")
        case "file":
            return {"type": "input_file"} | part["file"]
    return part


def _rename(values: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in values.items()}


def _flatten(value: Any, name: str) -> Any:  # noqa: ANN401
    """Return an object without the level that only chat completions have."""
    if not isinstance(value, dict) or not isinstance(value.get(name), dict):
        return value
    return {key: inner for key, inner in value.items() if key != name} | value[name]


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def adapt_request(request: dict[str, Any], refusal: APIStatusError) -> bool:
    """Leave out or rename the parameter that a model refused; whether there is something to retry.

    OpenAI's reasoning models take `max_completion_tokens` and no temperature; some compatible
    servers know no `stream_options`.
    """
    refused = find_refused(refusal.param, refusal.body)
    if refused is None or refused not in request:
        return False
    value = request.pop(refused)
    if refused == "max_tokens":
        request.setdefault("max_completion_tokens", value)
    return True


def find_refused(param: str | None, body: object) -> str | None:
    """Return which parameter that we can do without is refused, if it is one.

    Args:
        param: The error's `param`, where the service names it there.
        body: The error; others name it by a `loc`, or in their text alone.
    """
    text = body if isinstance(body, str) else json.dumps(body, default=str)
    if _ABOUT_A_VALUE.search(text) and not _ABOUT_THE_NAME.search(text):
        return None
    places = " ".join(_find_places(body))
    where = param or places or text
    return next((name for name in _ADAPTABLE if re.search(rf"(?<!\w){name}(?!\w)", where)), None)


def _find_places(body: object) -> Iterator[str]:
    """Yield the names in every `loc` of a validation error, which may quote the whole request."""
    children = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
    if isinstance(body, dict) and isinstance(body.get("loc"), list):
        yield from map(str, body["loc"])
        return
    for child in children:
        yield from _find_places(child)
