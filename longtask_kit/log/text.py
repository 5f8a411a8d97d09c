"""Text of a model is data: valid Unicode, without control characters."""

from __future__ import annotations

import json
import re
from typing import Any


def make_valid_text(text: str) -> str:
    """Return text that can be encoded: half a surrogate pair becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class PairJoiner:
    """Makes the deltas of one text valid: a surrogate pair that two of them share stays whole."""

    def __init__(self) -> None:
        self._half = ""

    @property
    def is_waiting(self) -> bool:
        """Whether half a pair waits for the other half."""
        return bool(self._half)

    def feed(self, delta: str) -> str:
        """Return what is valid so far; half a pair at the end waits for the next delta."""
        text = self._half + delta
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return make_valid_text(text[:-1] if self._half else text)

    def end(self) -> str:
        """Return what stands for the half that is left, if one is."""
        half, self._half = self._half, ""
        return make_valid_text(half)


# C0 and C1 controls but tab and line feed: escape sequences of a model must not reach a terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def make_printable(text: str) -> str:
    """Return text without control characters and direction overrides: a model's text is data."""
    return _CONTROLS.sub("", text)


def to_json_line(wire: dict[str, Any], *, encoding: str | None = None) -> str:
    """Return a line of JSON with control characters escaped, so that no terminal obeys them.

    Args:
        wire: What to tell.
        encoding: Of where it goes; what that lacks is escaped, too. None has every character.
    """
    text = json.dumps(wire, ensure_ascii=False)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(wire)
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"
