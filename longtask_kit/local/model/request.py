"""What a chat request may say: the demo model names, the checked body, the errors.

Pure; the shapes are OpenAI's, https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TOKENS_PER_S = 100_000
SLOW_START_S = 3.0
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")

Fault = Literal["rate_limit", "server_error", "bad_key", "cut"]


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
    """

    name: str
    about: str
    tokens_per_s: float | None = None
    delay_s: float = 0.0
    fault: Fault | None = None
    heals: bool = False
    is_long: bool = False


MODELS = (
    DemoModel(name="demo", about="A reply at a readable speed."),
    DemoModel(name="demo-fast", about="As fast as the client reads.", tokens_per_s=math.inf),
    DemoModel(
        name="demo@200",
        about="200 tokens a second; any whole number from 1 to 100000 works after the @.",
        tokens_per_s=200,
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
    if re.fullmatch(r"demo@[1-9][0-9]{0,5}", name) and int(name[5:]) <= MAX_TOKENS_PER_S:
        rate = int(name[5:])
        return DemoModel(name=name, about=f"{rate} tokens a second.", tokens_per_s=rate)
    known = ", ".join([*_BY_NAME, *others])
    message = f"The model `{name[:100]}` does not exist here. Use one of: {known}."
    if not others:
        message += " `longtask model install` adds a small real one."
    raise ApiError(404, message, param="model", code="model_not_found")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A checked request body: what of it the demo model obeys."""

    model: DemoModel
    messages: tuple[tuple[str, str], ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    seed: int | None

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
    return ChatRequest(
        model=find_model(name, others),
        messages=read_messages(body.get("messages")),
        stream=bool(check_type(body, "stream", bool, "true or false")),
        include_usage=bool(check_type(options, "include_usage", bool, "true or false")),
        max_tokens=read_max_tokens(body),
        seed=check_type(body, "seed", int, "an integer"),
    )


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


def read_messages(messages: object) -> tuple[tuple[str, str], ...]:
    """Return the messages as role and text."""
    if not isinstance(messages, list) or not messages:
        raise wrong_field("messages", "expected a list of at least one message")
    return tuple(_read_message(message, f"messages[{i}]") for i, message in enumerate(messages))


def _read_message(message: object, where: str) -> tuple[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(role, str) or role not in _ROLES:
        raise wrong_field(f"{where}.role", f"expected one of {', '.join(_ROLES)}")
    content = message.get("content")
    if content is None and role == "assistant":
        return role, ""
    if isinstance(content, str):
        return role, content
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        return role, "".join(part["text"] for part in content)
    raise wrong_field(
        f"{where}.content", "expected a string, or a list of text parts", "invalid_type"
    )


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
