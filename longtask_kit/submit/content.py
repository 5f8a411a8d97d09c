"""Parts of a message, made from what a person has at hand."""

from __future__ import annotations

import io
from base64 import b64encode
from os import PathLike
from pathlib import Path
from typing import Any

from longtask_kit.errors import SubmitError

# A file's first bytes, and its media type: what vision models take.
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}


def image(source: object, *, detail: str | None = None) -> dict[str, Any]:
    """Return the part of a message that shows an image.

    Args:
        source: A file's path, its bytes, a PIL image, or the URL of one on the web (http, https,
            data), which the model service fetches. A file goes with the task, in four thirds of its
            bytes.
        detail: `low`, `high` or `auto`, if the service knows that.

    Returns:
        `{"type": "image_url", "image_url": {"url": …}}`, for a message's content.

    Raises:
        SubmitError: It is no image, or can't be read.
    """
    url = source if _is_url(source) else _to_data_url(_read(source))
    held: dict[str, Any] = {"url": url} | ({} if detail is None else {"detail": detail})
    return {"type": "image_url", "image_url": held}


def _is_url(source: object) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://", "data:"))


def _read(source: object) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | PathLike):
        try:
            return Path(source).expanduser().read_bytes()
        except (OSError, ValueError, RuntimeError) as exc:  # the last: nobody's home
            raise SubmitError(f"image(): {source!s:.200} can't be read: {exc}.") from exc
    if callable(save := getattr(source, "save", None)):  # PIL, which need not be installed
        buffer = io.BytesIO()
        try:
            save(buffer, format="PNG")
        except (OSError, ValueError) as exc:  # of CMYK, as printers' JPEGs have it
            raise SubmitError(
                f"image(): it can't be saved as PNG: {exc}. Give its convert('RGB')."
            ) from exc
        return buffer.getvalue()
    raise SubmitError(
        f"image() takes a path, bytes, a PIL image or a URL, got {type(source).__name__}."
    )


def _to_data_url(content: bytes) -> str:
    return f"data:{_find_media_type(content)};base64,{b64encode(content).decode()}"


def _find_media_type(content: bytes) -> str:
    for magic, media_type in _MAGIC.items():
        if content.startswith(magic):
            return media_type
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    raise SubmitError(
        f"image(): expected PNG, JPEG, GIF, WebP or BMP, found {content[:8]!r}: convert it first, "
        "or write the part yourself."
    )
