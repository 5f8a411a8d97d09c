"""What to say of a setting that can't be meant: what was expected, and what was found.

A value is quoted where it can't be a secret that was put under the wrong name. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

_PLACE = re.compile(r"([a-z]+://)?(localhost|[\w-]+(\.[\w-]+)+)(:\d{1,5})?(/[\w./-]*)?", re.ASCII)
_MOST_SHOWN = {True: 80, False: 12}  # characters, of a URL and of anything else
_EXAMPLE = "https://app.example.com"
_KINDS = {int: "a whole number", float: "a number", bool: "1 or 0"}


def explain_wrong(
    exc: ValidationError, fields: Mapping[str, FieldInfo]
) -> Iterator[tuple[str, str]]:
    """Yield each setting that is wrong, by its environment name, and what is wrong with it."""
    by_loc = {n: field for name, field in fields.items() for n in _list_names(name, field)}
    for error in exc.errors(include_url=False, include_context=False):
        if error["type"] == "default_factory_not_called":
            continue  # it needs a value that another row is about
        name = str(error["loc"][0]) if error["loc"] else "settings"
        field = by_loc.get(name)
        yield find_variable(name, field), _explain(error, field)


def find_variable(name: str, field: FieldInfo | None) -> str:
    """Return a setting's name in the environment, the first if it has several."""
    return next((n for n in _list_names(name, field) if n.isupper()), name.upper())


def _list_names(name: str, field: FieldInfo | None) -> list[str]:
    alias: Any = field.validation_alias if field is not None else None
    aliases = [*alias.choices] if hasattr(alias, "choices") else [alias] if alias else []
    return [*aliases, name]


def _explain(error: Any, field: FieldInfo | None) -> str:  # noqa: ANN401 - a dict of pydantic's
    if error["type"] == "value_error" or field is None:
        return str(error["msg"]).removeprefix("Value error, ")
    found, is_secret = error["input"], "Secret" in str(field.annotation)
    is_url = not is_secret and _is_url(field)
    expected = "text" if is_secret else _expect(field)
    if is_url:
        expected = f"a URL like {_make_example(found)}"
    is_shown = not is_secret and _can_show(found, is_url=is_url)
    return f"is {found!r}: expected {expected}" if is_shown else f"expected {expected}"


def _can_show(found: object, *, is_url: bool) -> bool:
    text = str(found)
    is_plain = _PLACE.fullmatch(text) if is_url else text.isprintable()
    return len(text) <= _MOST_SHOWN[is_url] and bool(is_plain)


def _is_url(field: FieldInfo) -> bool:
    return "https?" in f"{field.metadata}{field.annotation}"


def _make_example(found: object) -> str:
    """Return what may have been meant, where only the scheme is missing."""
    text = str(found)
    if not _can_show(found, is_url=True) or "://" in text:
        return _EXAMPLE
    return f"http://{text}" if text.startswith(("127.0.0.1", "localhost")) else f"https://{text}"


def _expect(field: FieldInfo) -> str:
    choices = _list_choices(field)
    if choices:
        return f"one of {', '.join(choices)}"
    types = {*get_args(field.annotation), field.annotation}
    kind = next((kind for type_, kind in _KINDS.items() if type_ in types), "text")
    if longest := _find_bound(field, "max_length"):
        return f"{_find_bound(field, 'min_length')} to {longest} characters"
    least, above, most = (_find_bound(field, name) for name in ("ge", "gt", "le"))
    if least is not None and most is not None:
        return f"{kind} from {least:,} to {most:,}"
    parts = [
        f" above {above:,}" if above is not None else "",
        f", at least {least:,}" if least is not None else "",
        f", at most {most:,}" if most is not None else "",
    ]
    return kind + "".join(parts)


def _find_bound(field: FieldInfo, name: str) -> Any:  # noqa: ANN401 - a number, or None
    return next((getattr(one, name) for one in field.metadata if hasattr(one, name)), None)


def _list_choices(field: FieldInfo) -> list[str]:
    pattern = next((one.pattern for one in field.metadata if getattr(one, "pattern", None)), "")
    if words := re.fullmatch(r"\^\((\w+(?:\|\w+)*)\)\$", str(pattern)):
        return words[1].split("|")
    return [one for one in get_args(field.annotation) if isinstance(one, str)]
