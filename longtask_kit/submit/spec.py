"""What to run: `TaskSpec` and its limits."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from longtask_kit.errors import SubmitError

if TYPE_CHECKING:
    from collections.abc import Mapping


MAX_TOKENS_RANGE = (1, 1_000_000)
TEMPERATURE_RANGE = (0.0, 2.0)
_MAX_METADATA_BYTES = 16_384
_MAX_DEPTH = 64
# What one request to Redis takes, 10 MB where it is hosted, less what goes with it.
MAX_INPUT_BYTES = 9_900_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What to run.

    Attributes:
        prompt: The user message; with all else at most 9.9 MB, which one request to Redis takes.
        model: Model name as the service knows it; None is the server's `LONGTASK_MODEL`.
        max_tokens: Longest answer, 1 to 1,000,000 tokens.
        temperature: 0 to 2.
        system: System message, or None.
        handler: Name of the server-side handler that runs it.
        metadata: Any JSON object; kept with the task and handed to the handler.

    Raises:
        SubmitError: A value is of the wrong type or out of range; the message says which.
    """

    prompt: str
    model: str | None = None
    max_tokens: int = 1000
    temperature: float = 0.7
    system: str | None = None
    handler: str = "openai"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        _check_text("model", self.model, most=200, optional=True)
        _check_number("max_tokens", self.max_tokens, *MAX_TOKENS_RANGE, whole=True)
        _check_number("temperature", self.temperature, *TEMPERATURE_RANGE)
        _check_text("system", self.system, optional=True)
        _check_text("handler", self.handler, most=100)
        _check_metadata(self.metadata)
        _check_size(self.to_wire())

    def to_wire(self) -> dict[str, Any]:
        """Return the camelCase body of `POST /api/tasks/start`, without what is not set."""
        wire = {_TO_WIRE.get(n, n): getattr(self, n) for n in self.__dataclass_fields__}
        wire["metadata"] = deepcopy(self.metadata)
        return {name: value for name, value in wire.items() if value is not None and value != {}}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read such a body; keys that are not ours are ignored.

        Raises:
            SubmitError: A value is missing, of the wrong type, or out of range.
        """
        known = {
            _FROM_WIRE.get(name, name): value
            for name, value in wire.items()
            if name in _WIRE_NAMES and value is not None
        }
        if "prompt" not in known:
            raise SubmitError('"prompt" is missing: expected the text to send to the model.')
        return cls(**known)

    @classmethod
    def recall(cls, wire: Mapping[str, Any]) -> Self:
        """Read what is on record: it was checked when it was submitted, and may be brief."""
        spec = cls.__new__(cls)
        for name, field_ in cls.__dataclass_fields__.items():
            value = wire.get(_TO_WIRE.get(name, name))
            default = {"prompt": "", "metadata": {}}.get(name, field_.default)
            object.__setattr__(spec, name, default if value is None else value)
        return spec


_TO_WIRE = {"max_tokens": "maxTokens"}
_FROM_WIRE = {wire: name for name, wire in _TO_WIRE.items()}
_WIRE_NAMES = {_TO_WIRE.get(name, name) for name in TaskSpec.__dataclass_fields__}


def _check_text(
    name: str, value: object, *, most: int = MAX_INPUT_BYTES, optional: bool = False
) -> None:
    if value is None and optional:
        return
    shown = _TO_WIRE.get(name, name)
    if not isinstance(value, str):
        raise SubmitError(f'"{shown}" must be text, got {type(value).__name__}.')
    if not value.strip():
        raise SubmitError(f'"{shown}" is empty: expected text.')
    if len(value) > most:
        raise SubmitError(f'"{shown}" has {len(value):,} characters: at most {most:,}.')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SubmitError(f'"{shown}" holds half a surrogate pair: not valid Unicode.') from None


def _check_size(wire: Mapping[str, Any]) -> None:
    """Raise for more than a request to Redis takes, which holds the JSON as text of a JSON."""
    text = json.dumps(wire, ensure_ascii=False)
    # What quoting it once more adds; without doing so, as every attempt looks at its task again.
    size = len(text.encode()) + text.count('"') + text.count("\\") + len('""')
    if size > MAX_INPUT_BYTES:
        raise SubmitError(
            f"The task takes {size:,} bytes of a request to Redis, which takes at most "
            f"{MAX_INPUT_BYTES:,}: shorten it."
        )


def _check_number(
    name: str, value: object, least: float, most: float, *, whole: bool = False
) -> None:
    shown = _TO_WIRE.get(name, name)
    kind = "a whole number" if whole else "a number"
    allowed = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise SubmitError(f'"{shown}" must be {kind}, got {type(value).__name__}.')
    if not least <= value <= most:
        raise SubmitError(
            f'"{shown}" is {_show(value)}: expected {kind} from {least:,} to {most:,}.'
        )


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict):
        raise SubmitError(f'"metadata" must be a JSON object, got {type(value).__name__}.')
    try:
        # Not ASCII: half a surrogate pair is then a UnicodeEncodeError, which is a ValueError.
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
        _check_depth(value)
    except (TypeError, ValueError, RecursionError) as exc:
        raise SubmitError(f'"metadata" must be a JSON object: {exc}.') from exc
    if size > _MAX_METADATA_BYTES:
        raise SubmitError(f'"metadata" has {size:,} bytes: at most {_MAX_METADATA_BYTES:,}.')


def _show(value: object) -> str:
    try:
        return f"{value}"
    except ValueError:
        return "too large a number"


def _check_depth(value: object, left: int = _MAX_DEPTH) -> None:
    if left == 0:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(value, dict):
        value = [*value.values()]
    for item in value if isinstance(value, list | tuple) else ():
        _check_depth(item, left - 1)
