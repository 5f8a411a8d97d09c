"""Structured output: a pydantic model or a JSON schema to `response_format`, and an answer back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError

from longtask_kit.errors import SubmitError

Schema = type[BaseModel] | Mapping[str, Any]
"""What an answer must look like."""

_SAYS = frozenset({"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "properties"})


def to_response_format(schema: object) -> dict[str, Any]:
    """Return chat completions' `response_format` for a schema.

    A pydantic model's schema is made strict: every field is required, and no other allowed. A JSON
    schema is handed on as it is, as strict where it is.

    Raises:
        SubmitError: It is neither, or a model that no JSON schema describes.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        try:
            described = schema.model_json_schema()
        except PydanticUserError as exc:
            raise SubmitError(
                f'"schema" {schema.__name__} can\'t be described as JSON: {exc.message}',
                field="schema",
            ) from exc
        return _wrap(schema.__name__, _make_strict(_unfold(described)), is_strict=True)
    if not isinstance(schema, Mapping) or not (_SAYS & set(schema)):
        raise SubmitError(
            f'"schema" must be a pydantic model or a JSON schema, got {type(schema).__name__}.',
            field="schema",
        )
    name = str(schema.get("title") or "answer")
    return _wrap(name, dict(schema), is_strict=_is_strict(schema))


def check_schema(schema: object) -> None:
    """Refuse what no answer can be parsed as; None is no schema.

    Raises:
        SubmitError: It is neither a pydantic model nor a JSON schema.
    """
    if schema is not None:
        to_response_format(schema)


def parse_answer(text: str, schema: Schema) -> Any:  # noqa: ANN401
    """Return an answer as the model's instance, or as the JSON that the schema describes.

    Raises:
        ValueError: It is not what the schema says; the message says where.
    """
    if isinstance(schema, type):
        try:
            return schema.model_validate_json(text)
        except ValidationError as exc:
            raise ValueError(_explain(exc)) from exc
    from jsonschema import SchemaError, validate
    from jsonschema import ValidationError as SchemaViolation
    from referencing.exceptions import Unresolvable

    try:
        value = json.loads(text)
        validate(value, schema)
    except RecursionError:
        raise ValueError("it is nested too deep, or the schema has no end") from None
    except Unresolvable as exc:
        raise ValueError(f"the schema itself is wrong: {str(exc)[:300]}") from exc
    except SchemaViolation as exc:
        raise ValueError(f"{exc.json_path}: {exc.message[:300]}") from exc
    except SchemaError as exc:
        raise ValueError(f"the schema itself is wrong: {exc.message[:300]}") from exc
    return value


def find_schema(params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema that a task was submitted with, from its parameters."""
    wanted = params.get("response_format")
    inner = wanted.get("json_schema") if isinstance(wanted, Mapping) else None
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    return schema if isinstance(schema, Mapping) else None


def _wrap(name: str, schema: dict[str, Any], *, is_strict: bool) -> dict[str, Any]:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    held: dict[str, Any] = {"name": name, "schema": schema}
    return {"type": "json_schema", "json_schema": held | ({"strict": True} if is_strict else {})}


def _unfold(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that says itself what it is: a recursive model's is a $ref, and refused."""
    if "$ref" not in schema:
        return schema
    return {**schema["$defs"][schema["$ref"].removeprefix("#/$defs/")], "$defs": schema["$defs"]}


def _make_strict(node: Any) -> Any:  # noqa: ANN401
    if isinstance(node, list):
        return [_make_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    # Strict mode takes no defaults, no oneOf (pydantic's of a discriminated union), and nothing
    # beside a $ref, platform.openai.com/docs/guides/structured-outputs.
    strict = {
        "anyOf" if name == "oneOf" else name: _make_strict(item)
        for name, item in node.items()
        if name not in ("default", "discriminator", "properties", "$defs")
    }
    if isinstance(strict.get("$ref"), str) and len(strict) > 1:
        strict["anyOf"] = [{"$ref": strict.pop("$ref")}]
    for name in ("properties", "$defs"):
        if isinstance(fields := node.get(name), dict):
            strict[name] = {field: _make_strict(item) for field, item in fields.items()}
    if "properties" in strict:
        strict |= {"required": list(strict["properties"]), "additionalProperties": False}
    return strict


def _is_strict(node: object) -> bool:
    if isinstance(node, list):
        return all(map(_is_strict, node))
    if not isinstance(node, Mapping):
        return True
    fields = node.get("properties")
    if node.get("type") == "object" or isinstance(fields, Mapping):
        if node.get("additionalProperties") is not False:
            return False
        if set(node.get("required", ())) != set(fields or ()):
            return False
    return all(map(_is_strict, node.values()))


def _explain(exc: ValidationError) -> str:
    rows = exc.errors(include_url=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, row['loc'])) or 'the answer'}: {row['msg']}" for row in rows
    )[:500]
