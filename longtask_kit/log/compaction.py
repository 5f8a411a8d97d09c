"""The entries of a compacted log, taken apart again into the events that were merged.

`lua/compact.lua` merges the text of an ended task. A merged entry has the id and time of its last
piece, and a field `p` beside `d` and `t`: for each piece its bytes of UTF-8, the milliseconds since
the piece before it (0 for the first), and its tokens where they are not 1. `5 0,6 20,11 40 2` are
three pieces of 5, 6 and 11 bytes within 60 ms, the last one of two tokens.
"""

from __future__ import annotations

import re

from longtask_kit.log.events import Cursor, TaskEvent, decode_entry, from_ms, to_ms

_PIECES = "p"
_PIECE = re.compile(r"([0-9]+) (-?[0-9]+)(?: ([0-9]+))?")
_PIECES_LISTED = re.compile(f"{_PIECE.pattern}(?:,{_PIECE.pattern})*")


def expand_entry(entry: list[str], *, after: Cursor) -> list[TaskEvent]:
    """Read an entry of a log, merged or not: its events after a cursor.

    Raises:
        ValueError: It is not an entry of ours, or its pieces don't add up.
    """
    merged = decode_entry(entry)
    names = entry[1::2]
    if _PIECES not in names:
        return [merged]
    listed = entry[2::2][names.index(_PIECES)]
    text = merged.data.encode()
    pieces = _read_pieces(listed)
    seq = merged.cursor.seq - len(pieces)
    if merged.type != "content" or seq < 0 or sum(length for length, *_ in pieces) != len(text):
        raise ValueError(f"expected {len(text)} bytes of text in pieces, got {listed[:80]!r}")
    time_ms = to_ms(merged.time) - sum(gap_ms for _, gap_ms, _ in pieces)
    events: list[TaskEvent] = []
    at = 0
    for length, gap_ms, tokens in pieces:
        seq, start, at, time_ms = seq + 1, at, at + length, time_ms + gap_ms
        cursor = Cursor(merged.cursor.attempt, seq)
        if cursor > after:
            data, time = text[start:at].decode(), from_ms(time_ms)
            events.append(
                TaskEvent(type="content", cursor=cursor, time=time, data=data, tokens=tokens)
            )
    return events


def _read_pieces(listed: str) -> list[tuple[int, int, int]]:
    """Return each piece's bytes, milliseconds since the one before, and tokens."""
    if not _PIECES_LISTED.fullmatch(listed):
        raise ValueError(f"expected pieces like '5 0,6 20', got {listed[:80]!r}")
    found = _PIECE.findall(listed)
    return [(int(length), int(gap_ms), int(tokens or 1)) for length, gap_ms, tokens in found]
