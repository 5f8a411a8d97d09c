"""The two duration notations on the wire, both to seconds (wire doc, sections 1 and 5)."""

from __future__ import annotations

import re

from longtask_kit.local.qstash.errors import DurationError

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
