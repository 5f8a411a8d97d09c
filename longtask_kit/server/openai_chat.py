"""Chat completions: the chunks of one answer, to what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longtask_kit.server.handlers import Delta, Keep
from longtask_kit.server.openai_continue import IDS, NEVER
from longtask_kit.server.openai_decoder import Decoder
from longtask_kit.server.openai_errors import find_error, map_stream_error
from longtask_kit.server.openai_think import ThinkSplitter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from longtask_kit.server.handlers import Outcome
    from longtask_kit.server.openai_decoder import Piece

_PLAIN = frozenset({"content", "role"})
_REASONING = ("reasoning_content", "reasoning", "thinking")
_KINDS = dict.fromkeys((*_REASONING, "reasoning_details"), "reasoning") | {
    "content": "content",
    "refusal": "refusal",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
_IDS = "token_ids"  # of a choice, as vLLM has it


class ChatDecoder(Decoder):
    """Reads the chunks of one chat completion.

    https://platform.openai.com/docs/api-reference/chat-streaming has their shape; servers that are
    compatible put text elsewhere too, or send an answer in one piece.

    Args:
        key: As in `Decoder`.
        goes_on: It is the rest of an answer, which doesn't begin with thoughts.
        place: The tokens that it is the rest of; None: what chunks say of tokens is not asked for.
    """

    def __init__(
        self, key: str = "", *, goes_on: bool = False, place: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(key, place=place)
        self._ids: list[int] | None = None if place is None else [*place.get("ids", ())]
        self._think: ThinkSplitter | None = None if goes_on else ThinkSplitter()

    def find_plain_text(self, event: dict[str, Any]) -> str:
        """Return the text of a chunk that holds nothing else; see `Decoder`."""
        if self._think is not None or "content" not in self._said:
            return ""
        choices = event.get("choices")
        if not choices or event.get("usage") or event.get("error"):
            return ""
        choice = choices[0]
        delta = choice.get("delta")
        if not delta or choice.get("finish_reason") or choice.get("error") or _IDS in choice:
            return ""
        if len(delta) > 1:
            for name, value in delta.items():
                if value and name not in _PLAIN:
                    return ""
        text = delta.get("content")
        return text if type(text) is str else ""

    def feed(self, event: dict[str, Any]) -> Sequence[Piece] | None:
        """Return what a chunk says; see `Decoder`."""
        if error := find_error(event):
            raise map_stream_error(error, self._key, is_midway=self.has_spoken)
        if counted := event.get("usage"):
            self._count(counted)
        if "choices" not in event:
            return () if counted else None
        choices = event["choices"]
        if not choices:
            return ()
        choice = choices[0]
        if choice.get("finish_reason"):
            self._finish(event, choice)
        pieces = self._read_choice(choice)
        if self._ids is None or _IDS not in choice:
            return pieces
        return [*pieces, *self._read_ids(self._ids, choice[_IDS])]

    def _read_ids(self, known: list[int], ids: list[int] | None) -> Iterator[Keep]:
        """Yield where it is, by all tokens so far; what a tag may be begun by isn't said yet."""
        if ids is None:
            yield Keep(NEVER)
            return
        known += ids
        if self._think is None:
            yield Keep(IDS, {"ids": [*known]})

    def end(self) -> list[Piece | Outcome]:
        """Return what is said at the end; see `Decoder`."""
        return [*self._settle_think(), *super().end()]

    def _finish(self, event: dict[str, Any], choice: dict[str, Any]) -> None:
        if isinstance(reason := choice["finish_reason"], str):
            self._finish_reason = reason
            self.is_whole = True
        for place in (choice, event.get("x_groq")):  # where two services put it
            if isinstance(place, dict):
                self._count(place.get("usage"))

    def _read_choice(self, choice: dict[str, Any]) -> Sequence[Piece]:
        """Return what a delta says, or else text of the older API, or a message in one piece."""
        delta = choice.get("delta") or {}
        pieces = self._read_delta(delta)
        if "text" in choice and not delta.get("content"):
            return [*pieces, *self._read_delta({"content": choice["text"]})]
        if message := choice.get("message"):
            fresh = {k: v for k, v in message.items() if _KINDS.get(k) not in self._said}
            pieces += self._read_delta(fresh)
        return pieces

    def _read_delta(self, delta: dict[str, Any]) -> list[Piece]:
        content = delta.get("content")
        pieces = [*self._read_reasoning(delta), *self._read_content(content)]
        if refusal := delta.get("refusal"):
            pieces.append(self._refuse(_check_text(refusal)))
        self._read_calls(delta)
        self._note_said(pieces)
        if isinstance(content, str) and content:  # also where it waits for a tag
            self._said.add("content")
        if self._calls:
            self._said.add("tool_calls")
        return pieces

    def _read_reasoning(self, delta: dict[str, Any]) -> Iterator[Piece]:
        texts = (delta.get(name) for name in _REASONING)
        reasoning = next((text for text in texts if text), None) or delta.get("reasoning_details")
        if reasoning and (text := _read_thought(reasoning)):
            yield from self._settle_think()
            yield Delta("reasoning", text)

    def _read_content(self, content: object) -> Iterator[Piece]:
        """Yield what a content says: a string, or parts."""
        if not content and not isinstance(content, int):
            return
        if isinstance(content, str):
            yield from self._split(content)
            return
        parts = [content] if isinstance(content, dict) else content
        if not isinstance(parts, list):
            raise TypeError
        for part in parts:
            yield from self._read_part(part)

    def _read_part(self, part: str | dict[str, Any]) -> Iterator[Piece]:
        if isinstance(part, str):
            yield from self._split(part)
            return
        match part["type"]:
            case "thinking" | "reasoning":
                if text := _read_thought(part):
                    yield from self._settle_think()
                    yield Delta("reasoning", text)
            case "refusal":
                yield self._refuse(_check_text(part["refusal"]))
            case _:
                yield from self._split(_check_text(part.get("text") or ""))

    def _read_calls(self, delta: dict[str, Any]) -> None:
        pieces = delta.get("tool_calls")
        if not pieces and (call := delta.get("function_call")):  # of before there were tools
            pieces = [{"index": 0, "function": call}]
        for piece in pieces or ():
            self._calls.add(piece)

    def _split(self, text: str) -> Sequence[Piece]:
        if self._think is None:
            return (text,) if text else ()
        pieces = self._think.feed(text)
        if self._think.is_over:
            self._think = None
        return pieces

    def _settle_think(self) -> Sequence[Piece]:
        """Return what waits for a tag; none comes where reasoning has a place of its own."""
        pieces = self._think.end() if self._think else ()
        self._think = None
        return pieces


def _read_thought(thought: object) -> str:
    """Return the text of reasoning: a string, parts, or an object that holds one of them."""
    if isinstance(thought, list):
        return "".join(map(_read_thought, thought))
    if isinstance(thought, dict):  # an encrypted one has no text
        names = ("thinking", "text", "reasoning", "summary", "content")
        return _read_thought(next((thought[name] for name in names if thought.get(name)), None))
    return thought if isinstance(thought, str) else ""


def _check_text(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError
    return text
