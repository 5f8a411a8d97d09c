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


# C0 and C1 controls but tab and line feed: escape sequences of a model must not reach a terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def make_printable(text: str) -> str:
    """Return text without control characters and direction overrides: a model's text is data."""
    return _CONTROLS.sub("", text)


def to_json_line(wire: dict[str, Any]) -> str:
    """Return a line of JSON with control characters escaped, so that no terminal obeys them."""
    text = json.dumps(wire, ensure_ascii=False)
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"
