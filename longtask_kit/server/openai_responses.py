"""The Responses API: the events of one answer, to what they say.

https://platform.openai.com/docs/api-reference/responses-streaming has their shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longtask_kit.server.handlers import Delta
from longtask_kit.server.openai_decoder import Decoder
from longtask_kit.server.openai_errors import find_error, map_stream_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from longtask_kit.server.handlers import Outcome
    from longtask_kit.server.openai_decoder import Piece

_REASONING = frozenset(
    f"response.{name}.delta"
    for name in ("reasoning_text", "reasoning_summary_text", "reasoning", "reasoning_summary")
)
_ARGUMENTS = ("response.function_call_arguments.", "response.custom_tool_call_input.")
_ENDS = frozenset(
    f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled")
)
_REASONS = {"max_output_tokens": "length", "max_tokens": "length"}


class ResponsesDecoder(Decoder):
    """Reads the events of one response, or a response in one piece.

    Attributes:
        has_failed: It says so itself; else it may be its connection.
    """

    def __init__(
        self, key: str = "", *, goes_on: bool = False, place: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(key, goes_on=goes_on, place=place)
        self.has_failed = False
        self._found: dict[Any, dict[str, Any]] = {}  # calls by their place in the output
        self._thought: tuple[Any, ...] | None = None  # the part of reasoning that came last

    def find_plain_text(self, event: dict[str, Any]) -> str:
        """Return the text of an event that holds nothing else; see `Decoder`."""
        if "content" not in self._said or event.get("type") != "response.output_text.delta":
            return ""
        text = event.get("delta")
        return text if isinstance(text, str) else ""

    def feed(self, event: dict[str, Any]) -> Sequence[Piece] | None:
        """Return what an event says; see `Decoder`."""
        type_ = event.get("type")
        if error := find_error(event):
            raise map_stream_error(error, self._key, is_midway=self.has_spoken)
        if event.get("object") == "response":
            return self._end_with(event)
        if not isinstance(type_, str) or not type_.startswith("response."):
            return None
        pieces = self._read(type_, event)
        self._note_said(pieces)
        if self._found:
            self._said.add("tool_calls")
        return pieces

    def end(self) -> list[Piece | Outcome]:
        """Return what is said at the end; see `Decoder`."""
        for index, call in enumerate(self._found.values()):
            self._calls.add({"index": index, **call})
        return super().end()

    def _read(self, type_: str, event: dict[str, Any]) -> Sequence[Piece]:
        if type_ == "response.output_text.delta":
            return (event["delta"],) if event["delta"] else ()
        if type_ in _REASONING:
            return [Delta("reasoning", self._part_thoughts(event) + event["delta"])]
        if type_ == "response.refusal.delta":
            return [self._refuse(event["delta"])]
        if type_.startswith(_ARGUMENTS):
            self._read_arguments(type_, event)
        elif type_ in ("response.output_item.added", "response.output_item.done"):
            self._read_item(event)
        elif type_ in _ENDS:
            return self._end_with(event["response"])
        return ()

    def _part_thoughts(self, event: dict[str, Any]) -> str:
        """Return what stands between two parts of reasoning, each of which is a paragraph."""
        names = ("item_id", "output_index", "summary_index", "content_index")
        part = tuple(event.get(name) for name in names)
        before, self._thought = self._thought, part
        return "" if before in (None, part) else "\n\n"

    def _read_item(self, event: dict[str, Any]) -> None:
        item = event["item"]
        if call := _read_call(item):
            place = _find_place(event, item.get("id"))
            if place not in self._found or event["type"].endswith(".done"):
                self._found[place] = call

    def _read_arguments(self, type_: str, event: dict[str, Any]) -> None:
        place = _find_place(event, event.get("item_id"))
        call = self._found.setdefault(place, {"function": {"name": "", "arguments": ""}})
        said = call.get("function") or call["custom"]
        name = "arguments" if "arguments" in said else "input"
        if type_.endswith(".delta"):
            said[name] += event["delta"]
        else:
            said[name] = event.get(name, said[name])

    def _end_with(self, response: dict[str, Any]) -> Sequence[Piece]:
        """Take the whole response, at its end: what of it has not been said yet."""
        status = response.get("status", "completed")
        if status in ("failed", "cancelled"):
            self.has_failed = True
            error = response.get("error") or f"The response has {status}."
            raise map_stream_error(error, self._key, is_midway=self.has_spoken)
        self._count(response.get("usage"))
        pieces = [*self._read_output(response.get("output") or ())]
        self._note_said(pieces)
        self._finish_reason = "stop"
        if status == "incomplete":
            reason = (response.get("incomplete_details") or {}).get("reason")
            self._finish_reason = _REASONS.get(str(reason), str(reason or status))
        self.is_whole = self.is_over = True
        return pieces

    def _read_output(self, output: Sequence[dict[str, Any]]) -> Iterator[Piece]:
        """Yield what has not been said yet; services repeat what was."""
        said = {*self._said}
        calls = {place: call for place, item in enumerate(output) if (call := _read_call(item))}
        if calls and (self._place or not self._found):  # read on, it may have seen a part of them
            self._found = calls
        for item in output:
            is_thought = item.get("type") == "reasoning"
            for part in [*(item.get("summary") or ()), *(item.get("content") or ())]:
                refusal, text = part.get("refusal"), part.get("text")
                if refusal:
                    told = self._refuse(refusal)
                    if "refusal" not in said:
                        yield told
                elif text and ("reasoning" if is_thought else "content") not in said:
                    yield Delta("reasoning", text) if is_thought else text


def _read_call(item: dict[str, Any]) -> dict[str, Any] | None:
    """Return an output item in the shape of chat completions, if it is a call of a tool."""
    if item.get("type") not in ("function_call", "custom_tool_call"):
        return None
    kind, name = (
        ("function", "arguments") if item["type"] == "function_call" else ("custom", "input")
    )
    said = {"name": item.get("name") or "", name: item.get(name) or ""}
    return {"id": item.get("call_id") or item.get("id"), kind: said}


def _find_place(event: dict[str, Any], item_id: object) -> object:
    index = event.get("output_index")
    return item_id if index is None else index
