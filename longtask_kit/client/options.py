"""Options of the command line and of the magics, which are text, to a `TaskSpec`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import SubmitError
from longtask_kit.submit.content import image
from longtask_kit.submit.request import make_spec
from longtask_kit.submit.spec import name_field

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from longtask_kit.submit.spec import TaskSpec


def read_spec(
    *,
    prompt: str | None,
    images: Sequence[str] = (),
    messages: Path | None = None,
    schema: Path | None = None,
    params: Sequence[str] = (),
    metadata: Sequence[str] = (),
    max_tokens: str = "1000",
    temperature: str = "0.7",
    timeout: float | None = None,
    **values: Any,  # noqa: ANN401 - make_spec's own
) -> TaskSpec:
    """Return the spec of a command's options.

    Args:
        prompt: What to ask, beside or behind `messages`; blank beside what else is asked is none.
        images: Files that go with the prompt.
        messages: File of a conversation, JSON.
        schema: File of a JSON schema.
        params: Further model parameters, `name=value` each.
        metadata: What is kept with the task, `name=value` each.
        max_tokens: A whole number, or `none`, which leaves it to the model service.
        temperature: A number, or `none`.
        timeout: Seconds.
        values: What else `submit` takes.

    Raises:
        SubmitError: A value is wrong; the message names the option as it was typed.
    """
    values |= {"timeout_s": timeout}
    values["max_tokens"] = _read_number("--max-tokens", max_tokens, int)
    values["temperature"] = _read_number("--temperature", temperature, float)
    values["params"] = dict(map(_read_param, params))
    values["metadata"] = dict(_read_named("--metadata", text) for text in metadata)
    if schema is not None:
        values["schema"] = _read_json("--schema", schema)
    said = _read_json("--messages", messages) if messages is not None else None
    if images or said is not None:
        said = [*_check_list(said or []), *_ask(prompt, images)]
        prompt = None
    try:
        return make_spec(prompt=prompt, messages=said, **values)
    except SubmitError as exc:
        raise name_field(exc, _show_option) from exc


_SHOWN = {"timeout_s": "--timeout", "prompt": "PROMPT"}
_NAMED = ("params", "metadata")  # each given by its own name


def _show_option(field: str) -> str:
    """Return the option that a field was typed as: `--param n` of `params.n`."""
    found = re.match(r"(\w+)(.*)", field, re.DOTALL)
    name, rest = found.groups() if found else (field, "")
    if name in _NAMED and rest:
        return f"--{name.removesuffix('s')} {rest.removeprefix('.')}"
    return _SHOWN.get(name, f"--{name.replace('_', '-')}") + rest


def _ask(prompt: str | None, images: Sequence[str]) -> list[dict[str, Any]]:
    """Return the last user message, if there is one beside the conversation of a file."""
    prompt = prompt if prompt and prompt.strip() else None
    parts: list[dict[str, Any]] = [] if prompt is None else [{"type": "text", "text": prompt}]
    parts += [image(path) for path in images]
    if not images and prompt is not None:
        return [{"role": "user", "content": prompt}]
    return [{"role": "user", "content": parts}] if parts else []


def _check_list(said: object) -> list[Any]:
    if not isinstance(said, list):
        raise SubmitError(f"--messages: expected a list of messages, got {type(said).__name__}.")
    return said


def _read_number(option: str, text: str, kind: type[int | float]) -> float | None:
    """Read a number; `none` leaves it to the model service."""
    if text.strip().lower() == "none":
        return None
    try:
        return kind(text)
    except ValueError as exc:
        expected = "a whole number" if kind is int else "a number"
        raise SubmitError(
            f"{option} is {text!r:.40}: expected {expected}, or none, which leaves it to the model "
            "service."
        ) from exc


def _read_param(text: str) -> tuple[str, Any]:
    """Read a parameter, and refuse what a list or an object is without its quotes."""
    name, value = _read_named("--param", text)
    if isinstance(value, str) and re.fullmatch(r"\s*(\[.*\]|\{.*\})\s*", value, re.DOTALL):
        raise SubmitError(
            f"--param {name} is {value!r:.60}: expected JSON; quote all of it, so that its own "
            """quotes stay: --param 'stop=["a", "b"]'."""
        )
    return name, value


def _read_named(option: str, text: str) -> tuple[str, Any]:
    """Read `name=value`; a value is JSON where it can be, else text."""
    name, equals, value = text.partition("=")
    if not (equals and name):
        raise SubmitError(f"{option} {text!r}: expected name=value, like seed=7.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _read_json(option: str, path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    try:
        return json.loads(path.expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RuntimeError) as exc:  # it too deep, or nobody's home
        raise SubmitError(f"{option}: {path} can't be read as JSON: {exc}.") from exc
