"""What a demo model is shown beside the text, and says of it: kind and size, since it sees nothing.

The shapes are OpenAI's, https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from longtask_kit.local.model.prose import read_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An image, a recording or a file of a message.

    Attributes:
        kind: Which of them.
        form: Its media type, format or name, as the request says; empty where it says none.
        size_bytes: Of its content; None where the request holds none, only where it is.
    """

    kind: Literal["image", "audio", "file"]
    form: str = ""
    size_bytes: int | None = None


def find_shown(messages: Sequence[dict[str, Any]]) -> tuple[Shown, ...]:
    """Return what the last user message shows beside its text."""
    said = [message.get("content") for message in messages if message["role"] == "user"]
    parts = said[-1] if said and isinstance(said[-1], list) else []
    return tuple(shown for part in parts if (shown := _read_part(part)) is not None)


def write_shown(shown: Sequence[Shown], prompt: str) -> str:
    """Return what the model says of it, in the prompt's language."""
    words = read_prompt(prompt).language["shown"]
    named = [words[one.kind] + _describe(one, words) for one in shown]
    return str(words["line"].replace("{parts}", words["and"].join(named)))


def _describe(one: Shown, words: dict[str, str]) -> str:
    if one.size_bytes is None:
        return words["elsewhere"]
    size = words["size"].replace("{bytes}", f"{one.size_bytes:,}")
    return words["details"].replace("{details}", ", ".join(filter(None, (one.form, size))))


def _read_part(part: object) -> Shown | None:
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            form, size = _read_url(url)
            return Shown(kind="image", form=form, size_bytes=size)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(form)}}:
            return Shown(kind="audio", form=form, size_bytes=_count_bytes(data))
        case {"type": "file", "file": {"file_data": str(url), "filename": str(name)}}:
            return Shown(kind="file", form=name, size_bytes=_read_url(url)[1])
        case {"type": "image_url" | "input_audio" | "file" as kind}:
            return Shown(kind=_KINDS[kind])
    return None


_KINDS: dict[str, Literal["image", "audio", "file"]] = {
    "image_url": "image",
    "input_audio": "audio",
    "file": "file",
}


def _read_url(url: str) -> tuple[str, int | None]:
    """Return media type and size of what a data URL holds; another one leads elsewhere."""
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:")):
        return "", None
    return head.removeprefix("data:").removesuffix(";base64"), _count_bytes(data)


def _count_bytes(base64: str) -> int:
    return len(base64.rstrip("=")) * 3 // 4
