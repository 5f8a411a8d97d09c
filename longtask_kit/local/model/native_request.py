"""What a request to a real model may say; the native server would take nearly anything silently.

Pure; of a body only what is known goes on, so that no native option can be reached. The shapes are
OpenAI's, https://platform.openai.com/docs/api-reference/chat/create and …/responses/create.
"""

from __future__ import annotations

from typing import Any

from longtask_kit.local.model.request import (
    check_number,
    check_type,
    is_begun,
    read_max_tokens,
    read_messages,
    wrong_field,
)

_SAMPLING = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
_REFUSED = (
    *("tools", "functions", "tool_choice", "function_call", "logprobs", "top_logprobs"),
    *("logit_bias", "audio", "previous_response_id", "conversation", "background", "prompt"),
)
_NOT_HERE = "this model, which runs on this computer, can't do that; leave it out"


def read_native_chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return what of a chat completion's body goes to the native server.

    Raises:
        ApiError: 400 naming the field.
    """
    _refuse_unsupported(body)
    _refuse_formats(body.get("response_format"), "response_format")
    options = check_type(body, "stream_options", dict, "an object") or {}
    messages = read_messages(body.get("messages"))
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    sent = _read_shared(body) | (goes_on if is_begun(body, messages) else {})
    sent |= {
        # Developer is the newer word for system, which is all that older templates know.
        "messages": [
            {"role": "system" if role == "developer" else role, "content": text}
            for role, text in messages
        ],
        "max_tokens": read_max_tokens(body),
        "seed": check_type(body, "seed", int, "an integer"),
        "stop": _read_stop(body.get("stop")),
    }
    if check_type(options, "include_usage", bool, "true or false"):
        sent["stream_options"] = {"include_usage": True}
    return _without_none(sent)


def read_begun_tokens(body: dict[str, Any]) -> list[int] | None:
    """Return the tokens that the last message is, where an answer is to go on behind them.

    Raises:
        ApiError: 400, they are no tokens.
    """
    messages = read_messages(body.get("messages"))
    ids = body["messages"][-1].get("token_ids")
    if ids is None or not (body.get("stream") and is_begun(body, messages)):
        return None
    if isinstance(ids, list) and all(type(token) is int and token >= 0 for token in ids):
        return ids
    raise wrong_field("token_ids", "expected a list of whole numbers", "invalid_type")


def make_raw_request(sent: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
    """Return the raw completion that goes on where a chat completion would.

    Args:
        sent: The chat completion's request, as it goes to the native server.
        prompt: The tokens of its prompt, and of what stands of the answer.
    """
    names = ("messages", "max_tokens", "stream_options", "continue_final_message")
    own = {n: v for n, v in sent.items() if n not in (*names, "add_generation_prompt")}
    limit = {"n_predict": sent["max_tokens"]} if "max_tokens" in sent else {}
    return own | limit | {"prompt": prompt, "return_tokens": True}


def read_native_response(body: dict[str, Any]) -> dict[str, Any]:
    """Return what of a body for `/v1/responses` goes to the native server.

    Raises:
        ApiError: 400 naming the field.
    """
    _refuse_unsupported(body)
    text = check_type(body, "text", dict, "an object") or {}
    _refuse_formats(text.get("format"), "text.format")
    limit = check_type(body, "max_output_tokens", int, "an integer")
    if limit is not None and limit < 1:
        raise wrong_field("max_output_tokens", "expected an integer >= 1")
    return _without_none(
        _read_shared(body)
        | {
            "input": read_input(body.get("input")),
            "instructions": check_type(body, "instructions", str, "a string"),
            "max_output_tokens": limit,
        }
    )


def _read_shared(body: dict[str, Any]) -> dict[str, Any]:
    for name, (low, high) in _SAMPLING.items():
        check_number(body, name, low, high)
    if body.get("n") not in (None, 1):
        raise wrong_field("n", "this model gives one choice")
    stream = bool(check_type(body, "stream", bool, "true or false"))
    return {"model": body["model"], "stream": stream} | {n: body.get(n) for n in _SAMPLING}


def _refuse_unsupported(body: dict[str, Any]) -> None:
    for name in _REFUSED:
        if body.get(name) not in (None, False, [], {}, "none"):
            raise wrong_field(name, _NOT_HERE, "unsupported_parameter")


def _refuse_formats(given: object, name: str) -> None:
    if given is not None and given != {"type": "text"}:
        raise wrong_field(name, _NOT_HERE, "unsupported_parameter")


def _read_stop(stop: object) -> list[str] | None:
    if stop is None:
        return None
    stops = [stop] if isinstance(stop, str) else stop
    if isinstance(stops, list) and len(stops) <= 4:
        texts = [text for text in stops if isinstance(text, str) and text]
        if len(texts) == len(stops):
            return texts
    raise wrong_field("stop", "expected a string, or up to four", "invalid_type")


def read_input(given: object) -> str | list[dict[str, Any]]:
    """Return the input of a response: a text, or messages with the names of chat completions."""
    if isinstance(given, str) and given:
        return given
    if not isinstance(given, list) or not given:
        raise wrong_field("input", "expected a text, or a list of at least one message")
    return [_read_item(item, f"input[{i}]") for i, item in enumerate(given)]


def _read_item(item: object, where: str) -> dict[str, Any]:
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        raise wrong_field(where, "expected a message")
    content = item.get("content")
    if isinstance(content, list):  # parts are called input_text and output_text here
        content = [
            part | {"type": "text"}
            if isinstance(part, dict) and part.get("type") in ("input_text", "output_text")
            else part
            for part in content
        ]
    [(role, text)] = read_messages([item | {"content": content}])
    return {"type": "message", "role": role, "content": text}


def _without_none(sent: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sent.items() if value is not None}
