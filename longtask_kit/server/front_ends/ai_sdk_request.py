"""The AI SDK's chats, the question's side: UI messages to what a task asks.

https://ai-sdk.dev/docs/reference/ai-sdk-core/ui-message has their shape. What a page sends as the
history is data: texts and images. What the model said is taken as far as it is an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longtask_kit.errors import SubmitError
from longtask_kit.log.keys import is_task_id
from longtask_kit.server.front_ends.ai_sdk import RESTART
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_DOUBTS = 20
_ROLES = ("user", "assistant", "system")
_NAMES = {"max_tokens": "maxTokens"}


def find_doubtful(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of answers of ours that don't say of themselves that they are whole.

    A connection broke while they came, or the page has kept nothing but their text.
    """
    ids = [
        message["id"]
        for message in messages
        if message.get("role") == "assistant"
        and isinstance(message.get("id"), str)
        and is_task_id(message["id"])
        and not _says_it_is_whole(message)
    ]
    return ids[-_MAX_DOUBTS:]


def _says_it_is_whole(message: Mapping[str, Any]) -> bool:
    told = message.get("metadata")
    if not isinstance(told, dict):
        return False
    # A page may begin an answer as a copy of the one before it, with that one's metadata.
    return bool(told.get("taskId") == message["id"] and told.get("status") == "completed")


def find_question(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the id of the message that is to be answered, if it has one."""
    asked = [message for message in messages if message.get("role") == "user"]
    found = asked[-1].get("id") if asked else None
    return found if isinstance(found, str) and found else None


def make_task(
    body: Mapping[str, Any],
    *,
    answers: Mapping[str, str | None] | None = None,
    allow_system: bool = False,
    digest: str = "",
) -> TaskSpec:
    """Return what a request asks.

    Args:
        body: The request, as JSON.
        answers: What doubtful answers were, by id; None for one that never got whole.
        allow_system: Whether the page may say what only the app says else.
        digest: Kept with the task, to know the request again.

    Raises:
        SubmitError: It holds what isn't served here, or what can't be meant.
    """
    messages = []
    is_asked = False
    for number, message in enumerate(body["messages"]):
        place = f"messages[{number}]"
        read = _read_message(message, place, answers or {}, allow_system=allow_system)
        if read is not None:
            messages.append(read)
        if message["role"] == "user":
            is_asked = read is not None
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()  # an answer that was cut: it is asked for anew
    if not is_asked or messages[-1]["role"] != "user":
        raise _wrong("messages", "has no message of the user's to answer")
    given = {name: body[name] for name in ("model", "handler") if body.get(name) is not None}
    try:
        return TaskSpec(
            messages=messages,
            max_tokens=body.get("maxTokens"),
            temperature=body.get("temperature"),
            metadata={"ai_sdk": {"chat": body.get("id"), "asked": digest}},
            **given,
        )
    except SubmitError as exc:
        if (theirs := _NAMES.get(exc.field or "")) is None:
            raise
        raise SubmitError(str(exc).replace(exc.field or "", theirs, 1), field=theirs) from exc


def _read_message(
    message: Mapping[str, Any],
    place: str,
    answers: Mapping[str, str | None],
    *,
    allow_system: bool,
) -> dict[str, Any] | None:
    """Return a message in the shape of chat completions; None for one that says nothing."""
    role, parts = message.get("role"), message.get("parts")
    if role not in _ROLES:
        raise _wrong(f"{place}.role", f"is {str(role)[:40]!r}: expected {', '.join(_ROLES)}")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise _wrong(f"{place}.parts", "must be a list of objects, as the AI SDK sends them")
    if role == "system" and not allow_system:
        raise _wrong(
            f"{place}.role",
            "is 'system', which a page may not say: leave it out, or have the app say "
            "create_app(allow_system=True)",
        )
    if role == "user":
        content = _read_question(parts, place)
        return {"role": role, "content": content} if content else None
    text = _join_texts(_find_standing(parts), place)
    if role == "assistant":
        text = answers.get(str(message.get("id")), text) or ""
    return {"role": role, "content": text} if text else None


def _find_standing(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what stands of an answer: what an attempt said that started over stays in a page."""
    marks = [n for n, part in enumerate(parts) if part.get("type") == RESTART]
    return parts[marks[-1] + 1 :] if marks else parts


def _join_texts(parts: list[dict[str, Any]], place: str) -> str:
    return "".join(_read_text(part, place) for part in parts if part.get("type") == "text")


def _read_text(part: Mapping[str, Any], place: str) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise _wrong(f"{place}.parts", "has a text part without text")
    return text


def _read_question(parts: list[dict[str, Any]], place: str) -> str | list[dict[str, Any]]:
    images = [_read_image(part, place) for part in parts if part.get("type") == "file"]
    text = _join_texts(parts, place)
    if not images:
        return text
    return [*images, *([{"type": "text", "text": text}] if text else [])]


def _read_image(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    kind, url = part.get("mediaType"), part.get("url")
    if not isinstance(kind, str) or not kind.startswith("image/"):
        found = str(kind)[:40]
        raise _wrong(f"{place}.parts", f"has a file of type {found!r}: expected text and images")
    if not isinstance(url, str):
        raise _wrong(f"{place}.parts", "has an image without a URL")
    return {"type": "image_url", "image_url": {"url": url}}


def _wrong(place: str, problem: str) -> SubmitError:
    return SubmitError(f'"{place}" {problem}.', field=place)
