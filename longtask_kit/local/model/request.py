"""What a chat request may say: the demo model names, the checked body, the errors.

Pure; the shapes are OpenAI's, https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from longtask_kit.local.model.shown import Shown, find_shown

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

MAX_TOKENS_PER_S = 100_000
SLOW_START_S = 3.0
_UNSEEN_PARTS = frozenset({"image_url", "input_audio", "file", "refusal"})
_ANY_OBJECT = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
}
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")

Fault = Literal["rate_limit", "server_error", "bad_key", "cut"]
Speech = Literal["reason", "tools", "json", "refuse", "length"]


class ApiError(Exception):
    """An answer in OpenAI's error shape; the SDK raises its own class by the status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoModel:
    """One name a client can ask for, and how it behaves.

    Attributes:
        name: The model id on the wire.
        about: One sentence for `/v1/models` and for error messages.
        tokens_per_s: Its own speed; None is the service's, infinity is unpaced.
        delay_s: Silence before the first token, in seconds.
        fault: What goes wrong.
        heals: The fault strikes every other call for the same prompt, from the first on.
        is_long: Replies of about 10,000 tokens.
        speaks: What it says beside or instead of a text.
        continues: It goes on behind a last assistant message that is to be continued.
    """

    name: str
    about: str
    tokens_per_s: float | None = None
    delay_s: float = 0.0
    fault: Fault | None = None
    heals: bool = False
    is_long: bool = False
    speaks: Speech | None = None
    continues: bool = False


MODELS = (
    DemoModel(name="demo", about="A reply at a readable speed."),
    DemoModel(name="demo-fast", about="As fast as the client reads.", tokens_per_s=math.inf),
    DemoModel(
        name="demo@200",
        about="200 tokens a second; any whole number from 1 to 100000 works after an @.",
        tokens_per_s=200,
    ),
    DemoModel(
        name="demo-continue",
        about="What demo says; of an answer that was cut it says the rest, and that alone.",
        continues=True,
    ),
    DemoModel(
        name="demo-slow-start",
        about="Three seconds of silence before the first token.",
        delay_s=SLOW_START_S,
    ),
    DemoModel(
        name="demo-long",
        about="About 10,000 tokens, as fast as the client reads.",
        tokens_per_s=math.inf,
        is_long=True,
    ),
    DemoModel(
        name="demo-429-then-ok",
        about="Every other call for a prompt, from the first on, is rate limited.",
        fault="rate_limit",
        heals=True,
    ),
    DemoModel(name="demo-500", about="Always a server error.", fault="server_error"),
    DemoModel(
        name="demo-cut", about="The connection breaks after a third of the reply.", fault="cut"
    ),
    DemoModel(
        name="demo-cut-then-ok",
        about="Every other call for a prompt, from the first on, breaks in mid-reply.",
        fault="cut",
        heals=True,
    ),
    DemoModel(name="demo-bad-key", about="Always says that the key is wrong.", fault="bad_key"),
    DemoModel(name="demo-reason", about="Reasons before it answers.", speaks="reason"),
    DemoModel(
        name="demo-tools",
        about="Calls each tool it is given once, and tells what they answered.",
        speaks="tools",
    ),
    DemoModel(
        name="demo-json",
        about="Answers with a small value that obeys response_format's JSON schema.",
        speaks="json",
    ),
    DemoModel(name="demo-refuse", about="Refuses whatever it is asked.", speaks="refuse"),
    DemoModel(
        name="demo-length",
        about="Never comes to an end: stops at max_tokens.",
        tokens_per_s=math.inf,
        speaks="length",
    ),
)
_BY_NAME = {model.name: model for model in MODELS}


