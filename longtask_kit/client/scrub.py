"""What of an error's text may stand in a file that others read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from longtask_kit.cassettes import is_data

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# Letters of scripts without spaces are words of their own: what is hidden may be a part of a run.
_WHOLE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_WHOLE}]|[^\W{_WHOLE}]+")
_OF_FORM = ("role", "type")  # of a message, which nobody says
_PRIVATE = (
    (re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>)]+", re.IGNORECASE), "<url>"),
    (
        re.compile(
            r"\b(?:sk|pk|key|org|proj|req|sess|task|msg|group|hf|gsk|xai)[-_][\w*.-]{4,}"
            r"|\bBearer\s+\S+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
            r"|\b(?=[A-Za-z_]*\d)(?=\d*[A-Za-z_])\w{24,}",
            re.IGNORECASE,
        ),
        "<id>",
    ),
    (re.compile(r"\\\\[\w.$-]+\\[^\s'\"]+"), "<path>"),
    (re.compile(r"(?<![\w:/.])(?:~|/[\w.@-]+)(?:/[\w.@-]+)+|\b[A-Z]:\\[^\s'\"]+"), "<path>"),
    (re.compile(r"(?<=model service at )[^\s<]+"), "<host>"),  # as this package says it
    (
        re.compile(
            r"(?<![\w:.])(?=[0-9a-f:]*::[0-9a-f]|(?:[0-9a-f]{1,4}:){7})"
            r"[0-9a-f]{0,4}(?::(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4})){2,8}"
            r"(?:%\w+)?(?::\d+)?(?![\w:])",
            re.IGNORECASE,
        ),
        "<host>",
    ),
    (
        re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?|\[[0-9a-f:]*:[0-9a-f:]+\](?::\d+)?"),
        "<host>",
    ),
    (
        re.compile(
            r"(?:\b[\w.+-]+@)?\b(?:localhost|(?:[a-z0-9-]+\.)+[a-z]{2,})(?::\d+)?\b", re.IGNORECASE
        ),
        "<host>",
    ),
    (
        re.compile(
            r"(\b(?:at|to|from|lookup|tcp|ECONNREFUSED)[ '\"]+)(?=[\d.-]*[a-z])[\w.-]+:\d{1,5}\b"
            r"|(\bhost(?:name)?['\"]?\s*[=:]\s*['\"])[\w.-]+",
            re.IGNORECASE,
        ),
        r"\1\2<host>",
    ),
)


def scrub(text: str, *, task_id: str = "", hosts: Collection[str] = ()) -> str:
    """Return an error's text without what names a machine, an account or a task.

    Args:
        text: It.
        task_id: Of the task that failed.
        hosts: Names of machines that it may say: one without a dot is a word like any other.
    """
    if task_id:
        text = text.replace(task_id, "<id>")
    for pattern, shown in _PRIVATE:
        text = pattern.sub(shown, text)
    for host in hosts:
        name = rf"(?<![\w.-]){re.escape(host)}(?::\d+)?(?![\w-])"
        text = re.sub(name, "<host>", text, flags=re.IGNORECASE)
    return text


def hide(text: str, *, said: object, kept: object) -> str:
    """Return an error's text without the words that were taken out of a question it may quote.

    Args:
        text: It.
        said: The messages that were asked.
        kept: What is kept of them.
    """
    words = _list_words(said) - _list_words(kept)
    return _WORD.sub(lambda word: "***" if word[0] in words else word[0], text)


def _list_words(messages: object) -> set[str]:
    return {word for text in _list_texts(messages) for word in _WORD.findall(text)}


def _list_texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        if not is_data(value):
            yield value
    elif isinstance(value, dict):
        yield from _list_texts([inner for key, inner in value.items() if key not in _OF_FORM])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _list_texts(inner)
