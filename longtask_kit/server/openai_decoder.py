"""What the decoders of both APIs share: what has been said so far, and how it ended."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import NonRetryableError
from longtask_kit.server.handlers import Delta, Keep, Outcome, Replayed, read_usage
from longtask_kit.server.openai_calls import CallJoiner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from longtask_kit.log.events import Usage

Piece = str | Delta | Keep | Replayed
"""What one event says: text of the answer, something beside it, or where it stands."""


class Decoder(ABC):
    """Reads the events of one answer, in order.

    Args:
        key: The API key; should an error quote it, it is not stored.
        goes_on: It is the rest of an answer.
        place: Where that one was, of a source that told it.

    Attributes:
        is_whole: The model said that its answer is complete; nothing later can undo that.
        is_over: Nothing follows that counts.
    """

    def __init__(
        self, key: str = "", *, goes_on: bool = False, place: Mapping[str, Any] | None = None
    ) -> None:
        del goes_on  # to some it is all the same
        self._place = dict(place or {})
        self.is_whole = self.is_over = False
        self._said: set[str] = set()  # kinds of pieces: `content`, or a Delta's type
        self._key = key
        self._calls = CallJoiner()
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._is_refused = False

    @property
    def has_spoken(self) -> bool:
        """Whether something of the answer has come."""
        return bool(self._said)

    @abstractmethod
    def find_plain_text(self, event: dict[str, Any]) -> str:
        """Return the text of an event that holds nothing else, as nearly all do: the fast way."""

    @abstractmethod
    def feed(self, event: dict[str, Any]) -> Sequence[Piece] | None:
        """Return what an event says; None for an object of another kind.

        Raises:
            RetryableError: It tells of an error that may pass.
            NonRetryableError: It tells of one that will not.
        """

    def end(self) -> list[Piece | Outcome]:
        """Return what is said at the end: the complete tool calls, and the outcome."""
        calls = [Delta("tool_calls", self._calls.to_json())] if self._calls else []
        return [*calls, Outcome(usage=self._usage, finish_reason=self._name_end())]

    def _note_said(self, pieces: Iterable[Piece]) -> None:
        """Note what kinds have come: some services repeat at the end all that they said."""
        for piece in pieces:
            if isinstance(piece, str):
                self._said.add("content")
            elif isinstance(piece, Delta):
                self._said.add(piece.type)

    def _refuse(self, text: str) -> Delta:
        self._is_refused = True
        return Delta("refusal", text)

    def _count(self, counted: object) -> None:
        with contextlib.suppress(NonRetryableError):  # an odd usage must not cost the answer
            self._usage = read_usage(counted)

    def _name_end(self) -> str | None:
        """Return the finish reason; some say `stop` whatever it was."""
        if self._finish_reason in (None, "stop", "function_call"):
            if self._calls:
                return "tool_calls"
            if self._is_refused:
                return "refusal"
        return self._finish_reason
