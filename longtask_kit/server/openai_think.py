"""Reasoning that stands in the answer's text: `<think>…</think>` at its beginning."""

from __future__ import annotations

from longtask_kit.server.handlers import Delta

_OPEN, _CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Tells reasoning from answer; where a tag may be cut, text waits for what follows.

    Attributes:
        is_over: What follows is the answer, whatever it holds.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._held = ""
        self._is_open = False
        self._is_closed = False
        self._at_edge = True  # where line breaks around the tags are no text

    def feed(self, text: str) -> list[str | Delta]:
        """Return what is certain of the text so far."""
        self._held += text
        pieces: list[str | Delta] = []
        if not self._is_open:
            start = self._held.lstrip()
            if not start.startswith(_OPEN):
                return [] if _OPEN.startswith(start) else self._give_all()
            self._is_open, self._held = True, start[len(_OPEN) :]
        if not self._is_closed:
            self._read_reasoning(pieces)
        if self._is_closed and (answer := self._held.lstrip()):
            self._held = answer
            pieces += self._give_all()
        return pieces

    def end(self) -> list[str | Delta]:
        """Return what still waits."""
        if self._is_open and not self._is_closed:
            held, self._held = self._held, ""
            return [Delta("reasoning", held)] if held else []
        return [] if self._is_closed else self._give_all()

    def _read_reasoning(self, pieces: list[str | Delta]) -> None:
        if self._at_edge:
            self._held = self._held.lstrip()
        reasoning, tag, after = self._held.partition(_CLOSE)
        if tag:
            self._is_closed, self._held = True, after
        else:
            kept = _cut_tag(reasoning)
            reasoning, self._held = (
                reasoning[: len(reasoning) - kept],
                reasoning[-kept:] if kept else "",
            )
        if reasoning:
            self._at_edge = False
            pieces.append(Delta("reasoning", reasoning))

    def _give_all(self) -> list[str | Delta]:
        self.is_over = True
        held, self._held = self._held, ""
        return [held] if held else []


def _cut_tag(text: str) -> int:
    """Return how many characters at the end may begin the closing tag."""
    return next((n for n in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:n])), 0)
