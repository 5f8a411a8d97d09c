"""What an attempt has produced and no flush has taken yet; no I/O."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from longtask_kit.log.events import TEXT_TYPES, EventType, encode_entry

MAX_ENTRY_CHARS = 65_536
"""Of a text; JavaScript readers give up on a line of 1 MiB."""


class _Piece(NamedTuple):
    type: EventType
    text: str
    name: str | None


class Buffer:
    """Deltas and events of JSON, in order.

    Attributes:
        chars: How much is in it.
    """

    def __init__(self) -> None:
        self.chars = 0
        self._pieces: deque[_Piece] = deque()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, type_: EventType, text: str, name: str | None = None) -> None:
        """Put one in at the end."""
        self._pieces.append(_Piece(type_, text, name))
        self.chars += len(text)

    def take(self) -> list[list[str]]:
        """Take entries out, at most of the size of a large one in all; deltas of a kind are one."""
        entries: list[list[str]] = []
        left = MAX_ENTRY_CHARS
        while self._pieces and (not entries or len(self._pieces[0].text) <= left):
            type_, text, name = self._pop()
            texts = [text]
            left -= len(text)
            while type_ in TEXT_TYPES and self._goes_on(type_, left):
                texts.append(self._pop().text)
                left -= len(texts[-1])
            entries.append(encode_entry(type_, "".join(texts), tokens=len(texts), name=name))
        return entries

    def _goes_on(self, type_: EventType, left: int) -> bool:
        return bool(self._pieces) and (
            self._pieces[0].type == type_ and len(self._pieces[0].text) <= left
        )

    def _pop(self) -> _Piece:
        piece = self._pieces.popleft()
        self.chars -= len(piece.text)
        return piece
