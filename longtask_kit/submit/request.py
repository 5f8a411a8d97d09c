"""What a person gives, as a `TaskSpec`: much is left out, and a schema becomes a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import SubmitError, ask_whether
from longtask_kit.submit.messages import check_params
from longtask_kit.submit.schema import to_response_format
from longtask_kit.submit.spec import TaskSpec, refuse_both

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longtask_kit.submit.schema import Schema


_FORMAT = "response_format"


def make_spec(
    *,
    prompt: str | None = None,
    messages: object = None,
    schema: Schema | None = None,
    **values: Any,  # noqa: ANN401 - TaskSpec's own
) -> TaskSpec:
    """Return the spec of what `kit.submit()` was given.

    Raises:
        SubmitError: A value is out of range, or there is no such one.
    """
    check_names(values)
    if prompt is None and messages is None:
        raise SubmitError("There is nothing to ask: give a prompt, or messages.")
    if prompt is not None and messages is not None:
        raise refuse_both()
    for name in ("params", "metadata"):
        value = {} if values.get(name) is None else values[name]
        # What is wrong with anything else, TaskSpec says.
        values[name] = dict(value) if isinstance(value, Mapping) else value
    if schema is not None:
        if not isinstance(values["params"], dict):
            check_params(values["params"])
        if _FORMAT in values["params"]:
            raise SubmitError('"schema" and params["response_format"] are both given.')
        values["params"][_FORMAT] = to_response_format(schema)
    if prompt is not None:
        values["prompt"] = prompt
    return TaskSpec(messages=messages, **values)  # type: ignore[arg-type]  # it looks itself


_OF_SPEC = tuple(field.name for field in fields(TaskSpec))
_NAMES = ("schema", *_OF_SPEC)


def change_spec(
    spec: TaskSpec,
    schema: Schema | None,
    fresh: Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    call: str,
) -> tuple[TaskSpec, Schema | None]:
    """Return what is asked next in a conversation, and what its answer must look like.

    Args:
        spec: What was asked before.
        schema: What its answer had to look like.
        fresh: What the conversation itself changes: its messages.
        changes: What a person does: what `submit` takes, as it takes it.
        call: Who was given them, as `reply()`.

    Raises:
        SubmitError: A value is out of range, or there is no such one.
    """
    check_names(changes, call, ("tool_results",))
    if "messages" in changes:
        raise SubmitError(f'{call} makes the "messages" itself: leave them out.', field="messages")
    values = {name: getattr(spec, name) for name in _OF_SPEC}
    values |= {"prompt": None, **fresh, **changes}
    params = {} if values["params"] is None else values["params"]
    if isinstance(params, Mapping) and _FORMAT in spec.params:
        # What answers look like is an argument of its own: other parameters don't change it.
        rest = {name: value for name, value in params.items() if name != _FORMAT}
        if "schema" in changes and "params" not in changes:
            values["params"] = rest
        elif "schema" not in changes and _FORMAT not in params:
            values["params"] = rest | {_FORMAT: spec.params[_FORMAT]}
    if "schema" in changes or _FORMAT in (changes.get("params") or ()):
        schema = changes.get("schema")
    return make_spec(**values), schema


def check_names(values: Iterable[str], call: str = "", own: Iterable[str] = ()) -> None:
    """Refuse arguments that nobody takes.

    Args:
        values: Their names.
        call: Who was given them, as `map()`.
        own: What that call takes besides what `submit` does.

    Raises:
        SubmitError: One is unknown; the message says which was meant.
    """
    known = [*_NAMES, *own]
    for name in values:
        if name not in known:
            raise SubmitError(
                f"{call or 'submit()'} got an unexpected keyword argument {name!r:.80}"
                f"{ask_whether(name, known)}."
            )
