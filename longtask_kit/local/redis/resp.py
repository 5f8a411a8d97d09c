"""RESP2, both ways: commands to bytes, bytes to replies that keep what kind they were.

redis-py's own parser gives `+OK` and a stored "OK" as the same bytes; Upstash encodes them
differently (section 3 of `wire/upstash_redis.md`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Command: TypeAlias = "list[bytes]"
Reply: TypeAlias = "bytes | int | list[Reply] | None"


class Status(bytes):
    """A simple status such as `OK`, as opposed to a stored value."""

    __slots__ = ()


class Failure(bytes):
    """An error's text, code first."""

    __slots__ = ()


class BrokenReplyError(Exception):
    """The bytes are no RESP2: nothing that comes after them can be trusted."""


def pack(commands: Iterable[Command]) -> bytes:
    """Return commands in RESP; redis-py's own packing would split a name at its spaces."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        pieces += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in command]
    return b"".join(pieces)


class ReplyParser:
    """Turns the bytes of one connection into replies, whatever pieces they come in.

    What an array has so far is kept between the pieces, so a long one is not read twice.
    """

    def __init__(self) -> None:
        self._unread: bytes | bytearray = b""
        self._open: list[tuple[list[Reply], int]] = []  # arrays, each with its length

    @property
    def is_between_replies(self) -> bool:
        """Whether all that was fed has been returned."""
        return not self._unread and not self._open

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that end in `data`.

        Raises:
            BrokenReplyError: It is no RESP2.
        """
        buffer: bytes | bytearray = data
        if self._unread:
            buffer = bytearray(self._unread) if type(self._unread) is bytes else self._unread
            buffer += data
        done: list[Reply] = []
        position = 0
        while (end := buffer.find(b"\r\n", position)) >= 0:
            try:
                position, value = self._read_item(buffer, position, end)
            except ValueError as exc:
                raise BrokenReplyError(bytes(buffer[position : position + 40])) from exc
            if value is _INCOMPLETE:
                break
            if value is not _OPENED:
                self._place(value, done)
        self._unread = buffer[position:] if position else buffer
        return done

    def _read_item(
        self, buffer: bytes | bytearray, position: int, end: int
    ) -> tuple[int, Reply | object]:
        """Return where the next item begins and what this one is."""
        kind = buffer[position]
        if kind == 36:  # $
            size = int(buffer[position + 1 : end])
            if size < 0:
                return end + 2, None
            stop = end + 2 + size
            if len(buffer) < stop + 2:
                return position, _INCOMPLETE
            return stop + 2, bytes(buffer[end + 2 : stop])
        if kind == 58:  # :
            return end + 2, int(buffer[position + 1 : end])
        if kind == 43:  # +
            return end + 2, Status(buffer[position + 1 : end])
        if kind == 45:  # -
            return end + 2, Failure(buffer[position + 1 : end])
        if kind == 42:  # *
            size = int(buffer[position + 1 : end])
            if size > 0:
                self._open.append(([], size))
                return end + 2, _OPENED
            return end + 2, ([] if size == 0 else None)
        raise ValueError(kind)

    def _place(self, value: Reply | object, done: list[Reply]) -> None:
        """Put a value where it belongs, and every array that it completes."""
        while self._open:
            items, size = self._open[-1]
            items.append(value)  # type: ignore[arg-type]
            if len(items) < size:
                return
            self._open.pop()
            value = items
        done.append(value)  # type: ignore[arg-type]


_INCOMPLETE = object()
_OPENED = object()
