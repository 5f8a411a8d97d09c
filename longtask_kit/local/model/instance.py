"""A small value that obeys a JSON schema, the same on every machine.

Pure. It knows what strict structured output allows, and the common rest of JSON Schema; a keyword
that it does not know is passed over.
"""

from __future__ import annotations

import math
import re
from typing import Any

from longtask_kit.local.model.prose import Dice

_MAX_DEPTH = 3  # below it only what is required: a schema may hold itself
_WORDS = ("river", "lantern", "cedar", "harbor", "violet", "meadow", "copper", "snow")
_NAMED = {
    "city": ("Oslo", "Rome", "Kyoto", "Lisbon"),
    "country": ("Norway", "Italy", "Japan", "Portugal"),
    "location": ("Oslo", "Rome", "Kyoto", "Lisbon"),
    "name": ("Mara", "Noor", "Jonah", "Aiko"),
    "unit": ("celsius",),
}
_FORMATS = {
    "date": "2026-01-01",
    "time": "09:30:00Z",
    "date-time": "2026-01-01T09:30:00Z",
    "duration": "PT15M",
    "email": "mara@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "12345678-1234-4234-8234-123456789abc",
}
_FOR_PATTERNS = (
    *("a", "A", "0", "1", "12", "123", "1234", "12345", "abc", "ABC", "A1", "AB-1234", "1.0.0"),
    *("#a1b2c3", "+4712345678", "@mara", *_FORMATS.values(), *_WORDS),
)


def make_instance(schema: object, *, key: str) -> Any:  # noqa: ANN401
    """Return a value that the schema allows.

    Args:
        schema: The JSON schema; its references stay within it.
        key: Another key gives other words and numbers; the same gives the same.
    """
    return _Maker(schema, key).make(schema, "", 0)


class _Maker:
    def __init__(self, root: object, key: str) -> None:
        self._root = root
        self._key = key

    def make(self, schema: object, path: str, depth: int) -> Any:  # noqa: ANN401
        """Return a value for a part of the schema, which stands at this path of the value."""
        schema = self._resolve(schema, depth)
        dice = Dice(f"{self._key}\x1f{path}")
        if "const" in schema:
            return schema["const"]
        for name in ("enum", "examples"):
            if isinstance(schema.get(name), list) and schema[name]:
                return dice.pick(schema[name])
        match _find_type(schema):
            case "object":
                return self._make_object(schema, path, depth)
            case "array":
                return self._make_array(schema, path, depth)
            case "integer" | "number" as kind:
                return _make_number(schema, dice, is_whole=kind == "integer")
            case "boolean":
                return dice.pick([True, False])
            case "null":
                return None
        return _make_text(schema, path.rpartition(".")[2], dice)

    def _resolve(self, schema: object, depth: int) -> dict[str, Any]:
        """Return a schema without reference, choice and parts."""
        for _ in range(50):  # a reference may lead to itself
            if not isinstance(schema, dict):
                return {} if schema is not False else {"type": "null"}
            if isinstance(schema.get("$ref"), str):
                rest = {name: value for name, value in schema.items() if name != "$ref"}
                schema = _merge(self._look_up(schema["$ref"]), rest)
            elif options := schema.get("anyOf") or schema.get("oneOf"):
                rest = {n: v for n, v in schema.items() if n not in ("anyOf", "oneOf")}
                schema = _merge(self._choose(options, depth), rest)
            elif isinstance(parts := schema.get("allOf"), list):
                whole = {name: value for name, value in schema.items() if name != "allOf"}
                for part in parts:
                    whole = _merge(self._resolve(part, depth), whole)
                schema = whole
            else:
                return schema
        return {"type": "null"}

    def _choose(self, options: object, depth: int) -> object:
        """Return the first option that is something; deep down one that is nothing."""
        choices = options if isinstance(options, list) else [options]
        empty = [choice for choice in choices if _is_null(choice)]
        return next(
            (choice for choice in choices if _is_null(choice) == (depth > _MAX_DEPTH)),
            (empty or choices)[0],
        )

    def _look_up(self, reference: str) -> object:
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def _make_object(self, schema: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = [name for name in schema.get("required") or () if isinstance(name, str)]
        names = required if depth > _MAX_DEPTH else [*properties]
        names += [name for name in required if name not in names]
        others = schema.get("additionalProperties")
        if not names and isinstance(others, dict) and depth <= _MAX_DEPTH:
            names, properties = ["first"], {"first": others}
        return {
            name: self.make(properties.get(name, {}), f"{path}.{name}", depth + 1) for name in names
        }

    def _make_array(self, schema: dict[str, Any], path: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        least = _read_int(schema, "minItems", 0)
        usual = least if depth > _MAX_DEPTH else max(least, 2)
        count = max(min(usual, _read_int(schema, "maxItems", usual)), len(first))
        items = [*first, *[schema.get("items", {})] * (count - len(first))]
        return [self.make(item, f"{path}.{i}", depth + 1) for i, item in enumerate(items)]


def _merge(one: object, other: dict[str, Any]) -> dict[str, Any]:
    """Return both schemas' demands."""
    if not isinstance(one, dict):
        return other
    merged = one | other
    if isinstance(one.get("properties"), dict) and isinstance(other.get("properties"), dict):
        merged["properties"] = one["properties"] | other["properties"]
    if one.get("required") and other.get("required"):
        merged["required"] = [*one["required"], *other["required"]]
    return merged


def _is_null(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def _find_type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    if isinstance(kind, str):
        return kind
    by_keyword = {
        "properties": "object",
        "required": "object",
        "items": "array",
        "prefixItems": "array",
        "minimum": "number",
        "maximum": "number",
    }
    return next((by_keyword[name] for name in by_keyword if name in schema), "string")


def _make_number(schema: dict[str, Any], dice: Dice, *, is_whole: bool) -> int | float:
    step = _read_number(schema, "multipleOf") or (1 if is_whole else 0.5)
    least, above = _read_number(schema, "minimum"), _read_number(schema, "exclusiveMinimum")
    most, below = _read_number(schema, "maximum"), _read_number(schema, "exclusiveMaximum")
    top = most if most is not None else below
    low = least if least is not None else above
    if low is None:
        low = 1 if top is None or top > 1 else top - 9 * step
    first = math.ceil(low / step)
    first += first * step == above
    last = first + 8 if top is None else math.floor(top / step)
    last -= last * step == below
    steps = dice.pick([*range(first, max(first, min(last, first + 8)) + 1)])
    value = round(steps * step, 9)
    return int(value) if is_whole else value


def _make_text(schema: dict[str, Any], name: str, dice: Dice) -> str:
    if isinstance(kind := schema.get("format"), str) and kind in _FORMATS:
        return _FORMATS[kind]
    least = _read_int(schema, "minLength", 0)
    most = _read_int(schema, "maxLength", 1000)
    if isinstance(pattern := schema.get("pattern"), str):
        return _match(pattern, [text for text in _FOR_PATTERNS if least <= len(text) <= most])
    text = dice.pick([*_NAMED.get(name, _WORDS)])
    return text.ljust(least, text[-1])[:most]


def _match(pattern: str, texts: list[str]) -> str:
    """Return the first of some texts that fits a pattern, if one does."""
    try:
        expression = re.compile(pattern)
    except re.error:
        return _WORDS[0]
    return next((text for text in texts if expression.search(text)), _WORDS[0])


def _read_number(schema: dict[str, Any], name: str) -> float | None:
    value = schema.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value or 0) else None


def _read_int(schema: dict[str, Any], name: str, default: int) -> int:
    value = schema.get(name)
    return min(value, 1000) if type(value) is int and value >= 0 else default