def find_model(name: str, others: Sequence[str] = ()) -> DemoModel:
    """Return the demo model of this name.

    Args:
        name: The model id.
        others: The installed models, which the error names too.

    Raises:
        ApiError: 404 `model_not_found`, naming the models there are.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    base, _, speed = name.partition("@")
    rate = int(speed) if re.fullmatch(r"[1-9][0-9]{0,5}", speed) else 0
    if base in _BY_NAME and 0 < rate <= MAX_TOKENS_PER_S:
        about = f"{_BY_NAME[base].about} {rate} tokens a second."
        return replace(_BY_NAME[base], name=name, about=about, tokens_per_s=rate)
    known = ", ".join([*_BY_NAME, *others])
    message = f"The model `{name[:100]}` does not exist here. Use one of: {known}."
    if not others:
        message += " `longtask model install` adds a small real one."
    raise ApiError(404, message, param="model", code="model_not_found")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A checked request body: what of it the demo model obeys.

    Attributes:
        model: Who answers.
        messages: Role and text of each.
        stream: Whether it answers in chunks.
        include_usage: Whether they end with the counts.
        max_tokens: Longest answer, or None.
        seed: Another one gives another text.
        tools: Those it may call, `()` when it is free to think one up, None when it must not.
        schema: What its answer must obey, or None.
        shown: What its last user message holds beside text.
        begun: The beginning of the answer, which it goes on behind, or "".
    """

    model: DemoModel
    messages: tuple[tuple[str, str], ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    seed: int | None
    tools: tuple[dict[str, Any], ...] | None
    schema: object
    shown: tuple[Shown, ...]
    begun: str = ""

    @property
    def tool_results(self) -> list[str]:
        """What the tools have answered since the model called them."""
        results = itertools.takewhile(lambda said: said[0] == "tool", reversed(self.messages))
        return [text for _, text in results][::-1]

    @property
    def prompt(self) -> str:
        """What the user said last."""
        said = [text for role, text in self.messages if role == "user"]
        return said[-1] if said else self.messages[-1][1]


def read_model_name(body: dict[str, Any]) -> str:
    """Return the model asked for.

    Raises:
        ApiError: 400, there is none.
    """
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise wrong_field("model", "you must provide a model name")
    return name


def read_chat_request(body: dict[str, Any], others: Sequence[str] = ()) -> ChatRequest:
    """Check a body as the hosted API does; fields the demo has no use for are ignored.

    Args:
        body: The parsed body.
        others: As in `find_model`.

    Raises:
        ApiError: 400 naming the field, or 404 for an unknown model.
    """
    name = read_model_name(body)
    options = check_type(body, "stream_options", dict, "an object") or {}
    check_number(body, "temperature", 0, 2)
    if body.get("n") not in (None, 1):
        raise wrong_field("n", "the demo model gives one choice")
    model = find_model(name, others)
    messages = read_messages(body.get("messages"), also=_UNSEEN_PARTS)
    return ChatRequest(
        model=model,
        messages=messages,
        begun=messages[-1][1] if model.continues and is_begun(body, messages) else "",
        stream=bool(check_type(body, "stream", bool, "true or false")),
        include_usage=bool(check_type(options, "include_usage", bool, "true or false")),
        max_tokens=read_max_tokens(body),
        seed=check_type(body, "seed", int, "an integer"),
        tools=_read_tools(body),
        schema=_read_schema(body),
        shown=find_shown(body["messages"]),
    )


def is_begun(body: dict[str, Any], messages: Sequence[tuple[str, str]]) -> bool:
    """Tell whether the last message is an answer's beginning, to be gone on behind.

    The two fields are vLLM's, and llama.cpp's: docs.vllm.ai, OpenAI-compatible server.
    """
    if not check_type(body, "continue_final_message", bool, "true or false"):
        return False
    if check_type(body, "add_generation_prompt", bool, "true or false") is not False:
        raise wrong_field("add_generation_prompt", "expected false, with continue_final_message")
    if messages[-1][0] != "assistant":
        raise wrong_field("messages", "expected an assistant message at the end, to continue it")
    return True


def _read_tools(body: dict[str, Any]) -> tuple[dict[str, Any], ...] | None:
    given = check_type(body, "tools", list, "a list") or []
    tools = [tool for i, tool in enumerate(given) if _is_function(tool, f"tools[{i}]")]
    match body.get("tool_choice"):
        case "none":
            return None
        case {"function": {"name": name}}:
            chosen = [tool for tool in tools if tool["function"]["name"] == name]
            if not chosen:
                raise wrong_field("tool_choice", "expected the name of one of the tools")
            return tuple(chosen)
    return tuple(tools)


def _is_function(tool: object, where: str) -> bool:
    """Tell a function from the other kinds of tools; one without a name is refused."""
    if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
        raise wrong_field(where, "expected an object with a type")
    function = tool.get("function")
    if tool["type"] != "function":
        return False
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise wrong_field(f"{where}.function.name", "expected a name")
    return True


def _read_schema(body: dict[str, Any]) -> object:
    given = check_type(body, "response_format", dict, "an object") or {}
    match given.get("type", "text"):
        case "text":
            return None
        case "json_object":
            return _ANY_OBJECT
        case "json_schema":
            told = given.get("json_schema")
            if isinstance(told, dict) and isinstance(told.get("schema", {}), dict):
                return told.get("schema", _ANY_OBJECT)
            raise wrong_field("response_format.json_schema", "expected an object with a schema")
    raise wrong_field("response_format.type", "expected text, json_object or json_schema")


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return a request's JSON object.

    Raises:
        ApiError: 400, it is none.
    """
    try:
        body = json.loads(raw)
        # A lone surrogate passes JSON's escapes but can't be sent back as UTF-8.
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, "The body of your request is not valid JSON.") from exc
    if not isinstance(body, dict):
        raise ApiError(400, "The body of your request must be a JSON object.")
    return body


def wrong_field(param: str, expected: str, code: str | None = "invalid_value") -> ApiError:
    """Return the error that names a field and says what was expected of it."""
    return ApiError(400, f"Invalid '{param}': {expected}.", param=param, code=code)


def check_type(body: dict[str, Any], name: str, kind: type, expected: str) -> Any:  # noqa: ANN401
    """Return the field, or None; bool is no number here although Python says so."""
    value = body.get(name)
    if value is None or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
        return value
    raise wrong_field(name, f"expected {expected}", "invalid_type")


def check_number(body: dict[str, Any], name: str, low: float, high: float) -> None:
    """Refuse a field that is there and no number in the range."""
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_field(name, "expected a number", "invalid_type")
    if not low <= value <= high:
        raise wrong_field(name, f"expected a number from {low} to {high}")


def read_max_tokens(body: dict[str, Any]) -> int | None:
    """Return the limit: the newer name wins, the older one works, as on the hosted API."""
    limits = [
        check_type(body, name, int, "an integer")
        for name in ("max_completion_tokens", "max_tokens")
    ]
    for limit in limits:
        if limit is not None and limit < 1:
            raise wrong_field("max_tokens", "expected an integer >= 1")
    return next((limit for limit in limits if limit is not None), None)


def read_messages(messages: object, *, also: Container[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return the messages as role and text.

    Args:
        messages: As they came.
        also: Types of parts, beside text, that may be there; nothing is read of them.
    """
    if not isinstance(messages, list) or not messages:
        raise wrong_field("messages", "expected a list of at least one message")
    return tuple(
        _read_message(message, f"messages[{i}]", also) for i, message in enumerate(messages)
    )


def _read_message(message: object, where: str, also: Container[str]) -> tuple[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(role, str) or role not in _ROLES:
        raise wrong_field(f"{where}.role", f"expected one of {', '.join(_ROLES)}")
    content = message.get("content")
    if content is None and role == "assistant":
        return role, ""
    if isinstance(content, str):
        return role, content
    if isinstance(content, list):
        texts = [part for part in content if not _is_part_of(part, also)]
        if all(_is_text_part(part) for part in texts):
            return role, "".join(part["text"] for part in texts)
    raise wrong_field(
        f"{where}.content", "expected a string, or a list of text parts", "invalid_type"
    )


def _is_part_of(part: object, types: Container[str]) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] in types


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
