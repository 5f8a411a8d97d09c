"""What to run: `TaskSpec` and its limits."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import MISSING, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from longtask_kit.errors import SubmitError
from longtask_kit.log.record import find_prompt
from longtask_kit.submit.messages import (
    check_json,
    check_messages,
    check_params,
    copy_json,
    has_system_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Api = Literal["chat", "responses"]

MAX_TOKENS_RANGE = (1, 1_000_000)
TEMPERATURE_RANGE = (0.0, 2.0)
RETRIES_RANGE = (0, 100)
TIMEOUT_RANGE_S = (1.0, 30 * 86_400.0)
_MAX_METADATA_BYTES = 16_384
MAX_INPUT_BYTES = 20_000_000
"""Of a task's input as JSON: an image in it takes four thirds of its bytes."""
MAX_OPEN_BODY_BYTES = 1_000_000
"""Of a request to the HTTP API by whoever comes along without its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What to run: one of `prompt` and `messages`, and how.

    Attributes:
        prompt: The user message; beside `messages` the text of their last user message.
        messages: A conversation in the shape of OpenAI's chat completions, or None.
        system: System message, or None; it goes before `messages`, which then hold none.
        model: Model name as the service knows it; None is the server's `LONGTASK_MODEL`.
        max_tokens: Longest answer, 1 to 1,000,000 tokens; None leaves it to the model service.
        temperature: 0 to 2; None leaves it to the model service.
        params: Any further model parameters (`stop`, `seed`, `tools`, …), handed on untouched.
        api: Which API of the model service is called: `chat` or `responses`; None is the server's.
        handler: Name of the server-side handler that runs it.
        metadata: Any JSON object; kept with the task and handed to the handler.
        retries: Deliveries after the first that fail, 0 to 100; None is `LONGTASK_RETRIES`.
        timeout_s: Seconds from submit until it ends as failed, 1 to 30 days; None is no limit.
        endpoint: Id of the kernel's own model service, which `connect()` gave to the local stack;
            None is the server's. The kit sets it.

    All in all at most 20 MB of JSON.

    Raises:
        SubmitError: A value is of the wrong type or out of range; the message says which.
    """

    prompt: str = ""
    messages: Sequence[Mapping[str, Any]] | None = None
    system: str | None = None
    model: str | None = None
    max_tokens: int | None = 1000
    temperature: float | None = 0.7
    params: Mapping[str, Any] = field(default_factory=dict)
    api: Api | None = None
    handler: str = "openai"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    retries: int | None = None
    timeout_s: float | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if self.messages is None:
            _check_text("prompt", self.prompt)
        else:
            self._take_messages()
        _check_text("system", self.system, optional=True)
        _check_text("model", self.model, most=200, optional=True)
        _check_number("max_tokens", self.max_tokens, *MAX_TOKENS_RANGE, whole=True)
        _check_number("temperature", self.temperature, *TEMPERATURE_RANGE)
        check_params(self.params)
        if self.api not in (None, "chat", "responses"):
            raise _wrong("api", f"is {self.api!r:.40}: expected chat or responses")
        _check_text("handler", self.handler, most=100)
        _check_metadata(self.metadata)
        # Whoever gave them may go on to change them: what was asked stays.
        object.__setattr__(self, "params", copy_json(self.params))
        object.__setattr__(self, "metadata", copy_json(self.metadata))
        _check_number("retries", self.retries, *RETRIES_RANGE, whole=True)
        _check_number("timeout_s", self.timeout_s, *TIMEOUT_RANGE_S)
        _check_text("endpoint", self.endpoint, most=100, optional=True)
        _check_size(self.to_wire())

    def _take_messages(self) -> None:
        check_messages(self.messages)
        messages = copy_json(self.messages)
        text = find_prompt({"messages": messages})
        if self.prompt not in ("", text):
            raise refuse_both()
        if self.system is not None and has_system_message(messages):
            raise _wrong("system", "is given, and messages hold a system message: expected one")
        object.__setattr__(self, "messages", messages)
        object.__setattr__(self, "prompt", text)

    def aim(self, model: str | None, endpoint: str | None, api: Api | None) -> Self:
        """Return the same for another model at another endpoint, all known to be right."""
        if (model, endpoint, api) == (self.model, self.endpoint, self.api):
            return self
        spec = copy(self)  # `replace` would check 20 MB once more
        object.__setattr__(spec, "model", model)
        object.__setattr__(spec, "endpoint", endpoint)
        object.__setattr__(spec, "api", api)
        return spec

    def to_messages(self) -> list[dict[str, Any]]:
        """Return the conversation to send: the system message, if any, and what was asked."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        asked = self.messages
        if asked is None:
            asked = [{"role": "user", "content": self.prompt}]
        return [*system, *copy_json(asked)]

    def to_wire(self) -> dict[str, Any]:
        """Return the camelCase body of `POST /api/tasks/start`, without what is not set.

        `maxTokens` and `temperature` are null where they are left to the model service.
        """
        wire = {_TO_WIRE.get(n, n): getattr(self, n) for n in self.__dataclass_fields__}
        del wire["prompt" if self.messages is not None else "messages"]
        wire |= {name: copy_json(wire[name]) for name in _JSON if name in wire}
        return {
            name: value
            for name, value in wire.items()
            if name in _NULLABLE or (value is not None and value != {})
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read such a body; keys that are not ours are ignored.

        Raises:
            SubmitError: A value is missing, of the wrong type, or out of range.
        """
        known = {
            _FROM_WIRE.get(name, name): value
            for name, value in wire.items()
            if name in WIRE_NAMES and (value is not None or name in _NULLABLE)
        }
        if "prompt" not in known and "messages" not in known:
            raise SubmitError('"prompt" is missing: expected it, or "messages", for the model.')
        if "prompt" in known and "messages" in known:
            raise refuse_both()
        try:
            return cls(**known)
        except SubmitError as exc:
            raise name_field(exc, lambda name: _TO_WIRE.get(name, name)) from exc

    @property
    def unit(self) -> str:
        """What its answer is counted in: a model's `token`, another handler's `piece`."""
        return "token" if self.handler == "openai" else "piece"

    @classmethod
    def recall(cls, wire: Mapping[str, Any]) -> Self:
        """Read what is on record: it was checked when it was submitted, and may be brief."""
        spec = cls.__new__(cls)
        for name, field_ in cls.__dataclass_fields__.items():
            wired = _TO_WIRE.get(name, name)
            value = wire.get(wired)
            if value is None and not (wired in _NULLABLE and wired in wire):
                factory = field_.default_factory
                value = field_.default if factory is MISSING else factory()
            object.__setattr__(spec, name, value)
        if spec.messages is not None:
            object.__setattr__(spec, "prompt", find_prompt(wire))
        return spec


