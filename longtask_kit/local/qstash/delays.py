"""Delays on the wire: two notations of a duration, and the arithmetic of `Upstash-Retry-Delay`.

The arithmetic is evaluated on its syntax tree and never by `eval`, and all on floats: neither
`pow(9, pow(9, 9))` nor a long literal can take time or memory, as what is too large becomes
infinity, which the caller clamps. Durations: wire doc, sections 1 and 5.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from typing import TYPE_CHECKING

from longtask_kit.local.qstash.errors import DurationError, ExpressionError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_EXPRESSION_CHARS = 256
MAX_DURATION_S = 366 * 86_400

_UPSTASH = re.compile(
    r"(?=\d)(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII
)
_GO_PART = r"(\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})(ns|us|µs|μs|ms|s|m|h)"
_GO = re.compile(f"[+]?(?:{_GO_PART})+", re.ASCII)
_GO_PARTS = re.compile(_GO_PART, re.ASCII)
_GO_UNITS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


def parse_duration_s(text: str) -> int:
    """Return the seconds of an Upstash duration, `[<n>d][<n>h][<n>m][<n>s]` such as `1d10h30m`.

    Raises:
        DurationError: The text has another form or is longer than 366 days.
    """
    match = _UPSTASH.fullmatch(text)
    if match is None:
        raise DurationError(f"expected a duration like 10s, 5m or 1d10h30m, got {text[:80]!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total_s = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total_s > MAX_DURATION_S:
        raise DurationError(f"expected at most 366 days, got {text[:80]!r}")
    return total_s


def parse_go_duration_s(text: str) -> float:
    """Return the seconds of a Go duration such as `6m5s` or `1.5h`, as rate limit headers use.

    Raises:
        DurationError: The text isn't a Go duration of zero or more.
    """
    if len(text) > 128 or _GO.fullmatch(text) is None:
        raise DurationError(f"expected a Go duration like 6m5s, got {text[:80]!r}")
    return sum(float(number) * _GO_UNITS_S[unit] for number, unit in _GO_PARTS.findall(text))


def evaluate_expression(text: str, *, retried: int) -> float:
    """Return the value of a retry delay expression, which may be infinite but is never NaN.

    Args:
        text: Numbers, `retried`, `+ - * / % ^`, parentheses, and the functions pow, sqrt, abs,
            exp, floor, ceil, round, min, max; at most 256 characters.
        retried: How many retries were made so far, 0 for the first retry.

    Raises:
        ExpressionError: The text has anything else in it, or no value.
    """
    try:
        value = _value_of(_parse(text), float(retried))
    except (ArithmeticError, ValueError, RecursionError) as exc:
        raise ExpressionError(f"invalid retry delay {text[:80]!r}: {exc}") from exc
    if math.isnan(value):
        raise ExpressionError(f"invalid retry delay {text[:80]!r}: it has no value")
    return value


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_EXPRESSION_CHARS:
        raise ExpressionError(
            f"expected at most {MAX_EXPRESSION_CHARS} characters, got {len(text)}"
        )
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise ExpressionError("expected arithmetic over numbers and `retried`") from exc


def _value_of(node: ast.expr, retried: float) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(float, number)
        case ast.Name(id="retried"):
            return retried
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            value = _value_of(operand, retried)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(
                _OPERATORS[type(op)], _value_of(left, retried), _value_of(right, retried)
            )
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _call(name, [_value_of(arg, retried) for arg in args])
    raise ExpressionError(f"{type(node).__name__} is not allowed here")


def _call(name: str, values: list[float]) -> float:
    function, least, most = _FUNCTIONS[name]
    if not least <= len(values) <= most:
        raise ExpressionError(f"{name} can't take {len(values)} arguments")
    return _bounded(function, *values)


def _bounded(function: Callable[..., float], *values: float) -> float:
    try:
        return float(function(*values))
    except OverflowError:
        return math.inf


def _round(value: float) -> float:
    """Half away from zero, as Go does; Python's own rounds half to even."""
    return math.copysign(math.floor(abs(value) + 0.5), value)


# math.pow and not **, which makes giant integers of integers and complex numbers of negatives.
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: math.fmod,
    ast.BitXor: math.pow,
    ast.Pow: math.pow,
}

_FUNCTIONS: dict[str, tuple[Callable[..., float], int, int]] = {
    "pow": (math.pow, 2, 2),
    "sqrt": (math.sqrt, 1, 1),
    "abs": (abs, 1, 1),
    "exp": (math.exp, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "round": (_round, 1, 1),
    "min": (lambda *values: min(values), 1, MAX_EXPRESSION_CHARS),
    "max": (lambda *values: max(values), 1, MAX_EXPRESSION_CHARS),
}