def name_field(exc: SubmitError, show: Callable[[str], str]) -> SubmitError:
    """Return an error about a field under the name that the person typed: `--max-tokens`."""
    if exc.field is None:
        return exc
    text, shown = str(exc), show(exc.field)
    text = text.replace(f'"{exc.field}"', f'"{shown}"', 1)
    if exc.meant is not None:
        text = text.replace(exc.meant, show(exc.meant.removesuffix("=…")))
    return SubmitError(text, field=shown)


_JSON = ("messages", "params", "metadata")
_NULLABLE = ("maxTokens", "temperature")
_TO_WIRE = {"max_tokens": "maxTokens", "timeout_s": "timeoutS"}
_FROM_WIRE = {wire: name for name, wire in _TO_WIRE.items()}
WIRE_NAMES = frozenset(_TO_WIRE.get(name, name) for name in TaskSpec.__dataclass_fields__)
"""The keys of `POST /api/tasks/start` that say what to run."""


def refuse_both() -> SubmitError:
    """Return what to raise where a person gives a prompt and messages."""
    return _wrong("prompt", "and messages are both given: expected one of them")


def _wrong(name: str, problem: str) -> SubmitError:
    return SubmitError(f'"{name}" {problem}.', field=name)


def _check_text(
    name: str, value: object, *, most: int = MAX_INPUT_BYTES, optional: bool = False
) -> None:
    if value is None and optional:
        return
    if not isinstance(value, str):
        raise _wrong(name, f"must be text, got {type(value).__name__}")
    if not value.strip():
        raise _wrong(name, "is empty: expected text")
    if len(value) > most:
        raise _wrong(name, f"has {len(value):,} characters: at most {most:,}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(name, "holds half a surrogate pair: not valid Unicode") from None


def _check_size(wire: Mapping[str, Any]) -> None:
    size = _count_bytes(wire)
    if size > MAX_INPUT_BYTES:
        place = find_largest(wire)
        where = f', most of them in "{place}"' if place else ""
        raise SubmitError(
            f"The task's input has {size:,} bytes as JSON{where}: at most {MAX_INPUT_BYTES:,}. "
            "Shorten it, or give a large file by its URL.",
            field=place or None,
        )


def find_largest(wire: Mapping[str, Any]) -> str:
    """Return the place of what makes up most of a wire, "" where nothing alone does."""
    place, value, size = "", cast("Any", wire), _count_bytes(wire)
    while parts := _list_parts(value):
        step, part = max(parts, key=lambda named: _count_bytes(named[1]))
        if _count_bytes(part) * 2 < size:
            break
        place, value, size = place + step, part, _count_bytes(part)
    return place.removeprefix(".")


def _list_parts(value: object) -> list[tuple[str, Any]]:
    """Return what a JSON value holds, each with the step that leads there."""
    match value:
        case dict():
            return [(f".{name}", part) for name, part in value.items()]
        case list() | tuple():
            return [(f"[{i}]", part) for i, part in enumerate(value)]
        case _:
            return []


def _count_bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def _check_number(
    name: str, value: object, least: float, most: float, *, whole: bool = False
) -> None:
    if value is None:
        return
    kind = "a whole number" if whole else "a number"
    allowed = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise _wrong(name, f"must be {kind}, got {type(value).__name__}")
    if not least <= value <= most:
        raise _wrong(name, f"is {_show(value)}: expected {kind} from {least:,} to {most:,}")


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict):
        raise _wrong("metadata", f"must be a JSON object, got {type(value).__name__}")
    check_json(value, "metadata")
    size = _count_bytes(copy_json(value))
    if size > _MAX_METADATA_BYTES:
        raise _wrong("metadata", f"has {size:,} bytes: at most {_MAX_METADATA_BYTES:,}")


def _show(value: object) -> str:
    try:
        return f"{value}"
    except ValueError:
        return "too large a number"
